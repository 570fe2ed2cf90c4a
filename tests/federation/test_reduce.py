"""Reductions against numbers worked out by hand, and robust ones against loops written from the papers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from pfljax.federation.reduce import geometric_median, grouped, krum, mean, median, stack, trimmed, uniform
from pfljax.types import Array, Params, Reduce, Tree


def _by_weight(terms: Tree, weights: Array) -> Tree:
    return jnp.sum(terms * weights) / jnp.maximum(jnp.sum(weights), 1)


UNSUMMED = Reduce(lambda upload, weight: upload, _by_weight, summed=False)

CLUSTERS, UPLOADS, WEIGHTS = jnp.array([0, 1, 0, 1]), jnp.array([1.0, 5.0, 4.0, 7.0]), jnp.array([1.0, 2.0, 3.0, 0.0])


def lowered(reduce: Reduce) -> tuple[list[float], list[float]]:
    terms = jax.vmap(reduce.lift)((CLUSTERS, UPLOADS), WEIGHTS)
    if reduce.summed:
        terms = jax.tree.map(lambda leaf: leaf.sum(axis=0), terms)
    uploads, weights = reduce.lower(terms, WEIGHTS)
    return uploads.tolist(), weights.tolist()


@pytest.mark.parametrize("inner", [mean, UNSUMMED], ids=["summed", "unsummed"])
def test_a_cluster_weighs_its_own_members(inner: Reduce):
    """(1 + 3 * 4) / 4 and 5: the client of weight 0 does not count, and the third cluster is empty."""
    assert lowered(grouped(3, inner)) == ([3.25, 5.0, 0.0], [4.0, 2.0, 0.0])


@pytest.mark.parametrize("inner", [mean, UNSUMMED], ids=["summed", "unsummed"])
def test_members_of_a_cluster_may_count_equally(inner: Reduce):
    assert lowered(grouped(3, uniform(inner))) == ([2.5, 5.0, 0.0], [4.0, 2.0, 0.0])


def test_a_stack_hands_on_all_uploads():
    np.testing.assert_array_equal(stack.lower(jax.vmap(stack.lift)(UPLOADS, WEIGHTS), WEIGHTS), UPLOADS)


def test_a_grouped_reduction_of_a_method_with_one_model_is_refused():
    with pytest.raises(ValueError, match="grouped reduces uploads"):
        grouped(2, mean).lift(Params({"w": jnp.ones(2)}), jnp.asarray(1.0))


# Robust reductions

Vectors = np.ndarray  # [M, d], those who are heard


def numpy_krum(f: int, m: int = 1) -> Callable[[Vectors, np.ndarray], np.ndarray]:
    """Blanchard et al.: squared distances to the n - f - 2 closest others, added; the lowest identifier."""

    def krum_of(vectors: Vectors, weights: np.ndarray) -> np.ndarray:
        scores = []
        for i, mine in enumerate(vectors):
            distances = sorted(float(np.sum((mine - other) ** 2)) for j, other in enumerate(vectors) if j != i)
            scores.append(sum(distances[: max(len(vectors) - f - 2, 1)]))
        best = sorted(range(len(vectors)), key=lambda i: (scores[i], i))[:m]
        return np.mean([vectors[i] for i in best], axis=0)

    return krum_of


def nearest_to_all(vectors: Vectors, weights: np.ndarray) -> np.ndarray:
    """The geometric median as what it minimises."""
    away = lambda z: np.sum(weights * np.linalg.norm(vectors - z, axis=1))  # noqa: E731
    options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 10_000}
    return scipy.optimize.minimize(away, vectors.mean(axis=0), method="Nelder-Mead", options=options).x


REFERENCES: dict[str, tuple[Reduce, Callable[[Vectors, np.ndarray], np.ndarray], float]] = {
    # name -> (reduction, loop, tolerance)
    "median": (median, lambda v, w: np.median(v, axis=0), 1e-12),
    "trimmed 0": (trimmed(0.0), lambda v, w: np.mean(v, axis=0), 1e-12),
    "trimmed 0.2": (trimmed(0.2), lambda v, w: scipy.stats.trim_mean(v, 0.2, axis=0), 1e-12),
    "trimmed 0.49": (trimmed(0.49), lambda v, w: scipy.stats.trim_mean(v, 0.49, axis=0), 1e-12),
    "krum": (krum(2), numpy_krum(2), 1e-12),
    "krum of few": (krum(9), numpy_krum(9), 1e-12),
    "multi-krum": (krum(1, m=3), numpy_krum(1, 3), 1e-12),
    "multi-krum of all": (krum(1, m=50), numpy_krum(1, 50), 1e-12),
    "geometric median": (geometric_median(steps=200), nearest_to_all, 1e-4),
    "geometric median, uniform": (
        uniform(geometric_median(steps=200)),
        lambda v, w: nearest_to_all(v, np.ones_like(w)),
        1e-4,
    ),
}
ROBUST = pytest.mark.parametrize("name", REFERENCES)


def reduced(reduce: Reduce, vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """As the engine has it: absent clients have weight 0 and zeros; vectors of five as a model of two leaves."""
    vectors = np.where(weights[:, None] > 0, vectors, 0.0)
    uploads = Params({"a": jnp.asarray(vectors[:, :2]), "b": jnp.asarray(vectors[:, 2:]).reshape(-1, 1, 3)})
    lifted = jax.vmap(reduce.lift)(uploads, jnp.asarray(weights))
    one = jax.jit(reduce.lower)(lifted, jnp.asarray(weights)).trainable
    return np.concatenate([one["a"], one["b"][0]])


def cohort(seed: int, clients: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(clients, 5)) + 3, draw.integers(1, 9, clients).astype(float)


@pytest.mark.usefixtures("x64", "strict")
@ROBUST
@pytest.mark.parametrize("heard", [9, 6, 3, 1])
def test_robust_reductions_are_the_loops_of_the_papers(name: str, heard: int):
    """Of ten slots so many are heard, here and there: the others hold zeros, which a median would see."""
    reduce, loop, tolerance = REFERENCES[name]
    vectors, weights = cohort(heard, 10)
    silent = np.random.default_rng(heard).permutation(10)[heard:]
    weights[silent] = 0
    expected = loop(vectors[weights > 0], weights[weights > 0])
    np.testing.assert_allclose(reduced(reduce, vectors, weights), expected, rtol=0, atol=tolerance)


@pytest.mark.usefixtures("x64", "strict")
@pytest.mark.parametrize("name", [name for name in REFERENCES if name != "krum of few"])
def test_nobody_heard_clients_that_agree_and_their_order(name: str):
    """With a single neighbour, two that are nearest to each other are equals, of whom the first counts."""
    reduce = REFERENCES[name][0]
    vectors, weights = cohort(0, 7)
    np.testing.assert_array_equal(reduced(reduce, vectors, 0 * weights), np.zeros(5))
    alike = np.repeat(vectors[:1], 7, axis=0)
    np.testing.assert_allclose(reduced(reduce, alike, weights), alike[0], rtol=1e-14)
    order = np.random.default_rng(1).permutation(7)
    turned = reduced(reduce, vectors[order], weights[order])
    np.testing.assert_allclose(turned, reduced(reduce, vectors, weights), rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64", "strict")
@pytest.mark.parametrize(
    ("reduce", "bears"),
    [(median, 4), (trimmed(0.25), 2), (krum(3), 3), (krum(3, m=4), 3), (uniform(geometric_median()), 4), (mean, 0)],
    ids=["median", "trimmed", "krum", "multi-krum", "geometric median", "mean"],
)
def test_so_many_attackers_are_borne_and_no_more(reduce: Reduce, bears: int):
    """Nine clients around 3; attackers agree on a point far away. One more than the bound, or most, and it is lost."""
    vectors, _ = cohort(0, 9)

    def off(attackers: int) -> float:
        sent = np.where(np.arange(9)[:, None] < attackers, 1e6, vectors)
        terms = jax.vmap(reduce.lift)(jnp.asarray(sent), jnp.ones(9))
        if reduce.summed:
            terms = jax.tree.map(lambda leaf: leaf.sum(axis=0), terms)
        return float(np.max(np.abs(reduce.lower(terms, jnp.ones(9)) - 3)))

    assert off(bears) < 4
    assert off(5 if bears else 1) > 1e5


@pytest.mark.usefixtures("strict")
def test_statistics_are_no_part_of_a_distance():
    """By its model the second client is the middle one, by its statistics the last."""
    uploads = Params({"w": jnp.array([0.0, 1.0, 2.2, 9.0, 10.0])}, {"var": jnp.array([0.0, 900.0, 0.0, 0.0, 0.0])})
    chosen = krum(1).lower(uploads, jnp.ones(5))
    assert (float(chosen.trainable["w"]), float(chosen.stats["var"])) == (1.0, 900.0)


@pytest.mark.usefixtures("strict")
def test_robust_reductions_work_within_clusters():
    """Medians of (1, 3, 900) and of (5,): the client of weight 0 does not count, and the third cluster is empty."""
    clusters, values = jnp.array([0, 1, 0, 0, 1]), jnp.array([1.0, 5.0, 3.0, 900.0, 0.0])
    weights = jnp.array([1.0, 2.0, 3.0, 1.0, 0.0])
    reduce = grouped(3, median)
    uploads, members = reduce.lower(jax.vmap(reduce.lift)((clusters, values), weights), weights)
    assert (uploads.tolist(), members.tolist()) == ([3.0, 5.0, 0.0], [5.0, 2.0, 0.0])


def test_a_reduction_takes_another_ones_place():
    """Within the clusters where there are some; not where a method needs all uploads."""
    assert mean.instead(median) is uniform(mean).instead(median) is median
    uploads, _ = lowered(grouped(3, mean).instead(uniform(mean)))
    assert uploads == [2.5, 5.0, 0.0]
    with pytest.raises(ValueError, match="needs each client's own upload"):
        stack.instead(median)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: trimmed(0.5), "beta=0.5: it must be a number of at least 0 and below 0.5"),
        (lambda: krum(-1), "f=-1: it must be a whole number of at least 0"),
        (lambda: krum(1, m=0), "m=0: it must be a whole number of at least 1"),
        (lambda: geometric_median(smoothing=0.0), "smoothing=0.0: it must be a number above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[], Reduce], message: str):
    with pytest.raises(ValueError, match=message):
        make()
