"""Per-FedAvg and Reptile."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK, ALPHA = q.task(), 0.1
EXACT = [(-0.81, 0), (0, -1.62), (0.76875, -0.49375)]
FIRST = [(-0.9, 0), (0, -1.8), (0.875, -0.5)]


def per_fedavg(task, order, *, alpha=ALPHA, lr=0.3, capacity=60):
    plan = plans.full_batch(1, capacity)
    return algorithms.per_fedavg(task, local.descent(optax.sgd(lr), plan), plan, alpha=alpha, order=order)


# Differences of gradients at distance 1e-3 lose about three digits
@pytest.mark.parametrize(
    ("order", "directions", "limit", "atol"),
    [
        ("exact", EXACT, (-0.052162412365, 0.744414399091), 1e-12),
        ("first", FIRST, (-0.062172284644, 0.688389513109), 1e-12),
        ("hessian_free", EXACT, (-0.052162412365, 0.744414399091), 1e-11),
    ],
    ids=["exact", "first", "hessian_free"],
)
def test_per_fedavg(order, directions, limit, atol):
    build = per_fedavg(TASK, order)
    first = play.play(TASK, build, q.data()).state.server.params.trainable["w"]
    close(first, -0.3 * np.mean(directions, axis=0), atol)
    last = play.play(TASK, build, q.data(), 200)
    close(last.state.server.params.trainable["w"], limit, atol)
    close(last.personalized().trainable["w"], q.descended(np.array(limit), q.A, q.C, ALPHA, 1), atol)


def test_meta_optimum_of_random_quadratics():
    matrices, centers, sizes = q.random(5)
    task = q.task(np.zeros(3))
    run = play.play(task, per_fedavg(task, "exact", alpha=0.25), q.data(matrices, centers, sizes), 400)
    left = np.eye(3) - 0.25 * matrices
    expected = q.weighted(np.full(4, 0.25), left @ matrices @ left, centers)
    close(run.state.server.params.trainable["w"], expected)


@pytest.mark.parametrize(("order", "atol"), [("exact", 1e-12), ("first", 1e-12), ("hessian_free", 1e-10)])
def test_per_fedavg_against_loops(order, atol):
    """Curvature by complex steps there; some last batches have one row, which is support and query."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    adapt = plans.full_batch(2, 14)
    run = network.train(algorithms.per_fedavg(network.task(), solve, adapt, alpha=0.3, order=order))
    f, start = network.federation(), run.start.server.params.trainable
    expected = reference.per_fedavg(f, start, lr=network.LR, alpha=0.3, order=order)
    play.assert_trees_close(run.state.server.params.trainable, expected, atol)
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, reference.descend(expected, f.gradient, [f.everything[i]] * 2, 0.3), atol)


def test_reptile():
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    simulation = play.play(
        TASK, lambda server_lr: algorithms.reptile(TASK, solve, solve, server_lr=server_lr), q.data(), server_lr=0.5
    )
    w = simulation.state.server.params.trainable["w"]
    close(w, (0.00287796875, 0.177253333333))
    close(simulation.personalized().trainable["w"], q.descended(w, q.A, q.C, q.LR, q.STEPS))


@pytest.mark.parametrize("server_lr", [0.5, 1.0])
def test_the_fixed_point_of_reptile_does_not_depend_on_its_rate(server_lr):
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    build = algorithms.reptile(TASK, solve, solve, server_lr=server_lr)
    run = play.play(TASK, build, q.data(), 200)
    contraction = q.I2 - np.stack([np.linalg.matrix_power(q.I2 - q.LR * a, q.STEPS) for a in q.A])
    close(run.state.server.params.trainable["w"], q.weighted(np.full(3, 1 / 3), contraction, q.C))
