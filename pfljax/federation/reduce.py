"""Reductions: how the uploads of a cohort become what the server sees.

A client that did not reply has weight 0 and an upload of zeros.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.types import Array, Reduce, Tree


def _lift_mean(upload: Tree, weight: Array) -> tuple[Tree, Array]:
    return tree.scale(weight, upload), weight


def _lower_mean(terms: tuple[Tree, Array], weights: Array) -> Tree:
    del weights
    total, weight = terms
    return jax.tree.map(lambda leaf: leaf / jnp.where(weight > 0, weight, 1).astype(leaf.dtype), total)


mean = Reduce(_lift_mean, _lower_mean)
"""`sum_i n_i u_i / sum_i n_i`, zeros if nobody replied."""

stack = Reduce(lambda upload, weight: upload, lambda terms, weights: terms, summed=False)
"""The uploads themselves, leaves [M, ...]."""


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


def _one_each(weight: Array) -> Array:
    return (weight > 0).astype(weight.dtype)


def uniform(reduce: Reduce) -> Reduce:
    """`reduce` with weight 1 for each client that replied.

    >>> total = uniform(mean).lift(jnp.array([3.0]), jnp.array(20.0))
    >>> uniform(mean).lower(total, jnp.array([20.0])).tolist()
    [3.0]
    """
    return Reduce(
        lambda upload, weight: reduce.lift(upload, _one_each(weight)),
        lambda terms, weights: reduce.lower(terms, _one_each(weights)),
        reduce.summed,
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
        return jax.vmap(reduce.lift, (None, 0))(content, weights), weights

    def lower(terms: tuple[Tree, Array], weights: Array) -> tuple[Tree, Array]:
        del weights
        lifted, shares = terms
        if reduce.summed:
            return jax.vmap(reduce.lower)(lifted, shares), shares
        return jax.vmap(reduce.lower, (1, 1))(lifted, shares), jnp.sum(shares, axis=0)

    return Reduce(lift, lower, reduce.summed)
