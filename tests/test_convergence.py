"""Methods learn real data: as well as an independent classifier where they should, better than their baselines."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pfljax import experiment
from pfljax.data import FederatedData, load
from pfljax.experiment.config import Choice, Config, DataConfig, RunConfig
from pfljax.experiment.recipe import SolverConfig


def pooled(data: FederatedData, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a split."""
    rows = getattr(data, split)
    where = np.concatenate([np.arange(a, a + n) for a, n in zip(rows.start, rows.size, strict=True)])
    x, y = np.asarray(data.examples.x)[where], np.asarray(data.examples.y)[where]
    return x.reshape(len(x), -1) / 127.5 - 1, y


def test_a_linear_model_by_fedavg_is_as_good_as_one_fitted_to_all_data():
    config = Config(
        data=DataConfig(partition=Choice("iid", {"clients": 10})),
        model=Choice("logistic"),
        local=SolverConfig(lr=0.1, epochs=2, batch_size=20),
        run=RunConfig(rounds=150, eval_every=150),
    )
    data = experiment.load_data(config.data)
    reference = LogisticRegression(max_iter=1000).fit(*pooled(data, "train")).score(*pooled(data, "test"))
    result = experiment.run(config, data=data)
    assert result.summary()["global"]["weighted_mean"] > reference - 0.02


@pytest.mark.slow
def test_personalization_beats_sharing_and_solitude_on_unlike_clients():
    config = Config(run=RunConfig(rounds=30, eval_every=30), tune=SolverConfig(epochs=5))
    names = ["local_only", "fedavg", "fedavg_finetuned", "apfl"]
    means = {name: run.summary()["personal"]["mean"] for name, run in experiment.compare_methods(config, names).items()}
    assert min(means["fedavg_finetuned"], means["apfl"]) > max(means["local_only"], means["fedavg"])


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_fashion_mnist_rewards_personal_heads():
    """Dirichlet(0.1): one model must serve all clients, a head of its own serves each; PFLlib's table has 12 points."""
    try:
        load("fashion_mnist", source="files")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    config = Config(
        data=DataConfig(name="fashion_mnist", test="pooled"),
        local=SolverConfig(lr=0.005, batch_size=10, drop_last=True),
        run=RunConfig(rounds=10, eval_every=10),
    )
    runs = experiment.compare_methods(config, ["fedavg", "fedper", "fedrep"])
    means = {name: run.summary()["personal"]["mean"] for name, run in runs.items()}
    assert means["fedper"] > means["fedavg"] + 0.1
    assert means["fedrep"] > means["fedavg"] + 0.1
