"""FL+HC and HCFL."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from scipy.cluster import hierarchy
from scipy.spatial import distance

from pfljax import algorithms, masks
from pfljax.federation.clustering import Linkage, Measure
from pfljax.learning import local
from tests.oracles import groups, network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

COUNT, WARM_UP = groups.CLIENTS - 1, 1


def fl_hc(cohorts: list[list[int]], linkage: Linkage, name: Any, threshold: float, floor: int) -> tuple[Any, Any, int]:
    """As loops, by SciPy's agglomeration: the models of the clusters, whose is which (-1 cold), cold starts."""
    w, models, assigned, starts = groups.START, {}, np.full(COUNT, -1), 0
    for t, cohort in enumerate(cohorts):
        if t < WARM_UP:
            w = np.average([groups.trained(w, i) for i in cohort], axis=0, weights=np.array(groups.SIZES)[cohort])
            continue
        if t == WARM_UP:
            moves = np.stack([groups.trained(w, i) - w for i in cohort])
            tree = hierarchy.linkage(distance.pdist(moves, name), linkage)
            labels = np.array(groups.in_order_of_clients(hierarchy.fcluster(tree, threshold, "distance") - 1))
            means = {k: moves[labels == k].mean(0) for k in set(labels.tolist())}
            large = {k: mean for k, mean in means.items() if (labels == k).sum() >= floor}
            labels = np.array(
                [k if k in large else near(move, large, name) for k, move in zip(labels, moves, strict=True)]
            )
            assigned[cohort] = labels
            means = {k: moves[labels == k].mean(0) for k in large}
            models = dict.fromkeys(large, w)
            continue
        results = {i: groups.trained(models[assigned[i]], i) for i in cohort if assigned[i] >= 0}
        for i in cohort:
            if assigned[i] < 0:
                assigned[i], starts = near(groups.trained(w, i) - w, means, name), starts + 1
        for k in models:
            mine = [i for i in results if assigned[i] == k]
            if mine:
                models[k] = np.average([results[i] for i in mine], axis=0, weights=np.array(groups.SIZES)[mine])
    deployed = [k if k >= 0 else near(groups.trained(w, i) - w, means, name) for i, k in enumerate([*assigned, -1])]
    return np.stack([models[k] for k in deployed]), assigned, starts


def near(move: np.ndarray, means: dict[int, np.ndarray], name: Any) -> int:
    return min(means, key=lambda k: distance.cdist([move], [means[k]], name)[0, 0])


@pytest.mark.parametrize(
    ("linkage", "measure", "name", "threshold", "floor", "cohort"),
    [("average", "l2", "euclidean", 3.0, 1, 4), ("complete", "l1", "cityblock", 4.0, 2, 5)],
)
def test_clusters_of_a_cohort_and_cold_starts_against_scipy(
    linkage: Linkage, measure: Measure, name: str, threshold: float, floor: int, cohort: int
):
    """Not all six are clustered after a round; the others, and one that never trains, join what moves as they do."""
    static = {"warm_up": WARM_UP, "linkage": linkage, "measure": measure, "floor": floor, "clusters": 4}
    build = partial(algorithms.fl_hc, groups.task(), groups.solver(), **static)
    run = play.play(groups.task(), build, groups.data(), 5, cohort=cohort, threshold=threshold)
    deployed, assigned, starts = fl_hc(run.cohorts, linkage, name, threshold, floor)
    assert starts
    assert len(np.unique(deployed.round(6), axis=0)) > 1
    np.testing.assert_array_equal(run.state.server.assigned, assigned)
    close(run.personalized().trainable["w"], deployed[:COUNT])
    newcomer = run.simulation.model(run.state, jax.random.key(0), COUNT, threshold=threshold)
    close(newcomer.trainable["w"], deployed[COUNT])


def test_ward_needs_distances_that_are_euclidean():
    with pytest.raises(ValueError, match=r"linkage='ward' needs measure='l2', not 'cosine': choose 'average'"):
        algorithms.fl_hc(groups.task(), groups.solver(), linkage="ward", measure="cosine")


