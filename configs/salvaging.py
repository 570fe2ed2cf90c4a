"""Who gains by adapting a common model? Three ways to federate, four to adapt, against training alone, on digits.

Paper: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020. Data: 1,797 images of 8x8 pixels from
scikit-learn, 20 clients, Dirichlet(0.9) by client, a quarter of each client's examples kept for its test (the paper
weighs the scores of a common test set by the classes of each client). Model: 100 hidden units. No publication has these
numbers.

    pfljax run --config=configs/salvaging.py --config.algorithm.name=fedavg_distilled
    pfljax run --config=configs/salvaging.py --config.wrappers.reduce=median
    python -m experiments.salvaging

The program runs all cases, see `experiments/salvaging.py`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.9, "min_size": 10},
                "test": 0.25,
                "seed": 0,
            },
            "model": {"name": "mlp", "hidden": (100,)},
            "algorithm": {"name": "fedavg_finetuned"},
            "methods": {"fedavg_ewc": {"lam": 10.0}},
            "cohort": {"sampling": "uniform", "size": 10},
            "local": {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "batch_size": 10},
            "tune": {"lr": 0.01, "epochs": 20},
            "run": {"rounds": 30, "eval_every": 30, "seed": 0},
        }
    )
