"""Heart disease in four hospitals, in the setting of FLamby: the federation of most tables on tabular clinical data.

Paper: Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings", NeurIPS 2022. Data: UCI heart disease, FLamby's own patients and splits (199, 172, 30 and 85
train; 104, 89, 16 and 45 test), scaled by each hospital's training patients; see `pfljax.data.heart`. Model: logistic
regression with one logit and PyTorch's initial weights. 15 rounds of 100 steps on batches of 4. The learning rate is
that of FLamby's personalization example, and what is fine-tuned is as there.

    pfljax compare --config=configs/flamby_heart.py --methods=local_only,fedavg,fedavg_finetuned,ditto,apfl
    pfljax reproduce flamby/heart --data=FOLDER --methods=baseline,averaging,proximal

The first needs the data at `$PFLJAX_DATA/heart_disease`, or `--config.data.path=FOLDER`. The second runs every row of
FLamby's table beside ours.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields that are left out have the defaults of `pfljax.experiment.Config`."""
    steps = {"optimizer": "sgd", "lr": 0.00316227, "plan": "steps", "steps": 100, "batch_size": 4}
    return ConfigDict(
        {
            "data": {
                "name": "heart_disease",
                "partition": {"name": "natural"},
                "test": "mirror",
                "standardize": "client",
            },
            "model": {"name": "logistic", "reference": True, "init": "torch"},
            "algorithm": {"name": "fedavg_finetuned"},
            "local": steps,
            "tune": steps,
            "run": {"rounds": 15, "eval_every": 15, "seed": 42},
        }
    )
