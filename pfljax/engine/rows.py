"""Client states in host memory, for populations that the device does not hold.

Rows of the next cohort are read while the present one trains. A client of both cohorts is not read in vain: its row is
taken from the device, so the results are those of a population on the device, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.types import Array, Tree

_CHUNK_BYTES = 2**28


class Hosted(NamedTuple):
    """States of all clients in host memory, written in place."""

    rows: Tree  # NumPy leaves [N, ...]


def allocate(row: Tree, num_clients: int) -> Hosted:
    """Room for the states of all clients, each shaped as `row`."""
    return Hosted(jax.tree.map(lambda leaf: np.empty((num_clients, *leaf.shape), leaf.dtype), row))


def chunks(row: Tree, num_clients: int) -> Iterator[np.ndarray]:
    """Ids of all clients in pieces of one size, small enough for the device; the last piece repeats the last id."""
    row_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(row))
    size = max(1, min(num_clients, _CHUNK_BYTES // max(1, row_bytes)))
    for start in range(0, num_clients, size):
        yield np.minimum(np.arange(start, start + size), num_clients - 1)


def read(clients: Hosted, ids: np.ndarray) -> Tree:
    """The rows `ids`; for an empty slot any row."""
    return jax.tree.map(lambda leaf: np.take(leaf, ids, axis=0, mode="clip"), clients.rows)


def write(clients: Hosted, ids: np.ndarray, rows: Tree) -> None:
    """Writes the rows of `ids` in place, leaving out empty slots."""

    def put(leaf: np.ndarray, new: Array) -> None:
        real = ids < len(leaf)
        leaf[ids[real]] = np.asarray(new)[real]

    jax.tree.map(put, clients.rows, rows)


def places(ids: np.ndarray, before: np.ndarray, num_clients: int) -> np.ndarray:
    """Where each of `ids` sat in the cohort `before`, -1 for one that did not.

    >>> places(np.array([2, 5, 9]), np.array([5, 1, 9]), num_clients=9).tolist()
    [-1, 0, -1]
    """
    same = (ids[:, None] == before) & (ids < num_clients)[:, None]
    return np.where(same.any(axis=1), same.argmax(axis=1), -1)


def patched(rows: Tree, before: Tree, places: Array) -> Tree:
    """`rows` [slots, ...] with those that sat in the cohort before taken from its new rows."""

    def patch(leaf: Array, new: Array) -> Array:
        sat = (places >= 0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(sat, jnp.take(new, places, axis=0, mode="clip"), leaf)

    return jax.tree.map(patch, rows, before)


class Courier:
    """Reads and writes rows beside the computation, one after the other in the order of the calls.

    Clients and their rows come in lists, one entry for each kind of clients.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self) -> Courier:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()

    def fetch(self, clients: Sequence[Hosted], ids: Sequence[np.ndarray]) -> Future[list[Tree]]:
        """The rows of `ids`, as all writes before this call leave them."""
        return self._thread.submit(lambda: list(map(read, clients, ids)))

    def store(self, clients: Sequence[Hosted], ids: Sequence[np.ndarray], rows: Sequence[Tree]) -> Future[list[None]]:
        """Writes the rows, once they are computed."""
        return self._thread.submit(lambda: list(map(write, clients, ids, rows)))
