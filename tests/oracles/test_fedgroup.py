"""FedGroup."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial import distance

from pfljax import algorithms
from tests.oracles import groups, play
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

COUNT, CLUSTERS = groups.CLIENTS - 1, 2


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def by_directions(moves: np.ndarray) -> np.ndarray:
    """k-means, of all partitions the best, of the cosines with the right singular vectors."""
    _, _, directions = np.linalg.svd(moves)
    return groups.best_partition(np.array([[cosine(m, v) for v in directions[:CLUSTERS]] for m in moves]), CLUSTERS)


def by_difference(moves: np.ndarray) -> np.ndarray:
    """Complete linkage of the mean differences of cosines with third clients."""
    n = len(moves)
    between = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            others = [abs(cosine(moves[i], moves[z]) - cosine(moves[j], moves[z])) for z in range(n) if z not in (i, j)]
            between[i, j] = sum(others) / (n - 2) if i != j else 0
    return hierarchy.fcluster(hierarchy.linkage(distance.squareform(between), "complete"), CLUSTERS, "maxclust") - 1


@pytest.mark.parametrize(("measure", "label"), [("edc", by_directions), ("madc", by_difference)])
def test_groups_and_cold_starts_against_loops(measure, label):
    """Four of six form the groups in the first round; means count clients equally; groups that attract each other."""
    build = partial(algorithms.fedgroup, groups.task(), groups.solver(), clusters=CLUSTERS, measure=measure)
    run = play.play(groups.task(), build, groups.data(), 4, cohort=groups.COHORT, inter_lr=0.05)
    first = list(run.cohorts[0])
    moves = {i: groups.trained(groups.START, i) - groups.START for i in range(groups.CLIENTS)}
    labels = label(np.stack([moves[i] for i in first]))
    means = [np.mean([moves[i] for i, k in zip(first, labels, strict=True) if k == g], axis=0) for g in range(CLUSTERS)]

    def joined(i: int) -> int:
        return int(np.argmin([(1 - cosine(moves[i], mean)) / 2 for mean in means]))

    models, assigned, starts = [groups.START] * CLUSTERS, dict(zip(first, labels.tolist(), strict=True)), 0
    for t, cohort in enumerate(run.cohorts):
        results = {i: groups.trained(models[assigned[i]], i) for i in cohort if i in assigned}
        starts += len(cohort) - len(results)
        for g in range(CLUSTERS):
            mine = [results[i] for i in results if assigned[i] == g]
            models[g] = np.mean(mine, axis=0) if mine else models[g]
        units = [w / np.sqrt(w @ w) for w in models]
        models = [w + 0.05 * sum(units[h] for h in range(CLUSTERS) if h != g) for g, w in enumerate(models)]
        assigned |= {i: joined(i) for i in cohort if i not in assigned}
        assert t == 0 or len(assigned) > len(first)
    assert starts
    assert len(set(assigned.values())) == CLUSTERS
    deployed = np.stack([models[assigned[i] if i in assigned else joined(i)] for i in range(groups.CLIENTS)])
    close(run.personalized().trainable["w"], deployed[:COUNT])
    newcomer = run.simulation.model(run.state, jax.random.key(0), COUNT, inter_lr=0.05)
    close(newcomer.trainable["w"], deployed[COUNT])


def test_one_group_is_fedavg_with_equal_weights():
    w = groups.START
    for _ in range(3):
        w = np.mean([groups.trained(w, i) for i in range(COUNT)], axis=0)
    run = play.play(groups.task(), algorithms.fedgroup(groups.task(), groups.solver(), clusters=1), groups.data(), 3)
    close(run.personalized().trainable["w"], np.tile(w, (COUNT, 1)))
