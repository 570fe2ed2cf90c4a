"""Real handwritten digits on twenty unlike clients: the comparison that fits into a coffee break.

Data: 1,797 images of 8x8 pixels from scikit-learn, 20 clients, Dirichlet(0.1) by label, a quarter of each client's
examples kept for its test. Model: one hidden layer of 100 units. No publication has these numbers.

    pfljax compare --config=configs/digits_quickstart.py --methods=local_only,fedavg,ditto --out=runs/digits

About five seconds a method on two cores, nearly all of it compilation. Expected: mean test accuracy over clients after
30 rounds in percent, +- its standard deviation over `run.seed` 0 to 4 (same data):

    local_only        92.8 +- 0.3
    fedavg            89.8 +- 1.6
    fedavg_finetuned  96.9 +- 0.5
    fedper            93.8 +- 0.6
    per_fedavg        94.2 +- 1.5
    pfedme            95.1 +- 0.7
    ditto             94.9 +- 0.7
    apfl              94.9 +- 0.4
    centralized       97.5 +- 0.2
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.1},
                "test": 0.25,
                "seed": 0,
            },
            "model": {"name": "mlp", "hidden": (100,)},
            "algorithm": {"name": "ditto"},
            "methods": {
                "ditto": {"lam": 0.5},
                "per_fedavg": {"alpha": 0.01},
                "pfedme": {"lr": 0.06, "inner_lr": 0.05, "lam": 15.0},
            },
            "local": {"optimizer": "sgd", "lr": 0.05, "epochs": 1, "batch_size": 10},
            "tune": {"epochs": 5},
            "run": {"rounds": 30, "eval_every": 3, "seed": 0},
        }
    )
