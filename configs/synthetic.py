"""Synthetic clients whose concepts differ: where a single model must fail and local data are scarce.

Data: synthetic_v2(tau, beta) with 30 clients and 60 features, of log-normal sizes; `tau` is how far the clients' linear
classifiers are apart. The generator follows Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020,
section 5.1, mended so that `tau` does what it says. Model: multinomial logistic regression.

    pfljax compare --config=configs/synthetic.py --methods=local_only,fedavg,ditto,apfl --out=runs/synthetic

`--config=configs/synthetic.py:2.0` sets tau.
"""

from ml_collections import ConfigDict


def get_config(tau: str = "0.5") -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`.

    Args:
      tau: spread of the concepts, as text.
    """
    return ConfigDict(
        {
            "data": {
                "name": "synthetic_v2",
                "options": {"tau": float(tau), "beta": 0.5, "clients": 30},
                "partition": {"name": "natural"},
                "test": 0.25,
                "seed": 0,
            },
            "model": {"name": "logistic"},
            "algorithm": {"name": "ditto"},
            "methods": {"ditto": {"lam": 0.1}, "apfl": {"alpha": 0.5}},
            "local": {"optimizer": "sgd", "lr": 0.01, "epochs": 1, "batch_size": 10},
            "run": {"rounds": 50, "eval_every": 5, "seed": 0},
        }
    )
