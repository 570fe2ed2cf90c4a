"""A cohort shared by four devices gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.federation import FEDERATED

SHARED = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from pfljax import engine, sampling
from pfljax.ensemble import Point, simulate_many
from tests.federation import TASK, double, federation, recipe_of

devices = jax.devices()
assert len(devices) == 4
cohort = sampling.stragglers(sampling.dropouts(sampling.uniform(5), 0.2), 0.5)


def gap(*trees):
    gaps = [0.0]
    for a, b in zip(*map(jax.tree.leaves, jax.tree.map(np.asarray, trees)), strict=True):
        np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
        gaps += np.abs(a - b)[np.isfinite(a)].tolist()
    return max(gaps)
"""

CLIENTS = """
def states(name):
    for executor, some in (("vmap", devices[:1]), ("sequential", None)):
        options = {"cohort": cohort, "executor": executor, "devices": some}
        run = engine.Simulation(double(TASK), recipe_of(name).make, federation(), **options)
        key = jax.random.key(3)
        yield run.run(run.init(key), key, 3)[0]

print(json.dumps({name: gap(*states(name)) for name in sys.argv[1:]}))
"""

POINTS = """
def scores(name):
    recipe, task = recipe_of(name), double(TASK)
    points = [
        Point(seed, {hyper: factor * value for hyper, value in recipe.hyper.items()})
        for seed, factor in ((0, 1.0), (1, 0.9), (2, 1.0))
    ]
    for at_once, some in ((1, devices[:1]), (2, devices)):
        options = {"rounds": 3, "eval_every": 2, "cohort": cohort, "at_once": at_once, "devices": some}
        results = dict(simulate_many(task, recipe.make, federation(), points, **options))
        yield [results[place].scores for place in range(3)]

print(json.dumps({name: gap(*scores(name)) for name in sys.argv[1:]}))
"""


ALWAYS = ["ditto", "fedamp"]


@pytest.mark.parametrize(
    "names", [ALWAYS, pytest.param([name for name in FEDERATED if name not in ALWAYS], marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("program", [CLIENTS, POINTS], ids=["clients", "points"])
def test_four_devices_give_what_one_gives(program: str, names: list[str]):
    """Float64, three rounds: the largest difference of any number, method by method. The clients of one run are spread
    over the devices; or those of each of the points that run at once, fewer than there are devices."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", SHARED + program, *names]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    gaps = json.loads(done.stdout)
    assert gaps.keys() == set(names)
    assert {name: gap for name, gap in gaps.items() if gap > 1e-10} == {}
