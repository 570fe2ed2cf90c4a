"""FedAS."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans, tasks
from pfljax.types import Algorithm
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import Tree

pytestmark = pytest.mark.usefixtures("x64")

MODEL, RATE, STEPS = network.model(), 0.4, 3
TASK, HEAD = tasks.classification(MODEL), masks.named("head")
SOLVE = local.descent(optax.sgd(network.LR), network.plan())


def fedas(lr: float = RATE, **options: Any) -> Algorithm:
    tune = local.descent(optax.sgd(lr), plans.full_batch(STEPS, max(network.SIZES)))
    return algorithms.fedas(TASK, SOLVE, tune, MODEL, HEAD, **options)


def test_against_a_loop() -> None:
    run = play.play(TASK, fedas(batch_size=4), network.data(), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()
    own = play.rows(network.flat(run.start.clients.trainable), 5)
    body = {name: own[0][name] for name in network.BODY}
    for t, cohort in enumerate(f.cohorts):
        weights = []
        for i in cohort:
            x, y = f.everything[i]
            before = np.tanh(x @ own[i]["W1"] + own[i]["b1"])
            goal = np.stack([before[y == label].mean(0) for label in y])

            def aligning(v: Tree, rows: Any, x: np.ndarray = x, goal: np.ndarray = goal) -> Tree:
                z = np.tanh(x @ v["W1"] + v["b1"])
                inner = 2 * (z - goal) / z.size * (1 - z**2)
                return {"W1": x.T @ inner, "b1": inner.sum(0)}

            aligned = reference.descend(own[i] | body, aligning, [(x, y)] * STEPS, RATE, trained=network.BODY)
            own[i] = reference.descend(aligned, f.gradient, f.batches(t, i, 0), network.LR)
            slopes = [f.gradient(own[i], (x[s : s + 4], y[s : s + 4])) for s in range(0, len(y), 4)]
            weights.append(sum(reference.inner(slope, slope) for slope in slopes))
        body = reference.average([{name: own[i][name] for name in body} for i in cohort], weights)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), body)
    for kept, expected in zip(play.rows(network.flat(run.personalized().trainable), 5), own, strict=True):
        play.assert_trees_close(kept, expected)


@pytest.mark.slow
def test_one_client_that_aligns_nothing_is_fedper() -> None:
    """Weights do not matter when only one client replies; the head is its own, and the body is received."""
    fedper = reduced_by(algorithms.fedper(TASK, SOLVE, HEAD, init="common"), uniform(mean))
    runs = [play.play(TASK, build, network.data(), 3, cohort=1) for build in (fedas(lr=0.0), fedper)]
    states = [network.flat(run.state.server.params.trainable) for run in runs]
    play.assert_trees_close(*states)
