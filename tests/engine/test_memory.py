"""What a round holds at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import tree
from pfljax.data import from_clients
from pfljax.engine import memory
from pfljax.types import Array, State

FEATURES, CLIENTS = 4096, 64
MODEL = pfl.models.logistic((FEATURES,), 10)
TASK = pfl.classification(MODEL)
LOCAL = pfl.descent(optax.sgd(0.1), pfl.full_batch(1, 1))
UPLOAD = tree.nbytes(jax.eval_shape(TASK.init, jax.random.key(0)))


def needed(cohort: int, reduce: pfl.Reduce) -> int:
    """Bytes of the program of a round, beyond state and data."""
    data = from_clients([(np.zeros((1, FEATURES), np.uint8), np.array([n % 10])) for n in range(CLIENTS)])
    method = pfl.algorithms.fedavg(TASK, LOCAL)._replace(reduce=reduce)
    sampler = pfl.sampling.uniform(cohort)
    run = pfl.Simulation(TASK, method, data, cohort=sampler, executor=2, devices=jax.devices()[:1])

    def advance(state: State, key: Array) -> State:
        return run.rounds.advance(lambda number: method, state, key, run.site.train, jnp.asarray(1), 1)[0]

    key = jax.random.key(0)
    state = run.init(key)
    return memory.needed(jax.jit(advance, donate_argnums=0).lower(state, key).compile())


def mean_of_all(uploads: pfl.Params, weights: Array) -> pfl.Params:
    return jax.tree.map(lambda leaf: jnp.tensordot(weights / jnp.sum(weights), leaf, 1), uploads)


def test_a_mean_of_many_needs_no_more_than_a_mean_of_few():
    """Uploads are added up as they come; kept ones would be 60 more of 160 kB each."""
    assert needed(64, pfl.reduce.mean) - needed(4, pfl.reduce.mean) < UPLOAD


def test_the_measure_sees_uploads_that_are_kept():
    kept = pfl.reduce.stack._replace(lower=mean_of_all)
    assert needed(64, kept) - needed(4, kept) > 50 * UPLOAD


def test_devices_of_a_cpu_share_one_memory(monkeypatch: pytest.MonkeyPatch):
    program = jax.jit(lambda x: x + 1).lower(jnp.zeros(1000)).compile()
    monkeypatch.setattr(memory, "available", lambda device: 5000)
    assert memory.shortage(program, jax.devices()) is None
    assert memory.shortage(program, jax.devices() * 2) == (8000, 5000)
