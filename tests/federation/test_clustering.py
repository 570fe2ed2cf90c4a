"""Clusters in arrays of known shapes, against SciPy, scikit-learn and all there are."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.spatial import distance
from sklearn.cluster import KMeans

from pfljax.federation import clustering, table

pytestmark = pytest.mark.usefixtures("x64", "strict")

SIZE, LEFT_OUT = 9, (2, 6)
MEMBERS = np.isin(np.arange(SIZE), LEFT_OUT, invert=True)


def points(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SIZE, 3))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


@pytest.mark.parametrize("linkage", ["single", "complete", "average", "ward"])
def test_agglomeration_is_that_of_scipy(linkage: clustering.Linkage) -> None:
    """Heights and every cut, of the members alone; what lies between the others has no part in it."""

    @jax.jit
    def made(x: jax.Array) -> clustering.Merges:
        return clustering.agglomerated(clustering.distances(x, x, "l2"), jnp.asarray(MEMBERS), linkage)

    cut = jax.jit(clustering.cut)
    for seed in range(5):
        x = points(seed)
        merges, expected = made(jnp.asarray(x)), hierarchy.linkage(x[MEMBERS], linkage)
        np.testing.assert_allclose(merges.heights[: len(expected)], expected[:, 2], atol=1e-12)
        assert np.isinf(merges.heights[len(expected) :]).all()
        for count in range(len(expected) + 1):
            labels = np.asarray(cut(merges, jnp.asarray(MEMBERS), jnp.asarray(count)))
            clusters = hierarchy.fcluster(expected, MEMBERS.sum() - count, "maxclust")
            assert (labels[~MEMBERS] == -1).all()
            assert same_partition(labels[MEMBERS], clusters)
            assert labels.max() + 1 == MEMBERS.sum() - count


def test_so_many_merges_as_are_asked_for() -> None:
    x = jnp.asarray(points(0))
    whole = clustering.agglomerated(clustering.distances(x, x, "l2"), jnp.ones(SIZE, bool), "average")
    part = clustering.agglomerated(clustering.distances(x, x, "l2"), jnp.ones(SIZE, bool), "average", jnp.asarray(3))
    np.testing.assert_array_equal(part.kept[:3], whole.kept[:3])
    np.testing.assert_array_equal(part.heights[:3], whole.heights[:3])
    assert np.isinf(part.heights[3:]).all()


@pytest.mark.parametrize(("measure", "name"), [("l1", "cityblock"), ("l2", "euclidean"), ("cosine", "cosine")])
def test_distances_of_trees_are_those_of_scipy(measure: clustering.Measure, name: Any) -> None:
    x, y = points(1), points(2)[:4]
    rows, others = ({"a": jnp.asarray(part[:, :1, None]), "b": jnp.asarray(part[:, 1:])} for part in (x, y))
    np.testing.assert_allclose(clustering.distances(rows, others, measure), distance.cdist(x, y, name), atol=1e-12)


def test_thresholds_and_gaps() -> None:
    """Heights 1, 1.5, 4, 4.5: the gap lies before the third; no more clusters than there may be."""
    made = clustering.Merges(jnp.zeros(4, int), jnp.zeros(4, int), jnp.array([1.0, 1.5, 4.0, 4.5]))
    everybody = jnp.ones(5, bool)
    assert int(clustering.merges_until(made, everybody, 5)) == 2
    assert int(clustering.merges_until(made, everybody, 2)) == 3
    assert [int(clustering.merges_until(made, everybody, 5, t)) for t in (0.0, 1.0, 4.2, jnp.inf)] == [0, 1, 3, 4]
    nobody = clustering.Merges(jnp.zeros(4, int), jnp.zeros(4, int), jnp.full(4, jnp.inf))
    assert int(clustering.merges_until(nobody, jnp.arange(5) < 1, 5)) == 0


def test_kmeans_finds_what_scikit_learn_finds() -> None:
    """The sum of squares of the best of many starts, points counting by weights; a weight of 0 has no part in it."""
    found = jax.jit(lambda x, weights, key: clustering.kmeans(table.distances(x), weights, 3, key))
    for seed in range(5):
        x, weights = points(seed), np.where(MEMBERS, np.arange(SIZE) + 1.0, 0)
        labels = np.asarray(found(jnp.asarray(x), jnp.asarray(weights), jax.random.key(seed)))
        means: Any = KMeans(3, n_init=20, random_state=0)  # pyright: ignore[reportArgumentType]
        best = means.fit(x[MEMBERS], sample_weight=weights[MEMBERS])
        assert same_partition(labels[MEMBERS], np.asarray(best.labels_))


def test_cutting_the_weakest_edge_is_the_best_partition_in_two() -> None:
    """Across the parts of single linkage the largest cosine is the smallest there is; complete linkage can miss it."""

    @partial(jax.jit, static_argnums=1)
    def halved(cosines: jax.Array, linkage: clustering.Linkage) -> jax.Array:
        made = clustering.agglomerated(1 - cosines, jnp.ones(7, bool), linkage, 5)
        return clustering.cut(made, jnp.ones(7, bool), jnp.asarray(5)) == 1

    missed = 0
    for seed in range(12):
        x = points(seed)[:7]
        cosines = 1 - distance.cdist(x, x, "cosine")

        def across(second: np.ndarray, cosines: np.ndarray = cosines) -> float:
            return float(cosines[~second][:, second].max())

        every = (np.array([False, *rest]) for rest in itertools.product([False, True], repeat=6) if any(rest))
        best = min(map(across, every))
        np.testing.assert_allclose(across(np.asarray(halved(jnp.asarray(cosines), "single"))), best, atol=1e-12)
        missed += across(np.asarray(halved(jnp.asarray(cosines), "complete"))) > best + 1e-9
    assert missed


def test_who_stays() -> None:
    """A client leaves for what is nearer by more than the part of what it has; of equals it keeps its own."""
    away = jnp.array([2.0, 1.5, 1.0])
    assert [int(clustering.nearest(away, jnp.asarray(0), part)) for part in (0.0, 0.49, 0.5)] == [2, 2, 0]
    assert int(clustering.nearest(away, jnp.asarray(-1), 0.5)) == 2
    assert int(clustering.nearest(jnp.ones(3), jnp.asarray(1))) == 1


def test_means_of_members() -> None:
    rows, weights = jnp.array([[1.0], [3.0], [8.0], [9.0]]), jnp.array([1.0, 3.0, 0.0, 2.0])
    models, labels = jnp.full((3, 1), 7.0), jnp.array([0, 0, 1, 1])
    assert clustering.averaged(models, rows, labels, weights).ravel().tolist() == [2.5, 9.0, 7.0]
    assert clustering.averaged(models, rows, labels, weights, 2).ravel().tolist() == [2.5, 7.0, 7.0]
