"""IFCA."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")


def solver(steps: int = q.STEPS) -> local.LocalSolver:
    return local.descent(optax.sgd(q.LR), local.full_batch(steps, 60))


def test_equal_models_go_to_the_first_cluster():
    task = q.task((0.5, 0.5))
    run = play.play(task, algorithms.ifca(task, solver(), clusters=3), q.data())
    expected = q.descended(np.array((0.5, 0.5)), q.A, q.C, q.LR, q.STEPS).mean(0)
    models = run.state.server.params.trainable["w"]
    close(models[0], expected)
    np.testing.assert_array_equal(models[1:], np.full((2, 2), 0.5))


@pytest.mark.parametrize("by_n", [False, True], ids=["uniform", "by_n"])
def test_groups_far_apart_find_their_own_optima(by_n):
    """With one step a round, each model ends at the optimum of its members' mean loss."""
    matrices, _, sizes = q.random(6)
    group = np.array([0, 1, 1, 0])
    centers = np.random.default_rng(6).normal(size=(4, 3)) / 5 + np.array([[4.0], [-4.0]])[group]
    task, data = q.task(np.zeros(3), spread=1.0), q.data(matrices, centers, sizes)

    def begin(state):
        models = state.server.params._replace(trainable={"w": np.array([[0.1] * 3, [-0.1] * 3])})
        return state._replace(server=state.server._replace(params=models))

    run = play.play(
        task,
        reduced_by(algorithms.ifca(task, solver(1), clusters=2), mean if by_n else uniform(mean)),
        data,
        400,
        begin=begin,
    )
    blend = np.asarray(sizes) if by_n else np.ones(4)
    optima = [q.weighted(blend * (group == k), matrices, centers) for k in (0, 1)]
    close(run.state.server.params.trainable["w"], optima)
    close(run.personalized().trainable["w"], np.stack(optima)[group])


def test_ifca_against_loops():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    run = network.train(algorithms.ifca(network.task(), solve, clusters=3))
    f = network.federation()
    models = reference.ifca(f, play.rows(run.start.server.params.trainable, 3), lr=network.LR)
    for k, row in enumerate(play.rows(run.state.server.params.trainable, 3)):
        play.assert_trees_close(row, models[k])
    chosen = [reference.nearest(f, models, i) for i in range(5)]
    assert len(set(chosen)) > 1
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, models[chosen[i]])
