"""MR-MTL."""

from __future__ import annotations

import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

FIVE = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
SOLVE = local.descent(optax.sgd(network.LR), network.plan())


def test_the_first_round_and_the_point_where_models_and_mean_agree():
    even = reduced_by(algorithms.mr_mtl(q.task(), FIVE, lam=1.0), uniform(mean))
    first = play.play(q.task(), even, q.data()).state.server.params.trainable["w"]
    reference.close(first, (0.004602604167, 0.290804166667))
    run = play.play(q.task(), even, q.data(), 300)
    v, vbar = run.personalized().trainable["w"], run.state.server.params.trainable["w"]
    reference.close(v, q.prox(vbar, q.A, q.C, 1.0))
    reference.close(v.mean(0), vbar)
    reference.close(v[0], (0.482316760636, 0.278831368529))


@pytest.mark.slow
def test_without_a_pull_clients_train_alone():
    run = network.train(algorithms.mr_mtl(network.task(), SOLVE, lam=0.0))
    alone = network.train(algorithms.local_only(network.task(), SOLVE, participation="cohort"))
    play.assert_bitwise(run.personalized(), alone.personalized())


def test_against_a_loop():
    run = network.train(algorithms.mr_mtl(network.task(), SOLVE, lam=0.7))
    f, vbar = network.federation(), run.start.server.params.trainable
    v = [vbar] * 5
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            v[i] = reference.descend(v[i], reference.proximal(f.gradient, 0.7, vbar), f.batches(t, i, 0), network.LR)
        vbar = reference.average([v[i] for i in cohort], f.sizes[cohort])
    play.assert_trees_close(run.state.server.params.trainable, vbar)
    for row, expected in zip(play.rows(run.personalized().trainable, 5), v, strict=True):
        play.assert_trees_close(row, expected)
