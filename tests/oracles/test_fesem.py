"""FeSEM."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from pfljax import algorithms
from pfljax.algorithms.fesem import Known
from pfljax.types import Params, State
from tests.oracles import groups, play
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")


def test_lloyd_against_loops():
    """E and M over all clients that were heard, with their last models; a center of one member stays."""
    build = partial(algorithms.fesem, groups.task(), groups.solver(), clusters=3, floor=2)
    centers = np.array([[2.0, 2.0, 2.0], [-2.0, -1.0, -2.0], [2.5, 1.5, 2.5]])
    r, table = np.array([0, 1, 0, 1, 2, 0]), groups.CENTERS[groups.TRAIN][::-1].copy()
    counts: Any = np.array([1.0, 1.0, 0.0, 1.0, 1.0, 0.0])

    def begin(state: State) -> State:
        return groups.begun(state, centers.copy(), r.copy(), Known(Params({"w": table.copy()}), counts.copy()))

    run = play.play(groups.task(), build, groups.data(), 5, cohort=groups.COHORT, begin=begin, hysteresis=0.4)
    stayed = rested = moved = 0
    for cohort in run.cohorts:
        for i in cohort:
            table[i], counts[i] = groups.trained(centers[r[i]], i), 1
        before = r.copy()
        for i in np.flatnonzero(counts):
            away = ((table[i] - centers) ** 2).sum(1)
            if away[r[i]] - away.min() > 0.4 * away[r[i]]:
                r[i] = away.argmin()
            stayed += away[r[i]] > away.min()
        moved += (before != r).sum()
        for k in range(3):
            members = (r == k) & (counts > 0)
            rested += members.sum() == 1
            if members.sum() >= 2:
                centers[k] = table[members].mean(0)
    assert min(stayed, rested, moved) > 0, (stayed, rested, moved)
    close(run.state.server.models.trainable["w"], centers)
    np.testing.assert_array_equal(run.state.server.assigned, r)
    close(run.personalized().trainable["w"], centers[r])
    tried = groups.trained(centers[2], groups.CLIENTS - 1)
    newcomer = run.simulation.model(run.state, jax.random.key(0), groups.CLIENTS - 1, hysteresis=0.4)
    close(newcomer.trainable["w"], centers[((tried - centers) ** 2).sum(1).argmin()])


def test_the_first_centers_are_means_of_what_clients_make_of_one_model():
    """By k-means: of all partitions that with the least sum of squares. One center is FedAvg with equal weights."""
    first = np.stack([groups.trained(groups.START, i) for i in range(groups.CLIENTS - 1)])
    best = groups.best_partition(first, 3)
    build = algorithms.fesem(groups.task(), groups.solver(), clusters=3, init="common")
    run = play.play(groups.task(), build, groups.data(), 1)
    assert groups.in_order_of_clients(run.state.server.assigned) == groups.in_order_of_clients(best)
    close(run.personalized().trainable["w"], np.stack([first[best == k].mean(0) for k in best]))
    w = groups.START
    for _ in range(3):
        w = np.mean([groups.trained(w, i) for i in range(groups.CLIENTS - 1)], axis=0)
    alone = play.play(groups.task(), algorithms.fesem(groups.task(), groups.solver(), clusters=1), groups.data(), 3)
    close(alone.personalized().trainable["w"], np.tile(w, (groups.CLIENTS - 1, 1)))
