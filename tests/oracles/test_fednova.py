"""FedNova."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, plans
from pfljax.types import Plan
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

STEPS = (1, 5, 9)


def unequal() -> Plan:
    return Plan(lambda data: jnp.asarray(STEPS)[data.id], plans.full_batch(1, 60).batch)


def on_quadratics(momentum=None, rounds: int = 1) -> np.ndarray:
    solve = local.descent(optax.sgd(q.LR, momentum), unequal())
    run = play.play(q.task(), algorithms.fednova(q.task(), solve), q.data(), rounds)
    return run.state.server.params.trainable["w"]


def test_published_numbers():
    """One round, without and with momentum, and where it ends."""
    reference.close(on_quadratics(), (-0.096497409238, 0.491371398569))
    reference.close(on_quadratics(0.9), (-0.08072306554, 1.599448424046), 1e-10)
    reference.close(on_quadratics(rounds=600), (-0.223898579603, 0.860001186431))


def test_equal_steps_are_fedavg():
    solve = local.descent(optax.sgd(network.LR, 0.5), plans.full_batch(3, 14))
    nova, fedavg = (network.train(m(network.task(), solve)) for m in (algorithms.fednova, algorithms.fedavg))
    play.assert_trees_close(nova.state.server.params.trainable, fedavg.state.server.params.trainable)


def weight(steps: int, lr: float, momentum: float, mu: float) -> float:
    """`||a||_1` by the paper's formulas."""
    if mu:
        return (1 - (1 - lr * mu) ** steps) / (lr * mu)
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def loop(f: reference.Federation, w: reference.Tree, *, lr: float, momentum: float, mu: float) -> reference.Tree:
    for t, cohort in enumerate(f.cohorts):
        p = f.sizes[cohort] / f.sizes[cohort].sum()
        directions, a = [], []
        for i in cohort:
            batches = f.batches(t, i, 0)
            y = reference.descend(w, reference.proximal(f.gradient, mu, w), batches, lr, momentum=momentum)
            a.append(weight(len(batches), lr, momentum, mu))
            directions.append(reference.axpy(-1 / a[-1], y, {name: leaf / a[-1] for name, leaf in w.items()}))
        w = reference.axpy(-(p @ a), reference.average(directions, p), w)
    return w


@pytest.mark.parametrize(("momentum", "mu"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.7)])
def test_against_a_loop(momentum, mu):
    solve = local.descent(optax.sgd(network.LR, momentum), network.plan())
    run = network.train(algorithms.fednova(network.task(), solve, mu=mu))
    f, start = network.federation(), run.start.server.params.trainable
    expected = loop(f, start, lr=network.LR, momentum=momentum, mu=mu)
    play.assert_trees_close(run.state.server.params.trainable, expected)
