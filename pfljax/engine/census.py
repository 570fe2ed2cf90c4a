"""Clients of several kinds: how many there are of each, and what belongs to which."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data import FederatedData
from pfljax.data import kinds as kinds_of
from pfljax.results.scores import Score
from pfljax.types import Array, Draw, Tree

Census = tuple[tuple[int, int], ...]
"""How many clients of each kind train and are unseen; empty where all clients are of one kind."""


def taken(data: FederatedData, train: FederatedData, kinds: int) -> tuple[np.ndarray, Census]:
    """[N + U] the kind of each client, and how many of each train and are unseen.

    Raises:
      ValueError: if clients are of no kind, or of one in `data` and of another in `train`.
    """
    found = kinds_of(data, kinds)
    known, unseen = found[: train.num_clients], found[data.num_clients :]
    if (known != kinds_of(train, kinds)[: train.num_clients]).any():
        raise ValueError(f"clients of {train.name} are of other kinds than those of {data.name}: give both one trait")
    counts = (np.bincount(part, minlength=kinds).tolist() for part in (known, unseen))
    return found, tuple(zip(*counts, strict=True))


def numbers(data: FederatedData) -> Array:
    """[N + U] the kind of each client, where there are several."""
    return jnp.asarray(data.traits["kind"])


def members(data: FederatedData, ids: Array, counts: Sequence[int]) -> list[Array]:
    """Those of `ids` that are of each kind, of which there are so many."""
    own = numbers(data)[ids]
    return [ids[jnp.nonzero(own == kind, size=count)[0]] for kind, count in enumerate(counts)]


def of_kind(draw: Draw, mine: Array, seats: int, empty: int) -> Draw:
    """The slots of a draw that are `mine` [M], in as many slots as `seats`; others are `empty`.

    >>> ids, here = jnp.array([2, 4, 7]), jnp.ones(3, bool)
    >>> of_kind(Draw(ids, here, here, here), jnp.array([False, True, False]), seats=2, empty=9).ids.tolist()
    [4, 9]
    """
    chosen = jnp.argsort(~mine, stable=True)[:seats]
    here, own = mine[chosen], jax.tree.map(lambda leaf: leaf[chosen], draw)
    return own._replace(ids=jnp.where(here, own.ids, empty), replied=own.replied & here, heard=own.heard & here)


def places(data: FederatedData, ids: Array, kind: int, count: int) -> Array:
    """The rows of clients of a kind among the `count` of their kind that train; `count` for an empty slot."""
    before = jnp.cumsum(numbers(data)[: data.num_clients] == kind) - 1
    return jnp.where(ids < data.num_clients, jnp.take(before, ids, mode="clip"), count)


def together(parts: Sequence[Tree]) -> Tree:
    """The states of all clients from those of each kind."""
    return tuple(parts) if len(parts) > 1 else parts[0]


def apart(clients: Tree, census: Census) -> Sequence[Tree]:
    """Undoes `together`."""
    return clients if census else [clients]


def alike(parts: Sequence[Tree], *, rows: bool) -> list[Tree]:
    """What clients of each kind sent, by the names that it has in the first; `rows` of clients, or one sum.

    Raises:
      ValueError: if kinds send different leaves.
    """
    shapes = [[leaf.shape[rows:] for leaf in jax.tree.leaves(part)] for part in parts]
    for kind, mine in enumerate(shapes):
        if mine != shapes[0]:
            raise ValueError(
                f"clients of kind {kind} send leaves {mine} and those of kind 0 {shapes[0]}: one server needs the same"
            )
    structure = jax.tree.structure(parts[0])
    return [jax.tree.unflatten(structure, jax.tree.leaves(part)) for part in parts]


def in_a_row(parts: Sequence[Tree]) -> Tree:
    """Rows of the clients of each kind [n, ...], one kind after the other."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts) if len(parts) > 1 else parts[0]


def of_all(each: Iterable[tuple[Any, dict[Score, Array]]]) -> dict[Any, Array]:
    """The scores of all clients from those of each kind with their ids; NaN where a kind has no such model."""
    scores = list(each)
    if len(scores) == 1:
        return scores[0][1]
    names = dict.fromkeys(name for _, found in scores for name in found)
    order = jnp.argsort(jnp.concatenate([ids for ids, _ in scores]))

    def everybodys(name: Score) -> Array:
        parts = [found.get(name, jnp.full(len(ids), jnp.nan)) for ids, found in scores]
        return jnp.concatenate(parts)[order]

    return OrderedDict((name, everybodys(name)) for name in names)
