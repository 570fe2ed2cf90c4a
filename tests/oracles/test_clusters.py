"""IFCA, HypCluster, and clusters by context."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.data import from_clients
from pfljax.federation.clusters import apart
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")


def solver(steps: int = q.STEPS) -> local.LocalSolver:
    return local.descent(optax.sgd(q.LR), plans.full_batch(steps, 60))


def beginning(state: State, models: np.ndarray) -> State:
    """The state, but with these models [K, d] of quadratics."""
    own = state.server.own
    own = own._replace(params=own.params._replace(trainable={"w": models}))
    return state._replace(server=state.server._replace(own=own))


def test_equal_models_go_to_the_first_cluster():
    task = q.task((0.5, 0.5))
    run = play.play(task, algorithms.ifca(task, solver(), clusters=3), q.data())
    expected = q.descended(np.array((0.5, 0.5)), q.A, q.C, q.LR, q.STEPS).mean(0)
    models = run.state.server.own.params.trainable["w"]
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
        return beginning(state, np.array([[0.1] * 3, [-0.1] * 3]))

    run = play.play(
        task,
        reduced_by(algorithms.ifca(task, solver(1), clusters=2), mean if by_n else uniform(mean)),
        data,
        400,
        begin=begin,
    )
    blend = np.asarray(sizes) if by_n else np.ones(4)
    optima = [q.weighted(blend * (group == k), matrices, centers) for k in (0, 1)]
    close(run.state.server.own.params.trainable["w"], optima)
    close(run.personalized().trainable["w"], np.stack(optima)[group])


def test_ifca_against_loops():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    run = network.train(algorithms.ifca(network.task(), solve, clusters=3))
    f = network.federation()
    models = reference.ifca(f, play.rows(run.start.server.own.params.trainable, 3), lr=network.LR)
    for k, row in enumerate(play.rows(run.state.server.own.params.trainable, 3)):
        play.assert_trees_close(row, models[k])
    chosen = [reference.nearest(f, models, i) for i in range(5)]
    assert len(set(chosen)) > 1
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, models[chosen[i]])


def test_a_shared_body_and_hysteresis_against_loops():
    """Heads are those of clusters, the body is that of all; a client stays unless another loss is lower by a fifth."""
    solve, part = local.descent(optax.sgd(network.LR), network.plan()), 0.2
    head = masks.named(*network.HEAD)
    run = network.train(
        lambda **hyper: algorithms.ifca(network.task(), solve, clusters=3, own=head, **hyper),
        begin=lambda state: state._replace(clients=jnp.array([0, 1, 2, 0, -1])),
        hysteresis=part,
    )
    f, start = network.federation(), run.start.server
    body = {name: start.common.params.trainable[name] for name in network.BODY}
    models = [row | body for row in play.rows(start.own.params.trainable, 3)]
    last, kept, moved = [0, 1, 2, 0, -1], 0, 0
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            losses = [f.loss(model, f.everything[i]) for model in models]
            best = int(np.argmin(losses))
            stays = last[i] >= 0 and losses[last[i]] - losses[best] <= part * losses[last[i]]
            kept += stays and best != last[i]
            moved += not stays and last[i] >= 0
            last[i] = last[i] if stays else best
        results = [reference.descend(models[last[i]], f.gradient, f.batches(t, i, 0), network.LR) for i in cohort]
        body = reference.average([{name: result[name] for name in network.BODY} for result in results])
        for k in range(3):
            mine = [result for result, i in zip(results, cohort, strict=True) if last[i] == k]
            models[k] = (reference.average(mine) if mine else models[k]) | body
    assert kept
    assert moved
    np.testing.assert_array_equal(run.state.clients, last)
    for k, row in enumerate(play.rows(run.state.server.own.params.trainable, 3)):
        play.assert_trees_close(row, {name: models[k][name] for name in network.HEAD})
    play.assert_trees_close(run.state.server.common.params.trainable, {name: models[0][name] for name in network.BODY})
    logged = np.array([0, 1, 2, 0, -1])
    for ids, clusters in zip(run.log["ids"], run.log["reported/cluster"], strict=True):
        logged[ids] = clusters
    np.testing.assert_array_equal(logged, last)


def test_averages_of_gradients_are_over_all_that_take_part():
    """`w_k <- w_k - lr/M sum_{i in S_k} A_i (w_k - c_i)` for the M clients of a round."""
    matrices, centers, sizes = q.random(6)
    models = np.array([[0.4] * 3, [-0.4] * 3])
    data = q.data(matrices, centers, sizes)
    run = play.play(
        q.task(np.zeros(3), spread=1.0),
        algorithms.ifca(q.task(np.zeros(3), spread=1.0), solver(1), clusters=2, averaging="gradient"),
        data,
        12,
        cohort=3,
        begin=lambda state: beginning(state, models),
    )
    off = np.zeros(2)
    for cohort in run.cohorts:
        gaps = models[:, None] - centers[None]
        chosen = np.einsum("kni,nij,knj->kn", gaps, matrices, gaps).argmin(0)
        slopes = np.einsum("nij,nj->ni", matrices, models[chosen] - centers)
        models = np.stack([models[k] - q.LR / 3 * sum(slopes[i] for i in cohort if chosen[i] == k) for k in (0, 1)])
        off += np.bincount(chosen[cohort], minlength=2)
    assert off.all()
    close(run.state.server.own.params.trainable["w"], models)


def test_hypcluster_against_loops():
    """Who has validation examples chooses by them; averages by n; the server moves with momentum, empty models rest."""
    matrices, centers, sizes = q.random(8, clients=5)
    seen = centers[[3, 0, 1, 2, 4]] * 2
    counts = [(sizes, centers), ([1, 1, 1, 1, 0], seen)]
    train, validation = (
        [
            ({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n))
            for a, c, n in zip(matrices, at, numbers, strict=True)
        ]
        for numbers, at in counts
    )
    data, models = from_clients(train, train, validation), np.array([[1.0] * 3, [-1.0] * 3, [50.0] * 3])
    build = algorithms.hypcluster(
        q.task(np.zeros(3)), solver(), clusters=3, split="validation", server=fedopt(optax.sgd(0.5, momentum=0.5))
    )
    run = play.play(q.task(np.zeros(3)), build, data, 5, cohort=3, begin=lambda state: beginning(state, models))
    velocity, seen[4], used = np.zeros((3, 3)), centers[4], set()
    for cohort in run.cohorts:
        gaps = models[:, None] - seen[None]
        chosen = np.einsum("kni,nij,knj->kn", gaps, matrices, gaps).argmin(0)
        results = q.descended(models[chosen], matrices, centers, q.LR, q.STEPS)
        for k in range(3):
            mine = [i for i in cohort if chosen[i] == k]
            used |= {k} if mine else set()
            if mine:
                moved = models[k] - np.average(results[mine], axis=0, weights=np.array(sizes)[mine])
                velocity[k] = moved + 0.5 * velocity[k]
                models[k] = models[k] - 0.5 * velocity[k]
    assert used == {0, 1}
    close(run.state.server.own.params.trainable["w"], models)


# Clusters by context


@pytest.mark.parametrize("name", ["ifca", "hypcluster"])
def test_the_best_of_several_starts_is_trained_from_the_second_round_on(name):
    """The start whose smallest cluster is largest, by hand; then as from that start without a search."""
    starts, clusters, kinds = 6, 3, np.array([0, 1, 2, 0, 1, 2])
    matrices, centers, sizes = q.random(8, clients=6)
    centers = centers / 5 + 3 * np.eye(3)[kinds]
    task, data = q.task(np.zeros(3), spread=2.0), q.data(matrices, centers, sizes)
    method = getattr(algorithms, name)
    run = play.play(task, method(task, solver(), clusters=clusters, starts=starts), data, 4)
    smallest, drawn = [], []
    for seed in run.start.server.seeds:
        models = np.asarray(apart(task, clusters, jax.random.key(seed)).trainable["w"])
        off = models[None] - centers[:, None]
        chosen = np.einsum("nki,nij,nkj->nk", off, matrices, off).argmin(1)
        smallest.append(np.bincount(chosen, minlength=clusters).min())
        drawn.append(models)
    assert max(smallest) > smallest[0]

    def begin(state: State) -> State:
        return beginning(state, drawn[int(np.argmax(smallest))])

    plain = play.play(task, method(task, solver(), clusters=clusters), data, 3, begin=begin)
    close(run.state.server.server.own.params.trainable["w"], plain.state.server.own.params.trainable["w"])
    np.testing.assert_array_equal(run.state.clients, plain.state.clients)
    assert (run.log["cluster"] if "cluster" in run.log else np.array([-1])).min() == -1


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_one_cluster_is_fedavg_bit_for_bit():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    data = network.data().with_traits({"group": [0] * 5})
    runs = [
        play.play(network.task(), build, data, network.ROUNDS, cohort=network.COHORT)
        for build in (
            algorithms.fedavg(network.task(), solve),
            algorithms.context_clustered(network.task(), solve, 1),
            algorithms.hypcluster(network.task(), solve, clusters=1),
        )
    ]
    first, *others = (run.personalized() for run in runs)
    for other in others:
        play.assert_bitwise(first, other)


def test_groups_against_loops():
    """A run of FedAvg for each group, of its members in each cohort; the third group has none and stays."""
    solve, group = local.descent(optax.sgd(network.LR), network.plan()), np.array([0, 1, 0, 1, 1])
    data = network.data().with_traits({"group": group, "age": np.arange(5.0)})
    build = algorithms.context_clustered(network.task(), solve, 3)
    run = play.play(network.task(), build, data, network.ROUNDS, cohort=network.COHORT)
    f, start = network.federation(), play.rows(run.start.server.own.params.trainable, 3)
    play.assert_trees_close(start[0], start[1])
    models = [
        reference.fedavg(
            f._replace(cohorts=[[i for i in cohort if group[i] == k] for cohort in f.cohorts]), start[k], lr=network.LR
        )
        for k in (0, 1)
    ]
    for k, row in enumerate(play.rows(run.state.server.own.params.trainable, 3)):
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
    download = build.download(run.state.server, jnp.asarray(4))
    newcomer = build.personalize(download, np.asarray(-1), data.client(4), jax.random.key(0))
    close(newcomer.trainable["w"], ends[1])


@pytest.mark.parametrize("traits", [None, {"age": [1, 2, 3]}, {"group": [0.0, 1.0, 1.0]}, [0, 1, 1]])
def test_clients_must_be_in_groups(traits):
    data = q.data() if traits is None else q.data().with_traits(traits)
    with pytest.raises(ValueError, match=r"context_clustered reads the trait 'group' of each client, one whole number"):
        play.play(q.task(), algorithms.context_clustered(q.task(), solver(), 2), data)
