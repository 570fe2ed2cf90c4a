"""FedCAC."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local
from pfljax.types import Cohort, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import Federation, Tree, close

pytestmark = pytest.mark.usefixtures("x64")

TASK, ROUNDS = network.task(), 4


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def critical(begin: Tree, result: Tree, tau: float) -> Tree:
    """The entries whose product of change and value is among the `int(tau n)` largest of their leaf."""
    marks = {}
    for name, value in result.items():
        score = np.abs((value - begin[name]) * value)
        largest = np.argsort(-score, axis=None)[: int(tau * value.size)]
        marks[name] = np.isin(np.arange(value.size), largest).reshape(value.shape)
    return marks


def loops(f: Federation, w: Tree, *, tau: float, beta: float) -> tuple[Tree, list[Tree]]:
    """w, and what each client would receive next."""
    count = len(f.everything)
    models, marks = [w] * count, [{name: np.zeros(leaf.shape, bool) for name, leaf in w.items()}] * count
    begins = [w] * count
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            models[i] = reference.descend(begins[i], f.gradient, f.batches(t, i, 0), network.LR)
            marks[i] = critical(begins[i], models[i], tau)
        w = reference.average([models[i] for i in cohort], [f.sizes[i] for i in cohort])
        flat = np.stack([reference.flat(m).astype(float) for m in marks])
        trained = [i for i in range(count) if flat[i].any()]
        overlap = {
            (i, j): 1 - np.abs(flat[i] - flat[j]).sum() / (2 * flat[i].sum())
            for i in trained
            for j in trained
            if i != j
        }
        average, highest = np.mean(list(overlap.values())), max(overlap.values())
        least = average + (t + 1) / beta * (highest - average)
        for i in range(count):
            partners = [i] + [j for j in trained if (i, j) in overlap and overlap[i, j] >= least]
            theirs = reference.average([models[j] for j in partners])
            begins[i] = {name: np.where(marks[i][name], theirs[name], w[name]) for name in w}
    return w, begins


def test_fedcac_against_loops():
    """Three of five unequal clients in a round; from round 4 on nobody has partners."""
    run = network.train(algorithms.fedcac(TASK, solver(), tau=0.4, beta=3.5), rounds=ROUNDS)
    early = network.train(algorithms.fedcac(TASK, solver(), tau=0.4, beta=3.5), rounds=2)
    for played, rounds in ((run, ROUNDS), (early, 2)):
        w, begins = loops(
            network.federation(rounds=rounds), played.start.server.server.params.trainable, tau=0.4, beta=3.5
        )
        play.assert_trees_close(played.state.server.server.params.trainable, w)
        for mine, expected in zip(play.rows(played.personalized().trainable, 5), begins, strict=True):
            play.assert_trees_close(mine, expected)


def test_overlaps_as_published():
    """Clients that went from 0 to where their two critical entries are 1."""
    algorithm: Any = algorithms.fedcac(q.task(np.zeros(4)), solver())
    marks = np.array([[1.0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 1]])
    cohort = Cohort(jnp.arange(3), Params({"w": -jnp.asarray(marks)}), jnp.ones(3))
    server = algorithm.server_update(algorithm.init_server(jax.random.key(0), 3), cohort, jax.random.key(0))
    np.testing.assert_array_equal(server.masks["w"], marks)
    close(server.overlap, [[-1, 0.5, 0.0], [0.5, -1, 0.5], [0.0, 0.5, -1]])


@pytest.mark.slow
def test_nothing_critical_is_fedavg_and_everything_with_equal_weights():
    """All masks are equal then, so everybody collaborates with all, however small beta is."""
    fedavg = algorithms.fedavg(TASK, solver())
    pairs = [
        (algorithms.fedcac(TASK, solver(), tau=0.0), fedavg, network.COHORT),
        (algorithms.fedcac(TASK, solver(), tau=1.0, beta=0.1), reduced_by(fedavg, uniform(mean)), None),
    ]
    for mine, other, cohort in pairs:
        found, expected = (
            play.rows(network.train(m, cohort=cohort).personalized().trainable, 5) for m in (mine, other)
        )
        for one, another in zip(found, expected, strict=True):
            play.assert_trees_close(one, another)
