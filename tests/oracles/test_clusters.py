"""IFCA, and clusters by context."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import from_clients
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")


def solver(steps: int = q.STEPS) -> local.LocalSolver:
    return local.descent(optax.sgd(q.LR), plans.full_batch(steps, 60))


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


# Clusters by context


@pytest.mark.usefixtures("optimized")
def test_one_group_is_fedavg_bit_for_bit():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    data = network.data().with_traits({"group": [0] * 5})
    runs = [
        play.play(network.task(), build, data, network.ROUNDS, cohort=network.COHORT)
        for build in (
            algorithms.context_clustered(network.task(), solve, 1),
            algorithms.fedavg(network.task(), solve),
        )
    ]
    first, second = (run.personalized() for run in runs)
    play.assert_bitwise(first, second)


def test_groups_against_loops():
    """A run of FedAvg for each group, of its members in each cohort; the third group has none and stays."""
    solve, group = local.descent(optax.sgd(network.LR), network.plan()), np.array([0, 1, 0, 1, 1])
    data = network.data().with_traits({"group": group, "age": np.arange(5.0)})
    build = algorithms.context_clustered(network.task(), solve, 3)
    run = play.play(network.task(), build, data, network.ROUNDS, cohort=network.COHORT)
    f, start = network.federation(), play.rows(run.start.server.params.trainable, 3)
    play.assert_trees_close(start[0], start[1])
    models = [
        reference.fedavg(
            f._replace(cohorts=[[i for i in cohort if group[i] == k] for cohort in f.cohorts]), start[k], lr=network.LR
        )
        for k in (0, 1)
    ]
    for k, row in enumerate(play.rows(run.state.server.params.trainable, 3)):
        play.assert_trees_close(row, [*models, start[2]][k])
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, models[group[i]])


def test_groups_end_where_fedavg_of_their_members_ends():
    """The fixed points `(sum n_i M_i)^-1 sum n_i M_i c_i`, `M_i = I - (I - lr A_i)^K`; a newcomer has its group's."""
    matrices, centers, sizes = q.random(6, clients=5)
    group = np.array([0, 1, 1, 0, 1])
    held = [
        ({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n))
        for a, c, n in zip(matrices, centers, sizes, strict=True)
    ]
    data = from_clients(held, unseen=1).with_traits({"group": group})
    build = algorithms.context_clustered(q.task(np.zeros(3)), solver(), 2)
    run = play.play(q.task(np.zeros(3)), build, data, 300)
    eye = np.eye(3)
    moved = np.stack([eye - np.linalg.matrix_power(eye - q.LR * a, q.STEPS) for a in matrices])
    blend = np.array(sizes) * (np.arange(5) < 4)
    ends = np.stack([q.weighted(blend * (group == k), moved, centers) for k in (0, 1)])
    close(run.personalized().trainable["w"], ends[group[:4]])
    newcomer = build.personalize(run.state.server.params, (), data.client(4), jax.random.key(0))
    close(newcomer.trainable["w"], ends[1])


@pytest.mark.parametrize("traits", [None, {"age": [1, 2, 3]}, {"group": [0.0, 1.0, 1.0]}, [0, 1, 1]])
def test_clients_must_be_in_groups(traits):
    data = q.data() if traits is None else q.data().with_traits(traits)
    with pytest.raises(ValueError, match=r"context_clustered reads the trait 'group' of each client, one whole number"):
        play.play(q.task(), algorithms.context_clustered(q.task(), solver(), 2), data)
