"""Many small matrices at once: what NumPy finds, and no device that waits for another without end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax.learning import linalg

DRAWN = np.random.default_rng(0).normal(size=(5, 3, 3))
MATRICES = DRAWN @ np.swapaxes(DRAWN, 1, 2) + np.eye(3)

TWO_DEVICES = """
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from pfljax.learning import linalg
everywhere = NamedSharding(jax.make_mesh((2,), ("clients",)), PartitionSpec())
x = jax.device_put(jnp.eye(100) + jax.random.normal(jax.random.key(0), (10, 100, 100)) / 1e3, everywhere)
def many(x):
    found = [jax.vmap(find)(scale * x) for find in (linalg.eigh, linalg.inv) for scale in (1.0, 2.0)]
    return sum(map(jnp.sum, jax.tree.leaves(found)))
whole = {"in_specs": PartitionSpec(), "out_specs": PartitionSpec(), "check_vma": False}
program = jax.jit(jax.shard_map(many, mesh=everywhere.mesh, **whole))
for _ in range(20):
    jax.block_until_ready(program(x))
"""


@pytest.mark.usefixtures("x64")
def test_many_are_those_of_numpy():
    values, vectors = jax.vmap(linalg.eigh)(jnp.asarray(MATRICES))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(MATRICES), rtol=1e-12)
    rebuilt = np.einsum("kij,kj,klj->kil", vectors, values, vectors)
    np.testing.assert_allclose(rebuilt, MATRICES, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(linalg.inv)(jnp.asarray(MATRICES)), np.linalg.inv(MATRICES), rtol=1e-12)
    right = DRAWN[:, 0]
    found = jax.vmap(jax.vmap(linalg.solve, (None, 0)), (0, None))(jnp.asarray(MATRICES), jnp.asarray(right))
    np.testing.assert_allclose(found, np.einsum("kij,lj->kli", np.linalg.inv(MATRICES), right), rtol=1e-10)


@pytest.mark.parametrize("find", [linalg.eigh, linalg.inv])
def test_a_cpu_takes_one_after_the_other(find):
    """No call of LAPACK has a batch, as deep as clients and points may be nested."""
    text = jax.jit(jax.vmap(jax.vmap(find))).lower(jnp.asarray(MATRICES, jnp.float32)[None]).as_text()
    calls = [line for line in text.splitlines() if "lapack" in line]
    assert calls
    assert not [line for line in calls if "tensor<5x3x3" in line or "tensor<1x5x" in line]


@pytest.mark.slow
def test_two_devices_do_not_wait_for_each_other():
    """Batches of LAPACK calls hang here within seconds."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": ""}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", TWO_DEVICES], cwd=root, env=environment, check=True, timeout=300)
