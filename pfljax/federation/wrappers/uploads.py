"""What wrappers share: a change of uploads that leaves statistics and whole numbers alone."""

from __future__ import annotations

from collections.abc import Callable

import jax

from pfljax import masks, tree
from pfljax.types import Algorithm, Array, ClientData, Reply, Tree

ATTACK, NOISE, COMPRESSION = 2**31, 2**31 + 1, 2**31 + 2
"""Phases of a client's and of the server's key, far from those of methods."""


def changed(change: Callable[[Tree], Tree], upload: Tree) -> Tree:
    """`change` of what is trained in an upload, beside the rest of it.

    >>> import jax.numpy as jnp
    >>> changed(lambda part: tree.scale(2, part), (jnp.asarray(3), jnp.asarray(0.5)))
    (Array(3, dtype=int32, weak_type=True), Array(1., dtype=float32))
    """
    part, rest = tree.split(masks.trained(upload), upload)
    return tree.merge(change(part), rest)


def sending(algorithm: Algorithm, change: Callable[[Tree, ClientData, Array], Tree], phase: int) -> Algorithm:
    """`algorithm` whose clients send `change(what is trained in the upload, data, key)`."""

    def client_update(download: Tree, client: Tree, data: ClientData, key: Array) -> Reply:
        reply, own = algorithm.client_update(download, client, data, key), jax.random.fold_in(key, phase)
        return reply._replace(upload=changed(lambda part: change(part, data, own), reply.upload))

    return algorithm._replace(client_update=client_update)


def by_leaf(of: Callable[[Array, Array], Array], part: Tree, key: Array) -> Tree:
    """`of(leaf, a key of its own)` of each leaf."""
    leaves, structure = jax.tree.flatten(part)
    keys = [jax.random.fold_in(key, place) for place in range(len(leaves))]
    return jax.tree.unflatten(structure, map(of, leaves, keys))


def gaussian_like(part: Tree, std: Array | float, key: Array) -> Tree:
    """Independent draws from N(0, std^2) in place of each number."""
    return tree.scale(std, by_leaf(lambda leaf, own: jax.random.normal(own, leaf.shape, leaf.dtype), part, key))
