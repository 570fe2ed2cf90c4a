"""The walk over a cohort: blocks of clients one after the other, all clients of a block at once, blocks over devices.

One code path for every executor: a block of 1 is one client after another, a block of M the whole cohort at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import PartitionSpec

from pfljax import tree
from pfljax.engine.mesh import Axis
from pfljax.types import Array, Tree


class Layout(NamedTuple):
    """How a cohort is cut."""

    slots: int  # places of the cohort and its padding
    block: int  # clients at once
    axis: Axis | None  # devices that share the blocks, None for one device


def layout(cohort: int, block: int, axis: Axis | None) -> Layout:
    """The layout of `cohort` clients in the fewest blocks of at most `block`, as even as they can be.

    >>> layout(10, 8, None)[:2]
    (10, 5)
    """
    devices = 1 if axis is None else axis.size
    share = -(-cohort // devices)
    blocks = -(-share // block)
    even = -(-share // blocks)
    return Layout(blocks * even * devices, even, axis)


def order(costs: Array, plan: Layout) -> Array:
    """A permutation [slots] that puts clients of like cost into one block and deals the blocks to and fro, so that the
    devices have like work.

    >>> from types import SimpleNamespace
    >>> two_devices = Layout(4, 1, SimpleNamespace(size=2))
    >>> order(jnp.array([7.0, 1.0, 5.0, 4.0]), two_devices).tolist()  # 7 + 1 and 5 + 4
    [0, 1, 2, 3]
    """
    devices = 1 if plan.axis is None else plan.axis.size
    ranks = np.arange(plan.slots).reshape(-1, devices, plan.block)
    ranks[1::2] = ranks[1::2, ::-1].copy()
    return jnp.argsort(-costs, stable=True)[ranks.swapaxes(0, 1).reshape(-1)]


def walk(one: Callable[[Tree, Tree], tuple[Tree, Tree]], shared: Tree, rows: Tree, plan: Layout) -> tuple[Tree, Tree]:
    """Calls `one(shared, row) -> (term, kept)` for each of the `rows` [slots, ...]; `one` is traced once.

    Within `one`, clients of a cohort may be walked along another axis of the same mesh: there each device of it has all
    rows, and takes its part.

    Returns:
      The sum of the terms, and the kept values [slots, ...].
    """

    def blocks(shared: Tree, rows: Tree) -> tuple[Tree, Tree]:
        first = jax.tree.map(lambda leaf: leaf[0, 0], rows)
        traced, (term, kept) = jax.make_jaxpr(one, return_shape=True)(shared, first)
        structure, run = jax.tree.structure((term, kept)), jaxpr_as_fun(traced)

        def again(row: Tree) -> tuple[Tree, Tree]:
            return jax.tree.unflatten(structure, map(jnp.asarray, run(*jax.tree.leaves((shared, row)))))

        def step(total: Tree, row: Tree) -> tuple[Tree, Tree]:
            if plan.block == 1:
                term, kept = again(jax.tree.map(lambda leaf: leaf[0], row))
                return tree.add(total, term), jax.tree.map(lambda leaf: leaf[None], kept)
            terms, kept = jax.vmap(again)(row)
            return tree.add(total, jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, dtype=leaf.dtype), terms)), kept

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), term)
        return jax.lax.scan(step, zeros, rows)

    cut = jax.tree.map(lambda leaf: leaf.reshape(len(leaf) // plan.block, plan.block, *leaf.shape[1:]), rows)
    total, kept = blocks(shared, cut) if plan.axis is None else _shared_out(blocks, shared, cut, plan.axis)
    return total, jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0] * leaf.shape[1], *leaf.shape[2:]), kept)


def _shared_out(
    blocks: Callable[[Tree, Tree], tuple[Tree, Tree]], shared: Tree, rows: Tree, axis: Axis
) -> tuple[Tree, Tree]:
    """`blocks(shared, part)`, each device of `axis` with its part of the rows; the sum, and the kept values of all."""

    def of(shared: Tree, part: Tree) -> tuple[Tree, Tree]:
        total, kept = blocks(shared, part)
        return jax.lax.psum(total, axis.name), kept

    if axis.name in jax.sharding.get_abstract_mesh().manual_axes:
        own = jax.lax.axis_index(axis.name)
        part = jax.tree.map(lambda leaf: leaf.reshape(axis.size, len(leaf) // axis.size, *leaf.shape[1:])[own], rows)
        total, kept = of(shared, part)
        return total, jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, axis.name, tiled=True), kept)
    # Replication is not checked: the check makes jax.grad sum the clients' gradients over the devices.
    everywhere, split = PartitionSpec(), PartitionSpec(axis.name)
    spread = jax.shard_map(
        of, mesh=axis.mesh, in_specs=(everywhere, split), out_specs=(everywhere, split), check_vma=False
    )
    return spread(shared, rows)
