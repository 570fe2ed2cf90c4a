"""CDA-FedAvg."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData, drifting
from pfljax.learning import local, plans
from pfljax.types import Algorithm
from tests.oracles import network, play
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR, TRAINING, THRESHOLD, SLACK = q.task(), 0.3, 3, 1.5, 0.005
MOVED = q.C + np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]])
SIZES = (4, 2, 5)


def method(rounds: int = TRAINING, **options: Any) -> Algorithm:
    solve = local.descent(optax.sgd(LR), plans.full_batch(2, max(SIZES)))
    return algorithms.cda_fedavg(TASK, solve, training_rounds=rounds, **options)


def data() -> FederatedData:
    """Clients 0 and 2 move, at different times; client 1 stays where it is."""
    concepts = [q.data(centers=centers, sizes=SIZES) for centers in (q.C, MOVED)]
    return drifting(concepts, [8], delays=[0, 0, 2])


def center(i: int, t: int) -> np.ndarray:
    return (MOVED if t >= (8, 8, 10)[i] else q.C)[i]


class PageHinkley:
    """By the sums themselves."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def look(self, x: float) -> bool:
        self.seen.append(x)
        m = np.cumsum([x - np.mean(self.seen[: s + 1]) - SLACK for s, x in enumerate(self.seen)])
        alarm = bool(m[-1] - min(0, m.min()) > THRESHOLD)
        self.seen = [] if alarm else self.seen
        return alarm


@pytest.mark.parametrize("cohort", [None, 2])
def test_against_a_loop(cohort: int | None) -> None:
    """Who trains and when, what the server becomes, and what is deployed, on parabolas that move."""
    rounds = 18
    run = play.play(TASK, method(threshold=THRESHOLD), data(), rounds, cohort=cohort)
    w, v, watch, owed = np.zeros(2), np.zeros((3, 2)), [PageHinkley() for _ in range(3)], [TRAINING] * 3
    trained, drifts, rested = [False] * 3, 0, 0
    for t, cohort_ids in enumerate(run.cohorts):
        sent = []
        for i in cohort_ids:
            off = w - center(i, t)
            alarms = [watch[i].look(off @ q.A[i] @ off / 2) for _ in range(SIZES[i])]
            drifts += any(alarms) and t >= 8
            owed[i] = TRAINING if any(alarms) else owed[i]
            trained[i] = owed[i] > 0
            rested += not trained[i]
            if trained[i]:
                v[i] = q.descended(w, q.A[i : i + 1], center(i, t)[None], LR, 2)[0]
                sent.append(i)
            owed[i] = max(owed[i] - 1, 0)
        if sent:
            w = np.average(v[sent], axis=0, weights=np.array(SIZES)[sent])
    close(run.state.server.params.trainable["w"], w)
    np.testing.assert_array_equal(run.state.clients.owed, owed)
    deployed = [v[i] if trained[i] else w for i in range(3)]
    close(run.personalized().trainable["w"], deployed)
    assert drifts >= 2, "nobody noticed"
    assert rested >= 5, "nobody rested"


@pytest.mark.slow
def test_who_never_stops_to_train_is_fedavg() -> None:
    solve = local.descent(optax.sgd(network.LR), network.plan())
    build = algorithms.cda_fedavg(network.task(), solve, training_rounds=9, signal="error", detector="ddm")
    run = network.train(build)
    expected = network.train(algorithms.fedavg(network.task(), solve)).state.server.params.trainable
    play.assert_trees_close(run.state.server.params.trainable, expected)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="signal='error': the task does not measure accuracy, but loss"):
        method(signal="error")
    with pytest.raises(ValueError, match="detector"):
        method(detector="ddn")
