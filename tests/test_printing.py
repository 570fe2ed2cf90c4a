"""Every public object prints itself in a line, without arrays and addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import optax
import pytest

import pfljax as pfl
from pfljax import experiment
from tests import zoo as federation

DATA = federation.federation()
TASK = federation.TASK
LOCAL = pfl.descent(optax.sgd(0.1), pfl.full_batch(1, 16))
SIMULATION = pfl.Simulation(
    TASK, pfl.algorithms.ditto(TASK, LOCAL, LOCAL, lam=0.5), DATA, devices=jax.devices()[:1], executor=4
)


def start(key: jax.Array) -> pfl.State:
    return SIMULATION.rounds.init(SIMULATION.site.algorithm({}), key, SIMULATION.site.train)


SHOWN: dict[str, Any] = {
    "Params(trainable={'layers_0'": TASK.init(jax.random.key(0)),
    "Model(init=from_linen, features=linen, head=linen, blocks=(": federation.MODEL,
    "Task(init=from_linen, loss=task, predict=task, metrics=(Metric(name='accuracy', sum=mean": TASK,
    "client_update=ditto": pfl.algorithms.ditto(TASK, LOCAL, LOCAL, lam=0.5),
    "Plan(steps=epochs, batch=epochs)": pfl.epochs(1, 10),
    "Sampled(first=full, then=": pfl.sampling.dropouts(pfl.sampling.full(), 0.5),
    "ServerOptimizer(init=fedopt, step=fedopt)": pfl.fedopt(optax.sgd(1.0)),
    "Method(factory=ditto, family='proximal', sweep={'lam': (0.01, 2.0)}": pfl.METHODS["ditto"],
    "FederatedData('clients': 6 clients and 1 unseen, 108 examples, 4 classes, x=float32[108,8])": DATA,
    "Dataset('digits': 1,797 examples, 10 classes, x=uint8[1797,8,8,1])": pfl.load("digits"),
    "Simulation(ditto, FederatedData('clients'": SIMULATION,
    "4 at once on": SIMULATION,
    "Ensemble(Simulation(averaging": pfl.Ensemble(TASK, pfl.algorithms.fedavg(TASK, LOCAL), DATA, rounds=2),
    "State(server=": jax.eval_shape(start, jax.random.key(0)),
    "Config(algorithm.name='ditto', algorithm.lam=0.5, run.rounds=7)": experiment.from_config_dict(
        {"algorithm": {"name": "ditto", "lam": 0.5}, "run": {"rounds": 7}}
    ),
}


@pytest.mark.parametrize("text", SHOWN)
def test_one_line(text: str) -> None:
    shown = repr(SHOWN[text])
    assert text in shown
    assert "\n" not in shown
    assert "array(" not in shown
    assert " at 0x" not in shown


def test_large_trees_are_counted() -> None:
    """Sixty layers are not listed."""
    layers = {f"layer {number}": jax.ShapeDtypeStruct((2, 3), float) for number in range(60)}
    assert repr(pfl.Params(layers)) == "Params(trainable=<60 leaves, 360 numbers>, stats={})"


def test_what_is_traced_prints_too() -> None:
    """No value of an array is needed."""
    seen = []
    jax.eval_shape(lambda data: (seen.append(repr(data)), data.train.size)[1], DATA)
    assert seen == [repr(DATA)]


def test_checkpoints_name_their_folder(tmp_path: Path) -> None:
    assert repr(pfl.Checkpoints(tmp_path / "kept")) == f"Checkpoints('{tmp_path / 'kept'}')"
