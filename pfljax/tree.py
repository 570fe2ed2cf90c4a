"""Arithmetic on pytrees, and splitting a tree into complementary halves."""

from __future__ import annotations

import itertools
from typing import TypeVar

import jax
import jax.numpy as jnp

from pfljax.types import Array, Tree

T = TypeVar("T")


def _none(leaf: object) -> bool:
    return leaf is None


def split(mask: Tree, tree: T) -> tuple[T, T]:
    """Splits `tree` into the leaves where `mask` is true and the rest; each half has `None` for the other's leaves.

    >>> split({"a": True, "b": False}, {"a": 1, "b": 2})
    ({'a': 1, 'b': None}, {'a': None, 'b': 2})
    """
    chosen = jax.tree.map(lambda m, leaf: leaf if m else None, mask, tree)
    rest = jax.tree.map(lambda m, leaf: None if m else leaf, mask, tree)
    return chosen, rest


def merge(first: T, second: T) -> T:
    """Undoes `split`: each leaf from the half that has it."""
    return jax.tree.map(lambda a, b: b if a is None else a, first, second, is_leaf=_none)


def like(tree: Tree, half: T) -> T:
    """The leaves of the whole `tree` at the places that `half` has.

    >>> like({"a": 1, "b": 2}, {"a": 0, "b": None})
    {'a': 1, 'b': None}
    """
    return jax.tree.map(lambda leaf, h: None if h is None else leaf, tree, half, is_leaf=_none)


def without(tree: T, half: Tree) -> T:
    """The leaves of `tree` at the places that `half` lacks.

    >>> without({"a": 1, "b": 2}, {"a": 0, "b": None})
    {'a': None, 'b': 2}
    """
    return jax.tree.map(lambda leaf, h: leaf if h is None else None, tree, half, is_leaf=_none)


def sub(a: T, b: T) -> T:
    """`a - b`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, a, b)


def add(a: T, b: T) -> T:
    """`a + b`, leaf by leaf."""
    return jax.tree.map(jnp.add, a, b)


def scale(factor: Array | float, tree: T) -> T:
    """`factor * tree`; the leaves keep their dtypes."""
    return jax.tree.map(lambda x: (factor * x).astype(x.dtype), tree)


def axpy(factor: Array | float, x: T, y: T) -> T:
    """`factor * x + y`, leaf by leaf."""
    return jax.tree.map(lambda a, b: (factor * a + b).astype(b.dtype), x, y)


def mix(weight: Array | float, a: T, b: T) -> T:
    """`weight a + (1 - weight) b`: bit for bit `a` at weight 1, `b` at weight 0."""
    return jax.tree.map(lambda u, v: weight * u + (1 - weight) * v, a, b)


def vdot(a: Tree, b: Tree) -> Array:
    """`<a, b>`: the sum over leaves of elementwise products."""
    return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, a, b)), start=jnp.zeros(()))


def squared_norm(tree: Tree) -> Array:
    """`||tree||^2`."""
    return vdot(tree, tree)


def row_products(a: Tree, table: Tree) -> Array:
    """Inner products of the rows of `a`, of which there are one or N, with the rows of `table`: [N]."""

    def leaf(x: Array, rows: Array) -> Array:
        return jnp.sum((x * rows).reshape(rows.shape[0], -1), axis=1)

    return sum(jax.tree.leaves(jax.tree.map(leaf, a, table)), start=jnp.zeros(()))


def products(a: Tree, b: Tree) -> Array:
    """Inner products of every row of `a` [n, ...] with every row of `b` [m, ...]: [n, m]."""

    def leaf(x: Array, y: Array) -> Array:
        return jnp.matmul(x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1).T, precision="highest")

    return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)), start=jnp.zeros(()))


def row_distances(row: Tree, table: Tree) -> Array:
    """`||row - table_i||^2` of one row [1, ...] to each row of `table`: [N]."""
    difference = sub(table, row)
    return row_products(difference, difference)


def where(condition: Array, yes: T, no: T) -> T:
    """`yes` where the scalar `condition` holds, else `no`."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def shaped(shapes: T, vector: Array) -> T:
    """The entries of `vector` [n], in their order, as leaves of these shapes and dtypes.

    >>> shaped({"a": jnp.zeros(1), "b": jnp.zeros((1, 2))}, jnp.array([1.0, 2.0, 3.0]))["b"].tolist()
    [[2.0, 3.0]]
    """
    leaves, structure = jax.tree.flatten(shapes)
    parts = jnp.split(vector, list(itertools.accumulate(leaf.size for leaf in leaves))[:-1])
    filled = (part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True))
    return jax.tree.unflatten(structure, filled)


def finite(tree: Tree) -> Array:
    """Whether every floating-point leaf is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves])) if leaves else jnp.asarray(True)


def nbytes(tree: Tree) -> int:
    """Bytes of the leaves; shapes and dtypes suffice."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
