"""A cohort shared by several devices gives what one device gives, newcomers and their optimizers too."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pfljax.algorithms import METHODS
from pfljax.engine import mesh
from tests.zoo import FEDERATED, FIRSTS, OPTIMIZERS

SHARED = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from pfljax import engine
from pfljax.federation import sampling
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.learning.tasks import classification
from tests.zoo import LAYERED, MODEL, OPTIMIZERS, double, federation, recipe_of

devices = jax.devices()
assert len(devices) == int(sys.argv[1])
cohort = sampling.stragglers(sampling.dropouts(sampling.uniform(5), 0.2), 0.5)


def experiment(case):
    name, optimizer = case.split()
    model = LAYERED if optimizer == "adam" else MODEL
    return double(classification(model)), recipe_of(name, OPTIMIZERS[optimizer], model)


def floats(leaf):
    return np.asarray(leaf, float)


def gap(first, *others):
    gaps = [0.0]
    for other in others:
        for a, b in zip(*map(jax.tree.leaves, jax.tree.map(floats, (first, other))), strict=True):
            np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
            gaps += np.abs(a - b)[np.isfinite(a)].tolist()
    return max(gaps)
"""

CLIENTS = """
def shown(case):
    (task, recipe), key = experiment(case), jax.random.key(3)
    for executor, store, some in (("vmap", "device", devices[:1]), (1, "device", None), (2, "host", None)):
        options = {"cohort": cohort, "executor": executor, "store": store, "devices": some}
        run = engine.Simulation(task, recipe.make, federation(), **options)
        state, _ = run.run(run.init(key), key, 3)
        yield jax.tree.leaves((state, run.evaluate(state, key), run.personalized(state, key)))

print(json.dumps({case: gap(*shown(case)) for case in sys.argv[2:]}))
"""

POINTS = """
def scores(case):
    task, recipe = experiment(case)
    points = [
        Point(seed, {hyper: factor * value for hyper, value in recipe.hyper.items()})
        for seed, factor in ((0, 1.0), (1, 0.9), (2, 1.0))
    ]
    for at_once, some in ((1, devices[:1]), (2, devices)):
        options = {"rounds": 3, "eval_every": 2, "cohort": cohort, "at_once": at_once, "devices": some}
        results = dict(simulate_many(task, recipe.make, federation(), points, **options))
        yield [results[place].scores for place in range(3)]

print(json.dumps({case: gap(*scores(case)) for case in sys.argv[2:]}))
"""


def takes(optimizer: str, name: str) -> bool:
    """Whether clients of the method descend by an optimizer that can be chosen."""
    chosen = {"local", "optimizer"} & inspect.signature(METHODS[name].factory).parameters.keys()
    return optimizer == "sgd" or bool(chosen)


BY_OPTIMIZER = {
    optimizer: [
        f"{name} {optimizer}" for name in (FEDERATED if optimizer == "sgd" else FIRSTS) if takes(optimizer, name)
    ]
    for optimizer in OPTIMIZERS
}
_AT_ONCE = 15  # methods of one process
PARTS = {
    f"{optimizer}, {first // _AT_ONCE}": cases[first : first + _AT_ONCE]
    for optimizer, cases in BY_OPTIMIZER.items()
    for first in range(0, len(cases), _AT_ONCE)
}


@pytest.mark.skipif(not mesh.SHARDS_CONVOLUTIONS, reason="this jax trains on one device")
@pytest.mark.parametrize(
    ("program", "devices", "cases"),
    [
        pytest.param(CLIENTS, 2, ["fedamp momentum"], id="clients"),
        pytest.param(POINTS, 2, ["fedamp momentum", "apfl adam"], id="points", marks=pytest.mark.slow),
        *(
            pytest.param(CLIENTS, 4, cases, id=f"clients of all, {part}", marks=pytest.mark.slow)
            for part, cases in PARTS.items()
        ),
        pytest.param(POINTS, 4, [f"{name} sgd" for name in FIRSTS], id="points of each family", marks=pytest.mark.slow),
    ],
)
def test_several_devices_give_what_one_gives(program: str, devices: int, cases: list[str]):
    """Float64, three rounds: the largest difference of any number, method by method and optimizer by optimizer. The
    clients of one run are spread over the devices, and live there or on the host; or those of each of the points that
    run at once, fewer than there are devices."""
    quick = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # most of the time is compiling
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | quick
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", SHARED + program, str(devices), *cases]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gaps = json.loads(done.stdout)
    assert gaps.keys() == set(cases)
    assert {case: gap for case, gap in gaps.items() if gap > 1e-9} == {}
