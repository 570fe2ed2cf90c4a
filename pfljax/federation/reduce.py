"""Reductions: how the uploads of a cohort become what the server sees.

A client that did not reply has weight 0 and an upload of zeros. The robust ones make one tree of all uploads [M, ...],
which are held at once; how many clients are heard may change from round to round. `uniform` and `grouped` make others
of any of them, and `wrappers.reduced_by` gives them to a method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.checks import Bounds
from pfljax.types import Array, Reduce, Tree


def _lift_mean(upload: Tree, weight: Array) -> tuple[Tree, Array]:
    return tree.scale(weight, upload), weight


def _lower_mean(terms: tuple[Tree, Array], weights: Array) -> Tree:
    del weights
    total, weight = terms
    return jax.tree.map(lambda leaf: leaf / jnp.where(weight > 0, weight, 1).astype(leaf.dtype), total)


mean = Reduce(_lift_mean, _lower_mean)
"""`sum_i n_i u_i / sum_i n_i`, zeros if nobody replied."""


def _whole(reduce: Reduce) -> Reduce:
    raise ValueError("this method needs each client's own upload, and a reduction makes one of all: leave it out")


stack = Reduce(lambda upload, weight: upload, lambda terms, weights: terms, summed=False, instead=_whole)
"""The uploads themselves, leaves [M, ...]; a method that needs them bears no other reduction."""


def beside(reduce: Reduce) -> Reduce:
    """What `reduce` makes of the uploads, and beside it the uploads themselves: `(reduced, uploads [M, ...])`.

    >>> reduced, each = beside(mean).lower(jnp.array([3.0, 5.0]), jnp.array([3.0, 1.0]))
    >>> float(reduced), each.tolist()
    (3.5, [3.0, 5.0])
    """

    def lower(uploads: Tree, weights: Array) -> tuple[Tree, Tree]:
        return reduced(reduce, uploads, weights), uploads

    return Reduce(stack.lift, lower, summed=False, instead=lambda other: beside(reduce.instead(other)))


def reduced(reduce: Reduce, uploads: Tree, weights: Array) -> Tree:
    """What `reduce` makes of uploads [M, ...] with weights [M].

    >>> float(reduced(mean, jnp.array([3.0, 5.0]), jnp.array([3.0, 1.0])))
    3.5
    """
    terms = jax.vmap(reduce.lift)(uploads, weights)
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), terms) if reduce.summed else terms
    return reduce.lower(total, weights)


def handed(uploads: Tree, expected: Tree, needs: str) -> Tree:
    """`uploads`, if a reduction has made them as `expected` is: the same tree of the same shapes.

    Raises:
      ValueError: if it has not; the sentence ends with what the method `needs`.

    >>> handed(jnp.zeros((3, 2)), jnp.zeros(2), "one tree, see `mean`")
    Traceback (most recent call last):
    ValueError: the reduction hands on leaves [(3, 2)] where [(2,)] are expected: this method needs one tree, see `mean`
    """
    made, wanted = ([jnp.shape(leaf) for leaf in jax.tree.leaves(part)] for part in (uploads, expected))
    if made != wanted or jax.tree.structure(uploads) != jax.tree.structure(expected):
        raise ValueError(f"the reduction hands on leaves {made} where {wanted} are expected: this method needs {needs}")
    return uploads


def one_each(weight: Array) -> Array:
    """1 for each client that replied.

    >>> one_each(jnp.array([20.0, 0.0])).tolist()
    [1.0, 0.0]
    """
    return (weight > 0).astype(weight.dtype)


def uniform(reduce: Reduce) -> Reduce:
    """`reduce` with weight 1 for each client that replied.

    >>> total = uniform(mean).lift(jnp.array([3.0]), jnp.array(20.0))
    >>> uniform(mean).lower(total, jnp.array([20.0])).tolist()
    [3.0]
    """
    return Reduce(
        lambda upload, weight: reduce.lift(upload, one_each(weight)),
        lambda terms, weights: reduce.lower(terms, one_each(weights)),
        reduce.summed,
        reduce.instead,
    )


def grouped(clusters: int, reduce: Reduce) -> Reduce:
    """`reduce` within each of K clusters, for uploads `(cluster [], upload)`.

    Lowers to `(uploads [K, ...], weight [K])`: a cluster of weight 0 had no member in this round.

    >>> one, other = (jnp.asarray(0), jnp.asarray(3.0)), (jnp.asarray(1), jnp.asarray(5.0))
    >>> terms = [grouped(3, mean).lift(upload, jnp.asarray(2.0)) for upload in (one, one, other)]
    >>> uploads, weights = grouped(3, mean).lower(jax.tree.map(lambda *leaves: sum(leaves), *terms), jnp.full(3, 2.0))
    >>> uploads.tolist(), weights.tolist()
    ([3.0, 5.0, 0.0], [4.0, 2.0, 0.0])
    """

    def lift(upload: tuple[Array, Tree], weight: Array) -> tuple[Tree, Array]:
        cluster, content = upload
        if not jax.tree_util.all_leaves([cluster]):
            raise ValueError("grouped reduces uploads `(cluster, upload)`, as ifca makes them: use the inner reduction")
        weights = jnp.where(jnp.arange(clusters) == cluster, weight, 0)
        if reduce.summed:
            return jax.vmap(reduce.lift, (None, 0))(content, weights), weights
        return reduce.lift(content, weight), weights

    def lower(terms: tuple[Tree, Array], weights: Array) -> tuple[Tree, Array]:
        del weights
        lifted, shares = terms
        if reduce.summed:
            return jax.vmap(reduce.lower)(lifted, shares), shares
        return jax.vmap(reduce.lower, (None, 1))(lifted, shares), jnp.sum(shares, axis=0)

    return Reduce(lift, lower, reduce.summed, lambda other: grouped(clusters, reduce.instead(other)))


def _of_all(lower: Callable[[Tree, Array], Tree]) -> Reduce:
    return Reduce(lambda upload, weight: upload, lower, summed=False)


def _by_coordinate(of: Callable[[Array, Array], Array]) -> Reduce:
    """`of(the values of those who are heard, ascending and then infinity [M, ...], their number [])`."""

    def lower(uploads: Tree, weights: Array) -> Tree:
        heard, number = weights > 0, jnp.sum(weights > 0)

        def leaf(rows: Array) -> Array:
            mine = heard.reshape(-1, *[1] * (rows.ndim - 1))
            return jnp.where(number > 0, of(jnp.sort(jnp.where(mine, rows, jnp.inf), axis=0), number), 0)

        return jax.tree.map(leaf, uploads)

    return _of_all(lower)


def _middle(ascending: Array, number: Array) -> Array:
    low, high = (jnp.take(ascending, place, axis=0, mode="clip") for place in ((number - 1) // 2, number // 2))
    return (low + high) / 2


median = _by_coordinate(_middle)
"""The median of each coordinate, clients counting equally; zeros if nobody replied.

