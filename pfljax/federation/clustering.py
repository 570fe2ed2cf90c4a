"""Clusters of the clients of a round: k-means and agglomeration of distances, in arrays of known shapes.

`members` [n] or weights [n] say which of the n rows count; the others are in no cluster that matters.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import weighted
from pfljax.types import Array, Tree

T = TypeVar("T")

Linkage = Literal["single", "complete", "average", "ward"]
Measure = Literal["l1", "l2", "cosine"]


class Merges(NamedTuple):
    """Clusters that became one, in this order. A cluster has the number of its first row."""

    kept: Array  # [n] the cluster that goes on
    gone: Array  # [n] the one that it takes in
    heights: Array  # [n] their distance, infinity where nothing was left to merge


def cosines(rows: Tree, others: Tree) -> Array:
    """Cosines of the angles between rows [n, ...] and others [m, ...]: [n, m]; 0 with a row of length 0.

    >>> cosines({"w": jnp.array([[1.0, 0.0]])}, {"w": jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])}).tolist()
    [[1.0, 0.0, -1.0]]
    """
    lengths = jnp.sqrt(tree.row_products(rows, rows))[:, None] * jnp.sqrt(tree.row_products(others, others))[None]
    return tree.products(rows, others) / jnp.where(lengths > 0, lengths, jnp.inf)


def distances(rows: Tree, others: Tree, measure: Measure) -> Array:
    """How far rows [n, ...] are from others [m, ...]: [n, m]; by `cosine` it is one minus that of the angle.

    >>> rows = {"w": jnp.array([[0.0, 3.0], [4.0, 0.0]])}
    >>> [distances(rows, rows, measure)[0].tolist() for measure in ("l1", "l2", "cosine")]
    [[0.0, 7.0], [0.0, 5.0], [0.0, 1.0]]
    """
    if measure == "cosine":
        return 1 - cosines(rows, others)

    def away(row: Tree) -> Array:
        row = jax.tree.map(lambda leaf: leaf[None], row)
        if measure == "l2":
            return jnp.sqrt(tree.row_distances(row, others))
        return tree.row_products(*_signed(tree.sub(others, row)))

    return jax.lax.map(away, rows)


def _signed(rows: Tree) -> tuple[Tree, Tree]:
    """Two trees whose inner product is the sum of the absolute values."""
    return jax.tree.map(jnp.sign, rows), rows


def agglomerated(distances: Array, members: Array, linkage: Linkage, merges: Array | int | None = None) -> Merges:
    """The two nearest clusters become one, again and again, from clusters of one row each.

    The distance of a new cluster to another is the `single` smallest or the `complete` largest one between their
    rows, the `average` of all, or by `ward` the growth of the sum of squares (distances are Euclidean then).

    Args:
      distances: [n, n] between rows, symmetric.
      members: [n] rows that take part.
      linkage: see above, static.
      merges: how many, traced; until one cluster is left if None.

    >>> line = jnp.array([0.0, 1.0, 3.0, 9.0])
    >>> made = agglomerated(jnp.abs(line[:, None] - line[None]), jnp.ones(4, bool), "single")
    >>> made.kept.tolist()[:3], made.gone.tolist()[:3], made.heights.tolist()
    ([0, 0, 0], [1, 2, 3], [1.0, 2.0, 6.0, inf])
    """
    n, places = members.size, jnp.arange(members.size)
    paired = members[:, None] & members[None] & (places[:, None] != places[None])

    def joined(a: Array, b: Array, height: Array, own: tuple[Array, Array], sizes: Array) -> Array:
        if linkage == "single":
            return jnp.minimum(a, b)
        if linkage == "complete":
            return jnp.maximum(a, b)
        m, k = own
        if linkage == "average":
            return (m * a + k * b) / (m + k)
        return jnp.sqrt(((m + sizes) * a**2 + (k + sizes) * b**2 - sizes * height**2) / (m + k + sizes))

    def merge(step: Array, carry: tuple[Array, Array, Merges]) -> tuple[Array, Array, Merges]:
        apart, sizes, made = carry
        kept, gone = jnp.divmod(jnp.argmin(apart), n)
        height = apart[kept, gone]
        row = joined(apart[kept], apart[gone], height, (sizes[kept], sizes[gone]), sizes)
        others = jnp.isfinite(apart[kept]) & (places != gone)
        row = jnp.where(others, row, jnp.inf)
        apart = apart.at[gone].set(jnp.inf).at[:, gone].set(jnp.inf).at[kept].set(row).at[:, kept].set(row)
        sizes = sizes.at[kept].add(sizes[gone])
        new = Merges(kept, gone, height)
        return apart, sizes, jax.tree.map(lambda all, one: all.at[step].set(one.astype(all.dtype)), made, new)

    none = Merges(jnp.zeros(n, int), jnp.zeros(n, int), jnp.full(n, jnp.inf, distances.dtype))
    start = jnp.where(paired, distances, jnp.inf), jnp.ones(n, distances.dtype), none
    return jax.lax.fori_loop(0, n - 1 if merges is None else merges, merge, start)[2]


def cut(made: Merges, members: Array, merges: Array) -> Array:
    """The cluster of each row [n] after the first `merges` [], numbered by their first members; -1 for no member.

    >>> made = Merges(jnp.array([1, 0]), jnp.array([2, 1]), jnp.array([1.0, 5.0]))
    >>> cut(made, jnp.ones(3, bool), jnp.asarray(1)).tolist()
    [0, 1, 1]
    """
    places = jnp.arange(members.size)

    def merge(step: Array, labels: Array) -> Array:
        return jnp.where(labels == made.gone[step], made.kept[step].astype(labels.dtype), labels)

    labels = jax.lax.fori_loop(0, merges, merge, places)
    numbers = jnp.cumsum((labels == places) & members) - 1
    return jnp.where(members, numbers[labels], -1)


def merges_until(made: Merges, members: Array, most: int, threshold: Array | float | None = None) -> Array:
    """How many merges leave the clusters apart: those up to `threshold`, or up to the largest gap between two heights.

    No more than `most` clusters are left, static.

    >>> made = Merges(jnp.zeros(3, int), jnp.arange(1, 4), jnp.array([1.0, 2.0, 6.0]))
    >>> [int(merges_until(made, jnp.ones(4, bool), 4, *given)) for given in ((), (1.5,))]
    [2, 1]
    """
    size = jnp.sum(members)
    if threshold is None:
        gaps = jnp.where(jnp.isfinite(made.heights[1:]), made.heights[1:] - made.heights[:-1], -jnp.inf)
        enough = jnp.argmax(gaps) + 1 if gaps.size else 1
    else:
        enough = jnp.sum(made.heights <= threshold)
    return jnp.clip(enough, jnp.maximum(size - most, 0), jnp.maximum(size - 1, 0))


def kmeans(squared: Array, weights: Array, clusters: int, key: Array, *, starts: int = 32, steps: int = 30) -> Array:
    """The cluster of each of n points [n] with the least `sum_i weight_i ||x_i - m_k(i)||^2`, of those found.

    Lloyd's algorithm, of which the best of `starts` counts; each begins at points that k-means++ draws.

    Args:
      squared: [n, n] squared distances between the points.
      weights: [n], 0 for those that do not count.
      clusters: K, static.
      key: of the draws.
      starts, steps: static.

    >>> line = jnp.array([0.0, 1.0, 8.0, 9.0])
    >>> labels = kmeans((line[:, None] - line[None]) ** 2, jnp.ones(4), 2, jax.random.key(0))
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True
    """

    def seeded(key: Array) -> Array:
        def add(number: Array, seeds: Array) -> Array:
            near = jnp.min(jnp.where(jnp.arange(clusters)[None] < number, squared[:, seeds], jnp.inf), axis=1)
            chance = jnp.log(weights * jnp.where(jnp.isfinite(near), near, 1))
            seed = jax.random.categorical(jax.random.fold_in(key, number), chance)
            return seeds.at[number].set(seed.astype(seeds.dtype))

        seeds = jax.lax.fori_loop(0, clusters, add, jnp.zeros(clusters, int))
        return jnp.argmin(squared[:, seeds], axis=1)

    def away(labels: Array) -> Array:
        """Squared distances [n, K] to the mean of each cluster."""
        mine = jnp.where(labels[:, None] == jnp.arange(clusters)[None], weights[:, None], 0)
        total = jnp.sum(mine, axis=0)
        shares = mine / jnp.where(total > 0, total, 1)[None]
        towards = jnp.matmul(squared, shares, precision="highest")
        return jnp.where(total[None] > 0, towards - jnp.sum(shares * towards, axis=0)[None] / 2, jnp.inf)

    def run(key: Array) -> tuple[Array, Array]:
        labels = jax.lax.fori_loop(0, steps, lambda _, labels: jnp.argmin(away(labels), axis=1), seeded(key))
        return jnp.sum(jnp.where(weights > 0, weights * jnp.min(away(labels), axis=1), 0)), labels

    found, labels = jax.lax.map(run, jax.vmap(lambda start: jax.random.fold_in(key, start))(jnp.arange(starts)))
    return labels[jnp.argmin(found)]


def nearest(away: Array, now: Array, hysteresis: Array | float = 0.0) -> Array:
    """The cluster with the least `away` [K], for a client that is in cluster `now` [] and may stay there.

    It leaves for cluster k if `away_now - away_k > hysteresis |away_now|`; without a cluster `now` is -1.

    >>> away = jnp.array([1.0, 0.75])
    >>> [int(nearest(away, jnp.asarray(now), 0.5)) for now in (-1, 0)], int(nearest(away, jnp.asarray(0)))
    ([1, 0], 1)
    """
    held = away[now]
    stays = (now >= 0) & ~(held - jnp.min(away) > hysteresis * jnp.abs(held))
    return jnp.where(stays, now, jnp.argmin(away).astype(now.dtype))


def averaged(models: T, rows: T, labels: Array, weights: Array, least: int = 1) -> T:
    """Models [K, ...] as the means of their members among the `rows` [n, ...], by weights [n]; others stay.

    Args:
      labels: [n] whose member each row is, -1 of none.
      least: members that a model needs to move, static.

    >>> made = averaged({"w": jnp.zeros(3)}, {"w": jnp.array([1.0, 5.0, 7.0])}, jnp.array([0, 1, 1]), jnp.ones(3))
    >>> made["w"].tolist()
    [1.0, 6.0, 0.0]
    """

    def one(model: T, cluster: Array) -> T:
        mine = jnp.where(labels == cluster, weights, 0)
        return tree.where(jnp.sum(mine > 0) >= least, weighted(rows, mine), model)

    return jax.vmap(one)(models, jnp.arange(jax.tree.leaves(models)[0].shape[0]))
