"""Methods and models by name: the bits of the same things as values, the sentences of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import cli, experiment
from tests.zoo import CLASSES, FEATURES, federation

ANY: Any = pfl  # whose arguments no type checker sees
DATA = federation()
BARE = pfl.from_clients([(np.ones((2, 3), np.float32), np.array([0, 1]))])
MODEL: dict[str, Any] = {"name": "mlp", "hidden": (5,)}
LOCAL: dict[str, Any] = {"lr": 0.1, "batch_size": 4}
METHODS = {"local_only": {}, "fedavg": {}, "ditto": {"lam": 0.5}}


def same(one: pfl.Result, other: pfl.Result) -> None:
    assert one.rounds.tolist() == other.rounds.tolist()
    assert one.scores.keys() == other.scores.keys()
    for name, rows in one.scores.items():
        np.testing.assert_array_equal(rows, other.scores[name], err_msg=str(name))


@pytest.mark.slow
def test_names_and_values_give_the_same_bits() -> None:
    """Once from names, once made by hand from a task and solvers."""
    named = pfl.compare(DATA, MODEL, METHODS, rounds=3, eval_every=2, seed=4, local=LOCAL)
    task = pfl.classification(pfl.models.mlp((FEATURES,), CLASSES, hidden=(5,)))
    local = pfl.descent(optax.sgd(0.1), pfl.epochs(1, batch_size=4))
    made = {
        "local_only": pfl.algorithms.local_only(task, local),
        "fedavg": pfl.algorithms.fedavg(task, local),
        "ditto": pfl.algorithms.ditto(task, local, local, lam=0.5),
    }
    values = pfl.compare(task, made, DATA, rounds=3, eval_every=2, seed=4)
    assert list(named) == list(values) == list(METHODS)
    for name, result in named.items():
        same(result, values[name])
        one, other = (run.models["2"].predict(DATA.examples.x[:3]) for run in (result, values[name]) if run.models)
        np.testing.assert_array_equal(one, other)
    alone = pfl.simulate(DATA, MODEL, {"name": "ditto", "lam": 0.5}, rounds=3, eval_every=2, seed=4, local=LOCAL)
    same(alone, named["ditto"])


def test_names_mean_what_they_mean_on_the_command_line() -> None:
    arguments = ["data.name=digits", "data.partition={'name': 'iid', 'clients': 3}", "model={'name': 'logistic'}"]
    arguments += ["algorithm.name=fedavg", "run.rounds=2", "run.eval_every=2", "local.plan=full_batch"]
    arguments += ["local.lr.schedule=cosine", "local.lr.from=0.5"]
    config = cli.read_config(None, [f"--config.{text}" for text in arguments])
    data = experiment.load_data(config.data)
    local = {"plan": "full_batch", "lr": pfl.schedules.cosine(0.5, rounds=2)}
    result = pfl.simulate(data, "logistic", "fedavg", rounds=2, eval_every=2, local=local)
    same(result, experiment.run(config))
    assert result.config["data"] is None
    assert result.config["model"] == {"name": "logistic"}


class Net(nn.Module):
    """One hidden layer."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.Dense(CLASSES)(nn.tanh(nn.Dense(5)(x)))


def test_a_module_alone_and_a_model_are_the_same() -> None:
    options: dict[str, Any] = {"rounds": 1, "local": LOCAL}
    module = pfl.simulate(DATA, Net(), "fedper", **options)
    same(module, pfl.simulate(DATA, pfl.models.from_linen(Net(), (FEATURES,)), "fedper", **options))
    assert module.config["model"] is None


def test_a_run_by_names_goes_on_in_its_folder(tmp_path: Path) -> None:
    options: dict[str, Any] = {"rounds": 2, "local": LOCAL}
    longer: dict[str, Any] = options | {"rounds": 3}
    changed = dataclasses.replace(DATA, examples=DATA.examples._replace(x=DATA.examples.x + 1), fingerprint="")
    for model in (MODEL, Net()):
        out = tmp_path / type(model).__name__
        first = pfl.simulate(DATA, model, "fedavg", out=out, **options)
        same(pfl.simulate(DATA, model, "fedavg", out=out, resume=True, **options), first)
        with pytest.raises(ValueError, match=r"holds a run on other data|belongs to another run: data"):
            pfl.simulate(changed, model, "fedavg", out=out, resume=True, **options)
        with pytest.raises(ValueError, match="a program gave the federation"):
            pfl.resume(out)
    assert pfl.simulate(DATA, model, "fedavg", out=out, resume=True, **longer).rounds.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="belongs to another run: the algorithm"):
        pfl.simulate(DATA, nn.Dense(CLASSES), "fedavg", out=out, resume=True, **longer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ANY.compare(DATA, "mpl", ["fedavg"]), r"config.model.name='mpl': did you mean 'mlp'"),
        (lambda: ANY.compare(DATA, "mlp", ["fedavg", "dito"]), r"methods='dito': did you mean 'ditto'"),
        (lambda: ANY.compare(DATA, "mlp", "ditto"), r"compare: methods='ditto': it must be a list"),
        (lambda: ANY.compare(DATA, "mlp", []), r"methods=: name at least one"),
        (
            lambda: ANY.compare(DATA, "mlp", {"ditto": {"lma": 1}}),
            r"methods.ditto.lma is no option.*did you mean 'lam'",
        ),
        (lambda: ANY.simulate(DATA, "mlp", "fedavg", rouds=3), r"simulate takes no 'rouds': did you mean 'rounds'"),
        (lambda: ANY.simulate(DATA, "mlp", "fedavg", select="last"), r"simulate takes no 'select'"),
        (lambda: ANY.simulate(DATA, "mlp", "fedavg", rounds=0), r"config.run.rounds=0: it must be a whole number"),
        (
            lambda: ANY.simulate(DATA, "mlp", "fedavg", local={"lrr": 1}),
            r"config.local takes no 'lrr': did you mean 'lr'",
        ),
        (lambda: ANY.simulate(DATA, "mlp", "fedavg", local=0.1), r"config.local=0.1: it must be a section"),
        (lambda: ANY.simulate(DATA, "mlp", "fedavg", tune={"lr": 1.0}), r"config.tune has no effect on fedavg"),
        (lambda: ANY.simulate(BARE, "mlp", "fedavg", patience=2), r"patience=2: no client has validation examples"),
        (lambda: ANY.simulate(DATA, "mlp"), r"simulate: missing a required argument: 'method'"),
        (
            lambda: experiment.run(experiment.Config(), data=DATA, model=Net()),
            r"or given where config.model=None: do one",
        ),
        (lambda: ANY.simulate(DATA, Net, "fedavg"), r"simulate: model is the class Net: it must be"),
        (lambda: ANY.simulate(DATA, "mlp", {"lam": 1.0}), r"config.algorithm lacks a name"),
        (lambda: ANY.simulate("digits", "mlp", "fedavg", rounds=1), r"simulate: task='digits': it must be a task"),
    ],
)
def test_what_cannot_be_meant(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
