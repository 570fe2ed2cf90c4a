"""What should be personal? Layers from the top, an embedding of each client, adapters: a case for each, on digits.

Paper: Arivazhagan et al., "Federated Learning with Personalization Layers", 2019, asks how many layers (K_P). Data:
1,797 images of 8x8 pixels from scikit-learn, 20 clients with 3 digits each, a quarter of each client's examples kept
for its test. Model: two hidden layers of 64 and 32 units. No publication has these numbers.

    pfljax run --config=configs/sharing.py --config.algorithm.personal=2
    pfljax run --config=configs/sharing.py --config.model.vector=8 --config.algorithm.personal=vector
    python -m experiments.sharing

The program runs all cases, see `experiments/sharing.py`, in some five minutes on two cores, nearly all of it
compilation. Mean test accuracy over clients after 30 rounds in percent, one seed (so no spread yet):

    local_only   98.2    each client alone
    top_0        94.0    K_P = 0: FedAvg
    top_1        97.1
    top_2        98.4
    top_3        98.2    K_P = 3: everything
    head_first   96.7    K_P = 1, a pass of the head alone before both
    linear_body  97.8    K_P = 1, hidden layers without ReLU
    lg_fedavg    98.2    the other way round: the top is shared
    vector       94.2    an embedding of each client
    bottleneck   97.3    adapters after the hidden layers
    low_rank     97.1    adapters beside them

After 15 rounds, LG-FedAvg against an adversary that reads from the features whether an image is inverted: accuracy
96.9 % with an adversary that reads 100 % of the test images (lam = 0), 96.2 % with one that reads 46 % (lam = 1). A
probe that is fitted afterwards reads 99.5 %: what is hidden from the adversary is still there.
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
