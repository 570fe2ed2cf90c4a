"""Whose cluster was which, from what clients reported in each round, and how near that is to the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

_REPORTED = "reported/cluster"


class Memberships(NamedTuple):
    """Whose cluster is which after each round of a run."""

    assigned: np.ndarray  # [rounds, N] in which each client last trained, -1 before it was in one
    clusters: np.ndarray  # [rounds] how many have members
    moved: np.ndarray  # [rounds] share of a round's clients that are in another than before; NaN of no known ones
    ari: np.ndarray  # [rounds] adjusted Rand index against the true groups, NaN if they are not known


def followed(log: Mapping[str, np.ndarray], clients: int, groups: np.ndarray | None = None) -> Memberships | None:
    """What `log` tells of the clusters of N clients; None if they reported none.

    Args:
      log: of a result.
      clients: N.
      groups: [N] true groups.

    >>> log = {"ids": np.array([[0, 1], [0, 1]]), "replied": np.ones((2, 2), bool)}
    >>> found = followed(log | {"reported/cluster": np.array([[0, 0], [0, 1]])}, 2, np.array([5, 7]))
    >>> found.assigned.tolist(), found.moved.tolist(), found.ari.tolist()
    ([[0, 0], [0, 1]], [nan, 0.5], [0.0, 1.0])
    """
    if _REPORTED not in log:
        return None
    now, assigned, moved = np.full(clients, -1), [], []
    for ids, replied, reported in zip(log["ids"], log["replied"], log[_REPORTED], strict=True):
        there = replied & (ids < clients)
        before = now.copy()
        now[ids[there]] = reported[there]
        known = ids[there][(before >= 0)[ids[there]] & (now >= 0)[ids[there]]]
        moved.append(np.mean(before[known] != now[known]) if known.size else np.nan)
        assigned.append(now.copy())
    table = np.stack(assigned)
    numbers = np.array([len(set(row[row >= 0])) for row in table])
    ari = [np.nan if groups is None else adjusted_rand(row[row >= 0], groups[row >= 0]) for row in table]
    return Memberships(table, numbers, np.array(moved), np.array(ari))


def adjusted_rand(one: np.ndarray, other: np.ndarray) -> float:
    """The adjusted Rand index of two partitions: 1 if they are equal, 0 on average if drawn at random; NaN of nobody.

    Source: Hubert and Arabie, "Comparing Partitions", Journal of Classification 1985, equation 5.

    >>> adjusted_rand(np.array([0, 0, 1, 1]), np.array([7, 7, 3, 3])), adjusted_rand(np.zeros(2), np.arange(2))
    (1.0, 0.0)
    """
    if not one.size:
        return np.nan
    counts = np.array([[np.sum((one == a) & (other == b)) for b in np.unique(other)] for a in np.unique(one)])
    both, rows, columns = (_pairs(part) for part in (counts, counts.sum(axis=1), counts.sum(axis=0)))
    by_chance, most = rows * columns / max(_pairs(one.size), 1), (rows + columns) / 2
    return 1.0 if most == by_chance else float((both - by_chance) / (most - by_chance))


def _pairs(counts: np.ndarray | int) -> float:
    return float(np.sum(np.multiply(counts, np.subtract(counts, 1)) / 2))
