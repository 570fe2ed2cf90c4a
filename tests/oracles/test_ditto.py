"""Ditto with a pull of each client's own: by its size, or chosen on its validation examples."""

from __future__ import annotations

import dataclasses

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR, LAMS = network.task(), network.LR, (0.0, 0.5, 3.0)
SOLVE = local.descent(optax.sgd(LR), network.plan())


def test_the_pull_by_size():
    """`argmin f_i(v) + lam / (2 n_i) ||v - w||^2` around FedAvg's fixed point; with equal sizes it is Ditto."""
    solve = local.descent(optax.sgd(0.2), plans.full_batch(5, 60))
    run = play.play(q.task(), algorithms.ditto_by_size(q.task(), solve, solve, lam=20.0), q.data(), 200)
    w, v = run.state.server.params.trainable["w"], run.personalized().trainable["w"]
    for i, n in enumerate(q.N):
        one = slice(i, i + 1)
        reference.close(v[one], q.prox(w, q.A[one], q.C[one], 20.0 / n))
    equal = q.data(sizes=(10, 10, 10))
    runs = [
        play.play(q.task(), build, equal, 3).personalized()
        for build in (
            algorithms.ditto_by_size(q.task(), solve, solve, lam=20.0),
            algorithms.ditto(q.task(), solve, solve, lam=2.0),
        )
    ]
    play.assert_bitwise(*runs)


def validated() -> FederatedData:
    """Each client validates on what the next one trains on, the last one on nothing."""
    data = network.data()
    start, size = (np.roll(np.asarray(leaf), -1) for leaf in data.train)
    return dataclasses.replace(data, validation=type(data.train)(start, np.where(np.arange(5) < 4, size, 0)))


def test_the_pull_that_validates_best():
    """A loop over rounds and candidates; the client without validation examples takes the first."""
    method = algorithms.ditto_validated(TASK, SOLVE, SOLVE, lams=LAMS)
    run = play.play(TASK, method, validated(), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()
    w = run.start.server.params.trainable
    v, picked = [w] * 5, set()
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            tried = [
                reference.descend(v[i], reference.proximal(f.gradient, lam, w), f.batches(t, i, 0), LR) for lam in LAMS
            ]
            best = 0 if i == 4 else int(np.argmin([f.loss(each, f.everything[i + 1]) for each in tried]))
            picked.add(best)
            v[i] = tried[best]
        results = [reference.descend(w, f.gradient, f.batches(t, i, 0), LR) for i in cohort]
        w = reference.average(results, f.sizes[cohort])
    assert len(picked) > 1, "all clients chose alike: the choice is not tested"
    play.assert_trees_close(run.state.server.params.trainable, w)
    for row, expected in zip(play.rows(run.personalized().trainable, 5), v, strict=True):
        play.assert_trees_close(row, expected)


@pytest.mark.slow
def test_a_single_candidate_is_ditto():
    one = play.play(TASK, algorithms.ditto_validated(TASK, SOLVE, SOLVE, lams=(0.5,)), validated(), 2, cohort=3)
    ditto = network.train(algorithms.ditto(TASK, SOLVE, SOLVE, lam=0.5), rounds=2)
    for a, b in zip(
        play.rows(one.personalized().trainable, 5), play.rows(ditto.personalized().trainable, 5), strict=True
    ):
        play.assert_trees_close(a, b)


def test_without_candidates_there_is_nothing_to_choose():
    with pytest.raises(ValueError, match="nothing to choose from"):
        play.play(TASK, algorithms.ditto_validated(TASK, SOLVE, SOLVE, lams=()), validated())
