"""FedDyn."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("cohort", [None, 2])
def test_the_minimiser_of_the_sum_and_the_gradients_there(cohort):
    """Where SCAFFOLD ends, too; the server's state is the mean of the clients' in every round."""
    solve = local.descent(optax.sgd(0.2), plans.full_batch(40, 60))
    run = play.play(q.task(), algorithms.feddyn(q.task(), solve, alpha=1.0), q.data(), rounds=200, cohort=cohort)
    best = q.weighted(np.ones(3), q.A, q.C)
    reference.close(run.state.server.params.trainable["w"], best, 1e-9)
    reference.close(run.state.clients["w"], np.einsum("nij,nj->ni", q.A, best - q.C), 1e-9)


def test_published_numbers():
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    for rounds, expected in [(1, (0.009205208333, 0.581608333333)), (2, (-0.03784087048, 0.780453403193))]:
        run = play.play(q.task(), algorithms.feddyn(q.task(), solve, alpha=1.0), q.data(), rounds)
        reference.close(run.state.server.params.trainable["w"], expected)


@pytest.mark.slow
def test_the_first_round_is_twice_that_of_fedprox():
    """g = 0, so the loss is FedProx's; all clients reply, so h is the mean upload, and it moves w a second time."""
    solve = local.descent(optax.sgd(network.LR, 0.5), network.plan())
    dyn = network.train(algorithms.feddyn(network.task(), solve, alpha=0.3), rounds=1, cohort=None)
    twice = algorithms.fedprox(network.task(), solve, mu=0.3, server=fedopt(optax.sgd(2.0)))
    prox = network.train(reduced_by(twice, uniform(mean)), rounds=1, cohort=None)
    play.assert_trees_close(dyn.state.server.params.trainable, prox.state.server.params.trainable)


def test_against_a_loop():
    alpha, lr = 0.8, network.LR
    solve = local.descent(optax.sgd(lr), network.plan())
    run = network.train(algorithms.feddyn(network.task(), solve, alpha=alpha))
    f, w = network.federation(), run.start.server.params.trainable
    zero = {name: 0 * leaf for name, leaf in w.items()}
    h, g = zero, [zero] * 5
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:

            def tilted(y, rows, g=g[i]):
                return reference.axpy(-1.0, g, f.gradient(y, rows))

            y = reference.descend(w, reference.proximal(tilted, alpha, w), f.batches(t, i, 0), lr)
            apart = reference.axpy(-1.0, w, y)
            g[i], h = reference.axpy(-alpha, apart, g[i]), reference.axpy(-alpha / 5, apart, h)
            results.append(y)
        w = reference.axpy(-1 / alpha, h, reference.average(results))
    play.assert_trees_close(run.state.server.params.trainable, w)
    for row, expected in zip(play.rows(run.state.clients, 5), g, strict=True):
        play.assert_trees_close(row, expected)
    play.assert_trees_close(reference.average(g), {name: alpha * leaf for name, leaf in run.state.server.h.items()})
