"""FedPHP."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, losses, plans, tasks
from pfljax.types import Model
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import axpy, close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
SCALES = (10, 15, 20, 50)


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def played(algorithm: Any) -> play.Played:
    return play.play(TASK, algorithm, network.data(), network.ROUNDS, cohort=network.COHORT)


def hidden(w: reference.Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def discrepancy(z: np.ndarray, u: np.ndarray) -> tuple[float, np.ndarray]:
    """MMD^2 pair by pair, and its gradient in z."""
    n, value, slope = len(z), 0.0, np.zeros_like(z)
    for a in SCALES:
        for s in range(n):
            for t in range(n):
                same, own, cross = (
                    np.exp(-np.sum((p - r) ** 2) / (2 * a)) / n**2
                    for p, r in ((z[s], z[t]), (u[s], u[t]), (z[s], u[t]))
                )
                value += same + own - 2 * cross
                slope[s] += -2 * same * (z[s] - z[t]) / a + 2 * cross * (z[s] - u[t]) / a
    return value, slope


def fedphp(f: reference.Federation, w: Any, *, lr: float, mu: float, lam: float) -> tuple[Any, list]:
    """The server's model and what clients inherit."""
    u = [w] * 5
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y = w
            for rows in f.batches(t, i, 0):
                z = hidden(y, rows[0])
                inner = discrepancy(z, hidden(u[i], rows[0]))[1] * (1 - z**2)
                taught = {"W1": rows[0].T @ inner, "b1": inner.sum(0), "W2": 0 * y["W2"], "b2": 0 * y["b2"]}
                y = axpy(-lr * (1 - lam), f.gradient(y, rows), axpy(-lr * lam, taught, y))
            results.append(y)
            u[i] = {name: mu * u[i][name] + (1 - mu) * y[name] for name in y}
        w = reference.average(results, [f.sizes[i] for i in cohort])
    return w, u


def test_fedphp_against_loops():
    hyper: Any = {"mu": 0.7, "lam": 0.6}
    run, f = played(algorithms.fedphp(TASK, solver(), MODEL, **hyper)), network.federation()
    start = network.flat(run.start.server.params.trainable)
    w, u = fedphp(f, start, lr=network.LR, **hyper)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), w)
    deployed = run.personalized().trainable
    for i in range(5):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], deployed)
        play.assert_trees_close(network.flat(own), u[i])


def test_published_numbers():
    x, y = np.array([[0.0, 0], [1, 0]]), np.array([[0.0, 1], [2, 0]])
    close(discrepancy(x, y)[0], 0.121950067051)
    close(losses.discrepancy(jnp.asarray(x), jnp.asarray(y), jnp.ones(2)), 0.121950067051)
    # Padding counts for nothing
    x, y = (jnp.asarray(np.vstack([part, np.full((2, 2), 7.0)])) for part in (x, y))
    close(losses.discrepancy(x, y, jnp.array([1.0, 1, 0, 0])), 0.121950067051)
    # Inheritance: after one round of five steps from 0
    task = q.task()
    model = Model(task.init, lambda params, x, **_: (x["c"], {}), lambda params, z, **_: (z, {}))
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    run = play.play(task, algorithms.fedphp(task, solve, model, mu=0.3, lam=0.0), q.data())
    close(run.state.clients.trainable["w"][0], (0.286657, 0))


def test_without_a_teacher_the_server_is_that_of_fedavg_and_without_memory_the_last_model_is_deployed():
    run, f = played(algorithms.fedphp(TASK, solver(), MODEL, mu=0.0, lam=0.0)), network.federation()
    w = network.flat(run.start.server.params.trainable)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), reference.fedavg(f, w, lr=network.LR))
    once = [i for i in f.cohorts[0] if sum(i in cohort for cohort in f.cohorts) == 1]
    assert once
    for i in once:
        own = jax.tree.map(lambda leaf, i=i: leaf[i], run.personalized().trainable)
        play.assert_trees_close(network.flat(own), reference.descend(w, f.gradient, f.batches(0, i, 0), network.LR))


def test_what_it_needs():
    with pytest.raises(ValueError, match="fedphp compares features, and the model has none"):
        algorithms.fedphp(TASK, solver(), MODEL._replace(features=None))
