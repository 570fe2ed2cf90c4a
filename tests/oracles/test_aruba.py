"""ARUBA."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR, ZETA, DECAY, PLUS = network.task(), 0.15, 0.5, 0.7, 2.0
ADAPT = plans.full_batch(3, 14)


def test_published_numbers():
    """A step of 0.1 along (1, 2): `eta = sqrt(b / g)` = (0.0866, 0.0775), the decay taken off."""
    one = plans.full_batch(1, 10)
    data = q.data(np.eye(2)[None], -np.array([[1.0, 2.0]]), (10,))
    server = play.play(q.task(), algorithms.aruba(q.task(), one, one, lr=0.1, zeta=1.0), data).state.server
    eta = np.sqrt((server.b["w"] - 0.01) / (server.g["w"] - 1))
    reference.close(eta, (0.0866025403784, 0.0774596669241))


def descended(w: reference.Tree, b: reference.Tree, g: reference.Tree, gradient, batches, plus: float, isotropic: bool):
    """Steps by `sqrt(b / g)`, where g grows by `plus` times each squared gradient; and the sum of these."""
    G = {name: 0 * leaf for name, leaf in w.items()}
    for rows in batches:
        grown = reference.axpy(plus, G, g)
        if isotropic:
            one = np.sqrt(sum(map(np.sum, b.values())) / sum(map(np.sum, grown.values())))
            eta = dict.fromkeys(w, one)
        else:
            eta = {name: np.sqrt(b[name] / grown[name]) for name in w}
        step = gradient(w, rows)
        w = {name: w[name] - eta[name] * step[name] for name in w}
        G = {name: G[name] + step[name] ** 2 for name in w}
    return w, G


@pytest.mark.parametrize("isotropic", [False, True])
def test_against_a_loop(isotropic):
    """Sums over the clients of a round, the means by examples; ARUBA++ in what is deployed."""
    method = algorithms.aruba(
        TASK, network.plan(), ADAPT, lr=LR, zeta=ZETA, decay=DECAY, coefficient=PLUS, isotropic=isotropic
    )
    run = network.train(method, rounds=4)
    f, phi = network.federation(4), run.start.server.model.params.trainable
    b = {name: np.full_like(leaf, (LR * ZETA) ** 2) for name, leaf in phi.items()}
    g = {name: np.full_like(leaf, ZETA**2) for name, leaf in phi.items()}
    for t, cohort in enumerate(f.cohorts):
        ends = [descended(phi, b, g, f.gradient, f.batches(t, i, 0), 0.0, isotropic) for i in cohort]
        fading = 1 / (t + 1) ** DECAY
        for y, G in ends:
            b = {name: b[name] + (phi[name] - y[name]) ** 2 / 2 for name in b}
            g = reference.axpy(1.0, G, g)
        b = {name: leaf + (LR * ZETA) ** 2 * fading for name, leaf in b.items()}
        g = {name: leaf + ZETA**2 * fading for name, leaf in g.items()}
        phi = reference.average([y for y, _ in ends], f.sizes[cohort])
    server = run.state.server
    play.assert_trees_close(server.model.params.trainable, phi)
    play.assert_trees_close(server.b, b)
    play.assert_trees_close(server.g, g)
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        expected, _ = descended(phi, b, g, f.gradient, [f.everything[i]] * 3, PLUS, isotropic)
        play.assert_trees_close(row, expected)


@pytest.mark.slow
def test_rates_that_are_held_are_those_of_fedavg():
    run = network.train(algorithms.aruba(TASK, network.plan(), ADAPT, lr=LR, zeta=1e6))
    fedavg = network.train(algorithms.fedavg(TASK, local.descent(optax.sgd(LR), network.plan())))
    play.assert_trees_close(run.state.server.model.params.trainable, fedavg.state.server.params.trainable, 1e-9)