Bears less than half of the clients. Source: Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, definition 1.
"""


@checks.by_hints()
def trimmed(beta: Annotated[float, Bounds(least=0, below=0.5)] | Array = 0.1) -> Reduce:
    """The mean of each coordinate without its `floor(beta m)` smallest and as many largest values, of m that are heard.

    Clients count equally. Bears a share `beta` of the clients. Source: Yin et al., ICML 2018, definition 2.

    Args:
      beta: share that is cut at each end, in [0, 0.5), traced; 0 is `uniform(mean)`.

    >>> trimmed(0.25).lower(jnp.array([1.0, 900.0, 3.0, -70.0]), jnp.ones(4)).tolist()
    2.0
    """

    def of(ascending: Array, number: Array) -> Array:
        cut = jnp.floor(beta * number.astype(float)).astype(number.dtype)
        places = jnp.arange(ascending.shape[0]).reshape(-1, *[1] * (ascending.ndim - 1))
        kept = jnp.where((places >= cut) & (places < number - cut), ascending, 0)
        return jnp.sum(kept, axis=0) / jnp.maximum(number - 2 * cut, 1).astype(ascending.dtype)

    return _by_coordinate(of)


@checks.by_hints()
def krum(f: checks.Size = 1, *, m: checks.Count = 1) -> Reduce:
    """The upload with the nearest neighbours, or the mean of the m first of that order (multi-Krum).

    `s(i)` is the sum of `||u_i - u_j||^2` over the `n - f - 2` clients j nearest to i, of n that are heard; the lowest
    counts, of equal ones that of the lowest id. Distances are between what is trained, not between statistics.

    Args:
      f: attackers that are borne, static; the paper's bound needs `n > 2 f + 2`. One neighbour counts where there are
        fewer.
      m: uploads that are averaged, static, equally; all that are heard if they are fewer.

    Source: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
    sections 4 and 5.

    >>> krum(1).lower(jnp.array([1.0, 1.5, 1.75, 90.0, 3.0]), jnp.ones(5)).tolist()
    1.5
    """

    def lower(uploads: Tree, weights: Array) -> Tree:
        heard, number = weights > 0, jnp.sum(weights > 0)
        places = jnp.arange(heard.size)
        near = jnp.minimum(jnp.maximum(number - f - 2, 1), number - 1)

        def score(client: tuple[Array, Tree]) -> Array:
            place, upload = client
            distances = _distances(upload, uploads, heard.shape)
            ascending = jnp.sort(jnp.where(heard & (places != place), distances, jnp.inf))
            return jnp.sum(jnp.where(places < near, ascending, 0))

        scores = jax.lax.map(score, (places, uploads))
        order = jnp.argsort(jnp.where(heard, scores, jnp.inf))
        return weighted(uploads, jnp.zeros_like(weights).at[order[:m]].set(1) * one_each(weights))

    return _of_all(lower)


@checks.by_hints()
def geometric_median(*, steps: checks.Count = 8, smoothing: checks.Positive | Array = 1e-6) -> Reduce:
    """The point z with the least `sum_i n_i ||z - u_i||`, by the smoothed Weiszfeld algorithm.

    From the `median`, `steps` times: `b_i = n_i / max(smoothing, ||z - u_i||)`, `z <- sum_i b_i u_i / sum_i b_i`.
    Distances are between what is trained; statistics are averaged with the same `b_i`. Bears less than half of the
    weight; `uniform(geometric_median())` of the clients.

    Args:
      steps: of the algorithm, static.
      smoothing: the paper's nu, > 0, traced.

    Deviations from the source: it starts at the `median`, not at a mean that attackers move.
    Source: Pillutla et al., "Robust Aggregation for Federated Learning", IEEE Transactions on Signal Processing 2022,
    Algorithm 2 (RFA).

    >>> round(geometric_median().lower(jnp.array([1.0, 2.0, 90.0]), jnp.ones(3)).item(), 3)
    2.0
    """

    def lower(uploads: Tree, weights: Array) -> Tree:
        def step(_: Array, z: Tree) -> Tree:
            away = jnp.sqrt(_distances(z, uploads, weights.shape))
            return weighted(uploads, weights / jnp.maximum(away, smoothing).astype(weights.dtype))

        return jax.lax.fori_loop(0, steps, step, median.lower(uploads, weights))

    return _of_all(lower)


def _distances(upload: Tree, uploads: Tree, shape: tuple[int, ...]) -> Array:
    """Squared distances [M] of one upload to all of them, in what is trained."""
    one, all_of_them = (
        tree.split(masks.trained(part), part)[0] for part in (jax.tree.map(lambda leaf: leaf[None], upload), uploads)
    )
    return jnp.broadcast_to(tree.row_distances(one, all_of_them), shape)


def weighted(uploads: Tree, weights: Array) -> Tree:
    """The mean of uploads [M, ...] by weights [M], zeros if they are all 0.

    >>> float(weighted(jnp.array([3.0, 5.0]), jnp.array([3.0, 1.0])))
    3.5
    """
    total = jnp.sum(weights)
    shares = weights / jnp.where(total > 0, total, 1)
    return jax.tree.map(lambda rows: jnp.tensordot(shares.astype(rows.dtype), rows, 1), uploads)
