"""CFL."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import from_clients
from pfljax.learning import local, plans
from tests.oracles import groups, play
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

COUNT = groups.CLIENTS - 1


def norm(v: np.ndarray) -> float:
    return float(np.sqrt((v**2).sum()))


def halves(moves: np.ndarray, members: list[int]) -> tuple[list[int], float]:
    """The members apart from the first one's part, of all partitions, and the largest cosine across."""
    cosines = {(i, j): moves[i] @ moves[j] / norm(moves[i]) / norm(moves[j]) for i in members for j in members}

    def across(second: list[int]) -> float:
        return max(cosines[i, j] for i in members for j in second if i not in second)

    first, *rest = members
    every = [list(part) for size in range(1, len(members)) for part in itertools.combinations(rest, size)]
    best = min(every, key=across)
    assert first not in best
    return best, across(best)


def cfl(cohorts: list[list[int]], *, eps1: float, eps2: float, gamma: float, clusters: int, warm_up: int, floor: int):
    """The algorithm as loops: models [K, d], clusters [N], the tree, and how many splits each rule forbade."""
    models, assigned, active = np.tile(groups.START, (clusters, 1)), np.zeros(COUNT, int), 1
    moves, heard, forbidden = np.zeros((COUNT, groups.DIM)), set(), {"gamma": 0, "floor": 0, "unheard": 0}
    tree: dict[int, Any] = {}  # from each leaf on that was once a node: its model and its two parts
    leaf, nodes = {0: 0}, 1  # the leaf of each cluster
    for t, cohort in enumerate(cohorts):
        results = {i: groups.trained(models[assigned[i]], i) for i in cohort}
        for i in cohort:
            moves[i] = results[i] - models[assigned[i]]
        heard |= set(cohort)
        before = assigned.copy()
        for k in range(active):
            members = [i for i in range(COUNT) if before[i] == k]
            if t < warm_up or active == clusters or len(members) <= 2:
                continue
            if norm(moves[members].mean(0)) < eps1 and max(norm(moves[i]) for i in members) > eps2:
                if not heard >= set(members):
                    forbidden["unheard"] += 1
                    continue
                second, across = halves(moves, members)
                large, steep = min(len(second), len(members) - len(second)) >= floor, np.sqrt((1 - across) / 2) > gamma
                forbidden["floor"] += not large
                forbidden["gamma"] += large and not steep
                if large and steep:
                    first = [i for i in members if i not in second]
                    sides = [(nodes + side, moves[part].copy()) for side, part in enumerate((first, second))]
                    tree[leaf[k]] = models[k].copy(), sides
                    leaf[k], leaf[active], nodes = nodes, nodes + 1, nodes + 2
                    models[active], assigned[second], active = models[k], active, active + 1
        for k in range(active):
            mine = [results[i] for i in cohort if assigned[i] == k]
            models[k] = np.mean(mine, axis=0) if mine else models[k]
    return models, assigned, active, (tree, {node: k for k, node in leaf.items()}), forbidden


def walked(tree: dict[int, Any], leaves: dict[int, int], client: int) -> int:
    """The cluster to which a newcomer gets from the root, always to the part with the most similar update."""
    node = 0
    while node in tree:
        w, sides = tree[node]
        own = groups.trained(w, client) - w
        node = max(sides, key=lambda side: max(own @ move / norm(own) / norm(move) for move in side[1]))[0]
    return leaves[node]


def test_splits_against_loops():
    """Cohorts, the best partitions in two, each rule for a split, newcomers; without rest it is FedAvg uniformly."""
    seen = {"gamma": 0, "floor": 0, "unheard": 0}
    for (warm_up, floor), (eps1, eps2, gamma), expected in [
        ((1, 1), (9.0, 0.1, 0.0), 4),
        ((1, 1), (9.0, 0.1, 0.9), 3),
        ((1, 1), (0.0, 0.0, 0.0), 1),
        ((0, 2), (9.0, 0.1, 0.0), 2),
    ]:
        static: dict[str, Any] = {"clusters": 4, "warm_up": warm_up, "floor": floor}
        hyper: dict[str, Any] = {"eps1": eps1, "eps2": eps2, "gamma": gamma}
        build = partial(algorithms.cfl, groups.task(), groups.solver(), **static)
        run = play.play(groups.task(), build, groups.data(), 6, cohort=groups.COHORT, **hyper)
        models, assigned, active, tree, forbidden = cfl(run.cohorts, **static, **hyper)
        assert active == expected
        seen = {rule: seen[rule] + count for rule, count in forbidden.items()}
        np.testing.assert_array_equal(run.state.server.assigned, assigned)
        close(run.state.server.models.trainable["w"][:active], models[:active])
        close(run.personalized().trainable["w"], models[assigned])
        newcomer = run.simulation.model(run.state, jax.random.key(0), COUNT, **hyper)
        close(newcomer.trainable["w"], models[walked(*tree, COUNT)])
    assert all(seen.values()), seen


def test_newcomers_walk_to_where_they_would_have_trained():
    """One like a client has its update at every split; by the loss it may end elsewhere."""
    rows = zip(groups.MATRICES[:COUNT], groups.CENTERS[:COUNT], groups.SIZES[:COUNT], strict=True)
    held = [({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n)) for a, c, n in rows]
    hyper: dict[str, Any] = {"clusters": 4, "warm_up": 1, "eps1": 9.0, "eps2": 0.1}
    methods = [algorithms.cfl(groups.task(), groups.solver(), newcomers=how, **hyper) for how in ("walk", "loss")]
    walk, loss = (play.play(groups.task(), method, from_clients([*held, *held], unseen=COUNT), 4) for method in methods)
    assigned, models = walk.state.server.assigned, walk.state.server.models.trainable["w"]
    assert len(np.unique(assigned)) == 4

    def deployed(run: play.Played) -> list[np.ndarray]:
        every = (run.simulation.model(run.state, jax.random.key(0), COUNT + i) for i in range(COUNT))
        return [np.asarray(model.trainable["w"]) for model in every]

    close(deployed(walk), models[assigned])
    close(loss.state.server.models.trainable["w"], models)
    close(deployed(loss), [models[groups.closest_by_loss(models, i)] for i in range(COUNT)])


@pytest.mark.parametrize("linkage", ["optimal", "complete"])
def test_four_vectors(linkage):
    """Updates (1, 0), (.8, .2), (-1, 0), (-.9, -.1): {1, 2} and {3, 4} with means (.9, .1) and (-.95, -.05)."""
    moves = np.array([[1.0, 0.0], [0.8, 0.2], [-1.0, 0.0], [-0.9, -0.1]])
    data, task = q.data(np.tile(np.eye(2), (4, 1, 1)), moves, [3, 1, 1, 2]), q.task()
    step = local.descent(optax.sgd(1.0), plans.full_batch(1, 3))
    build = partial(algorithms.cfl, task, step, clusters=2, warm_up=0, linkage=linkage)
    rests = [(0.035, 0.99), (0.036, 1.01)] if linkage == "optimal" else []
    for eps1, eps2 in rests:
        assert not play.play(task, build, data, 1, eps1=eps1, eps2=eps2).state.server.assigned.any()
    run = play.play(task, build, data, 1, eps1=0.036, eps2=0.99)
    assert run.state.server.assigned.tolist() == [0, 0, 1, 1]
    close(run.personalized().trainable["w"], [[0.9, 0.1]] * 2 + [[-0.95, -0.05]] * 2)
