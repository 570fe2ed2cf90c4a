"""Who gains by adapting a common model? Three ways to federate, four to adapt, against training alone, on digits.

Paper: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020. Data: 1,797 images of 8x8 pixels from
scikit-learn, 20 clients, Dirichlet(0.3) by label (the paper: 100 clients, 0.9), a quarter of each client's examples
kept for its test (the paper weighs the scores of a common test set by the classes of each client). Model: 100 hidden
units. Private is DP-FedAvg without an accountant, with noise that costs accuracy. No publication has these numbers.

    pfljax run --config=configs/salvaging.py --config.algorithm.name=fedavg_distilled
    pfljax run --config=configs/salvaging.py --config.wrappers.reduce=median
    python -m experiments.salvaging

The program runs all cases, see `experiments/salvaging.py`, in two to five minutes on two cores, nearly all of it
compilation. Mean test accuracy over clients after 30 rounds in percent, and in brackets the share of clients that are
better off than alone; one seed (so no spread yet):

                  fedavg         private        median
    common model  96.4 (55 %)    84.2 (5 %)     94.0 (35 %)
    finetuned     96.3 (60 %)    93.0 (35 %)    95.5 (55 %)
    frozen        96.4 (60 %)    93.5 (40 %)    95.3 (55 %)
    distilled     96.7 (55 %)    84.4 (10 %)    95.1 (50 %)
    ewc           97.0 (65 %)    93.0 (35 %)    96.1 (60 %)
    local_only    91.7

As in the paper, those gain most whose common model was worst, under noise and with the median, and who have few
classes: fine-tuning the noisy model gives clients of few classes 10.0 points and the others 5.3.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.3, "min_size": 10},
                "test": 0.25,
                "seed": 0,
            },
            "model": {"name": "mlp", "hidden": (100,)},
            "algorithm": {"name": "fedavg_finetuned"},
            "methods": {"fedavg_ewc": {"lam": 10.0}},
            "cohort": {"sampling": "uniform", "size": 10},
            "local": {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "batch_size": 10},
            "tune": {"lr": 0.05, "epochs": 20, "solver": "proximal_descent"},
            "run": {"rounds": 30, "eval_every": 30, "seed": 0},
        }
    )
