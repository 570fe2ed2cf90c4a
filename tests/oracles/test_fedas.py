"""FedAS."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.data import from_clients
from pfljax.federation.reduce import by_own, mean, median
from pfljax.learning import local, plans, tasks
from pfljax.types import Model
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)


def hidden(w: reference.Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def fedas(f: reference.Federation, b: Any, own: Any, *, lr: float, align_lr: float, steps: int) -> tuple[Any, list]:
    """The shared body and the clients' models; alignment and T on all examples of a client, so many times."""
    own = list(own)
    for t, cohort in enumerate(f.cohorts):
        bodies, T = [], []
        for i in cohort:
            x, y = f.everything[i]
            old = hidden(own[i], x)
            goal = np.stack([old[y == label].mean(0) for label in y])
            w = {**own[i], **b}
            for _ in range(steps):
                z = hidden(w, x)
                inner = 2 * (z - goal) / z.size * (1 - z**2)
                w = {**w, "W1": w["W1"] - align_lr * x.T @ inner, "b1": w["b1"] - align_lr * inner.sum(0)}
            own[i] = reference.descend(w, f.gradient, f.batches(t, i, 0), lr)
            g = f.gradient(own[i], f.everything[i])
            T.append(steps * reference.inner(g, g))
            bodies.append({name: own[i][name] for name in b})
        b = reference.average(bodies, T)
    return b, own


def test_fedas_against_loops():
    solve, plan = local.descent(optax.sgd(network.LR), network.plan()), plans.full_batch(3, max(network.SIZES))
    build = algorithms.fedas(TASK, solve, plan, MODEL, masks.head(MODEL), align_lr=0.9, init="per_client")
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()
    start = [network.flat(each(run.start.clients.trainable, i)) for i in range(5)]
    assert np.abs(start[0]["W2"] - start[1]["W2"]).max() > 0.1
    b = network.flat(run.start.server.params.trainable)
    assert set(b) == set(network.BODY)
    b, own = fedas(f, b, start, lr=network.LR, align_lr=0.9, steps=3)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), b)
    deployed = run.personalized().trainable
    for i in range(5):
        play.assert_trees_close(network.flat(each(deployed, i)), own[i])


def each(rows: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], rows)


def test_weights_as_published():
    """Nothing is to be aligned where features do not depend on the model."""
    task = q.task()
    model = Model(task.init, lambda params, x, **_: (x["c"], {}), lambda params, z, **_: (z, {}))
    held = [
        ({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n, int))
        for a, c, n in zip(q.A, q.C, q.N, strict=True)
    ]
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    build = algorithms.fedas(task, solve, plans.full_batch(1, 60), model, masks.nothing)
    run = play.play(task, build, from_clients(held))
    close(run.state.server.params.trainable["w"], (-0.021957556474, 0.565250156864))


def test_weights_of_the_clients():
    """Those who did not reply have none; without any it is by examples."""
    rows, n = jnp.array([[1.0], [2.0], [9.0]]), jnp.array([30.0, 10.0, 0.0])
    for reduce in (mean, median):
        for own, expected in ((jnp.array([1.0, 3.0, 7.0]), 1.75), (jnp.zeros(3), 1.25)):
            terms = jax.vmap(by_own(reduce).lift)((own, rows), n)
            total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), terms) if reduce.summed else terms
            close(by_own(reduce).lower(total, n), [expected if reduce is mean else 1.5])


def test_what_it_needs():
    solve = local.descent(optax.sgd(0.1), network.plan())
    with pytest.raises(ValueError, match="fedas aligns features, and the model has none"):
        algorithms.fedas(TASK, solve, network.plan(), MODEL._replace(features=None), masks.head(MODEL))
