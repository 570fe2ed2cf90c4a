"""Tables: what a server keeps of every client, as rows of leaves [N, ...]."""

from __future__ import annotations

from typing import TypeVar

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.types import Array, Cohort, Tree

T = TypeVar("T")


def repeated(row: T, count: int) -> T:
    """So many equal rows: a table, or copies of a model.

    >>> repeated({"w": jnp.array([1, 2])}, 2)["w"].tolist()
    [[1, 2], [1, 2]]
    """
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], count, axis=0), row)


def row(table: T, id: Array) -> T:
    """The row of client `id`; the mean of all rows for a newcomer, whose id is N or more.

    >>> [float(row(jnp.array([3.0, 5.0]), jnp.asarray(id))) for id in (0, 1, 2)]
    [3.0, 5.0, 4.0]
    """
    known = id < size(table)

    def leaf(rows: Array) -> Array:
        return jnp.where(known, jnp.take(rows, id, axis=0, mode="clip"), jnp.mean(rows, axis=0))

    return jax.tree.map(leaf, table)


def mixed(weights: Array, table: T) -> T:
    """`sum_j weights_j row_j`, for weights [N].

    >>> float(mixed(jnp.array([0.25, 0.75]), jnp.array([0.0, 8.0])))
    6.0
    """
    return jax.tree.map(lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, 1), table)


def distances(table: Tree) -> Array:
    """`||row_i - row_j||^2` [N, N] of all pairs of rows, from rows less their mean, as nearly equal ones would cancel.

    >>> distances({"w": jnp.array([[1.0, 2.0], [3.0, 0.0]])}).tolist()
    [[0.0, 8.0], [8.0, 0.0]]
    """
    around = jax.tree.map(lambda rows: rows - jnp.mean(rows, axis=0, keepdims=True), table)
    products = tree.products(around, around)
    own = jnp.diagonal(products)
    return jnp.maximum(own[:, None] + own[None] - 2 * products, 0)


def replaced(table: T, cohort: Cohort, rows: Tree) -> T:
    """The table with new `rows` [M, ...] of the clients that replied.

    >>> cohort = Cohort(ids=jnp.array([0, 2, 3]), uploads=(), weights=jnp.array([1.0, 0.0, 0.0]))
    >>> replaced(jnp.zeros(3), cohort, jnp.array([5.0, 7.0, 9.0])).tolist()
    [5.0, 0.0, 0.0]
    """
    clients = places(table, cohort)
    return jax.tree.map(lambda leaf, new: leaf.at[clients].set(new, mode="drop"), table, rows)


def places(table: Tree, cohort: Cohort) -> Array:
    """The rows [M] of the clients that replied; N, which is none, for one that did not.

    >>> cohort = Cohort(ids=jnp.array([0, 2, 3]), uploads=(), weights=jnp.array([1.0, 0.0, 0.0]))
    >>> places(jnp.zeros(3), cohort).tolist()
    [0, 3, 3]
    """
    return jnp.where(cohort.weights > 0, cohort.ids, size(table))


def size(table: Tree) -> int:
    """N, the number of rows."""
    return jax.tree.leaves(table)[0].shape[0]
