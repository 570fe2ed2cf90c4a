"""A cohort shared by four devices gives what one device gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.federation import FEDERATED

PROGRAM = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from pfljax import sampling
from pfljax.engine import Simulation
from tests.federation import TASK, federation, recipe_of

assert len(jax.devices()) == 4
key = jax.random.key(3)
cohort = sampling.stragglers(sampling.dropouts(sampling.uniform(5), 0.2), 0.5)
gaps = {}
for name in sys.argv[1:]:
    finals = []
    for executor, devices in (("vmap", jax.devices()[:1]), ("sequential", None)):
        options = {"cohort": cohort, "executor": executor, "devices": devices}
        run = Simulation(TASK, recipe_of(name).make, federation(), **options)
        state, _ = run.run(run.init(key), key, 3)
        finals.append(jax.tree.map(np.asarray, state))
    leaves = zip(*map(jax.tree.leaves, finals), strict=True)
    gaps[name] = max((float(np.abs(a - b).max()) for a, b in leaves if a.size), default=0.0)
print(json.dumps(gaps))
"""


ALWAYS = ["ditto", "fedamp"]


@pytest.mark.parametrize(
    "names", [ALWAYS, pytest.param([name for name in FEDERATED if name not in ALWAYS], marks=pytest.mark.slow)]
)
def test_four_devices_give_what_one_gives(names: list[str]):
    """The largest difference of any number of the state after three rounds in float64, method by method."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4"}
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    gaps = json.loads(done.stdout)
    assert gaps.keys() == set(names)
    assert {name: gap for name, gap in gaps.items() if gap > 1e-10} == {}
