"""Fashion-MNIST on twenty unlike clients, in the setting of PFLlib.

Paper: Zhang et al., "PFLlib: A Beginner-Friendly and Comprehensive Personalized Federated Learning Library and
Benchmark", JMLR 2025. Data: training and test images together, 20 clients, Dirichlet(0.1) by label, a quarter of each
client's examples kept for its test. Model: the network of McMahan et al. (582,026 parameters). One local epoch with
batches of 10 and learning rate 0.005, all clients in every round.

    pfljax compare --config=configs/fashion_mnist_dirichlet.py --methods=fedavg,fedper --config.run.rounds=20

Ten to twenty minutes a method on two CPU cores. Expected after these 20 rounds, mean accuracy over clients, one seed
(so no spread yet): fedavg 75.7 %, fedper 96.8 %; over examples 73.5 % and 96.8 %. The 200 rounds below have not been
measured. `--config=configs/fashion_mnist_dirichlet.py:50` makes 50 clients.
"""

from ml_collections import ConfigDict


def get_config(clients: str = "20") -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`.

    Args:
      clients: how many, as text.
    """
    return ConfigDict(
        {
            "data": {
                "name": "fashion_mnist",
                "partition": {"name": "dirichlet", "clients": int(clients), "alpha": 0.1},
                "test": "pooled",
                "seed": 0,
            },
            "model": {"name": "cnn"},
            "algorithm": {"name": "fedavg"},
            "methods": {
                "ditto": {"lam": 0.1},
                "pfedme": {"lr": 0.005, "inner_lr": 0.005, "lam": 15.0},
                "scaffold": {"lr": 0.005},
            },
            "local": {"optimizer": "sgd", "lr": 0.005, "epochs": 1, "batch_size": 10, "drop_last": True},
            "tune": {"epochs": 1},
            "run": {"rounds": 200, "eval_every": 10, "seed": 0},
        }
    )
