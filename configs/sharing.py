"""What should be personal? Layers from the top, an embedding of each client, adapters: a case for each, on digits.

Paper: Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, asks how many layers (K_P). Data:
1,797 images of 8x8 pixels from scikit-learn, 20 clients with 3 digits each, a quarter of each client's examples kept
for its test. Model: two hidden layers of 64 and 32 units. No publication has these numbers.

    pfljax run --config=configs/sharing.py --config.algorithm.personal=2
    pfljax run --config=configs/sharing.py --config.model.vector=8 --config.algorithm.personal=vector
    python -m experiments.sharing

The program runs all cases, see `experiments/sharing.py`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    return ConfigDict(
        {
            "data": {
                "name": "digits",
                "partition": {"name": "classes_per_client", "clients": 20, "k": 3},
                "test": 0.25,
                "seed": 0,
            },
            "model": {"name": "mlp", "hidden": (64, 32)},
            "algorithm": {"name": "fedper", "personal": 1},
            "local": {"optimizer": "sgd", "lr": 0.05, "epochs": 2, "batch_size": 10},
            "run": {"rounds": 30, "eval_every": 5, "seed": 0},
        }
    )
