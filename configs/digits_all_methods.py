"""Every method of the table on digits: twenty unlike clients in four groups, with all that any method needs.

Data: 1,797 images of 8x8 pixels from scikit-learn. A tenth is set aside as public examples; the rest goes to 20
clients, Dirichlet(0.1) by label, a quarter of each client's examples for its test and 15 % for its validation. Groups
are found in the shares of the classes. Model: 100 hidden units with layer norm. No publication has these numbers.

    pfljax compare --config=configs/digits_all_methods.py --methods=all --out=runs/all
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "partition": {"name": "dirichlet", "clients": 20, "alpha": 0.1, "min_size": 10},
                "test": 0.25,
                "validation": 0.15,
                "public": 0.1,
                "clusters": 4,
                "seed": 0,
            },
            "model": {"name": "mlp", "hidden": (100,), "norm": "layer"},
            "local": {"optimizer": "sgd", "lr": 0.05, "epochs": 1, "batch_size": 10},
            "tune": {"epochs": 5},
            "run": {"rounds": 30, "eval_every": 30, "seed": 0},
        }
    )