def test_one_cluster_is_fedavg_and_one_for_each_client_is_local_training():
    """T infinite: FedAvg, which pauses for the round of the clustering. T = 0: all train alone from the warm-up on."""
    build = partial(algorithms.fl_hc, groups.task(), groups.solver(), clusters=COUNT, warm_up=WARM_UP)
    w, shares = groups.START, np.array(groups.SIZES[:COUNT]) / sum(groups.SIZES[:COUNT])
    alone, mean = [], np.tile(w, (COUNT, 1))
    for _ in range(3):
        mean = np.tile(shares @ [groups.trained(v, i) for i, v in enumerate(mean)], (COUNT, 1))
        alone = [groups.trained(v, i) for i, v in enumerate(alone)] if len(alone) else mean
    for threshold, expected in [(1e9, mean), (0.0, alone)]:
        run = play.play(groups.task(), build, groups.data(), 4, threshold=threshold)
        close(run.personalized().trainable["w"], expected)


def hcfl(f: reference.Federation, w: Any, groups_of: dict[int, int], **hyper: float) -> list[Any]:
    """HCFL as loops: FedAvg, a round that only clusters, then clusters with blended bodies. What clients deploy."""
    models: list[Any] = []
    for t, cohort in enumerate(f.cohorts):
        if t < WARM_UP:
            results = [reference.descend(w, f.gradient, f.batches(t, i, 0), network.LR) for i in cohort]
            w = reference.average(results, f.sizes[list(cohort)].tolist())
        elif t == WARM_UP:
            models = [w] * (1 + max(groups_of.values()))
        else:
            for k in range(len(models)):
                mine = [i for i in cohort if groups_of[i] == k]
                pulled = reference.proximal(f.gradient, hyper["mu"], models[k])
                results = [reference.descend(models[k], pulled, f.batches(t, i, 0), network.LR) for i in mine]
                models[k] = reference.average(results, f.sizes[mine].tolist()) if mine else models[k]
            members = [list(groups_of.values()).count(k) for k in range(len(models))]
            common = reference.average(models, members)
            lam = hyper["lam"] / (1 + hyper["decay"] * (t - WARM_UP)) ** hyper["power"]
            for k, model in enumerate(models):
                body = {name: (1 - lam) * model[name] + lam * common[name] for name in network.BODY}
                models[k] = model | body
    return [models[groups_of[i]] for i in range(5)]


def test_hcfl_against_loops():
    """Ward clusters of the bodies' updates, cut at the largest gap; a proximal term; bodies that come nearer."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    hyper: dict[str, Any] = {"mu": 0.3, "lam": 0.6, "decay": 0.5, "power": 2.0}
    build = partial(algorithms.hcfl, network.task(), solve, masks.named(*network.HEAD), clusters=4, warm_up=WARM_UP)
    run = network.train(build, rounds=4, cohort=None, **hyper)
    f, start = network.federation(4, None), {n: leaf[0] for n, leaf in run.start.server.models.trainable.items()}
    first = [reference.descend(start, f.gradient, f.batches(0, i, 0), network.LR) for i in range(5)]
    w = reference.average(first, f.sizes.tolist())
    moves = [
        reference.axpy(-1.0, w, reference.descend(w, f.gradient, f.batches(1, i, 0), network.LR)) for i in range(5)
    ]
    tree = hierarchy.linkage(np.stack([reference.flat({n: move[n] for n in network.BODY}) for move in moves]), "ward")
    kept = 5 - (np.diff(tree[:, 2]).argmax() + 1)
    labels = groups.in_order_of_clients(hierarchy.fcluster(tree, kept, "maxclust"))
    assert 1 < kept < 5
    assert run.state.server.assigned.tolist() == labels
    expected = hcfl(f, start, dict(enumerate(labels)), **hyper)
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, expected[i])
