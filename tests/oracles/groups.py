"""Parabolas whose clients are in groups, and what clustered methods do with them, in NumPy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import optax

from pfljax.data import FederatedData, from_clients
from pfljax.federation.clusters import Clusters
from pfljax.learning import local, plans
from pfljax.types import Params, State, Task
from tests.oracles import quadratics as q

CLIENTS, DIM, COHORT = 7, 3, 4  # the last client never trains
MATRICES, CENTERS, SIZES = q.random(11, clients=CLIENTS)
CENTERS = CENTERS / 3 + np.array([[4.0], [-4.0], [1.0]])[[0, 1, 1, 0, 2, 1, 0]]
START = np.array([0.5, -0.2, 0.3])
TRAIN = slice(0, CLIENTS - 1)


def task() -> Task:
    return q.task(START)


def data(unseen: int = 1) -> FederatedData:
    rows = zip(MATRICES, CENTERS, SIZES, strict=True)
    held = [({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n)) for a, c, n in rows]
    return from_clients(held if unseen else held[TRAIN], unseen=unseen)


def solver(steps: int = q.STEPS) -> local.LocalSolver:
    return local.descent(optax.sgd(q.LR), plans.full_batch(steps, max(SIZES)))


def trained(w: np.ndarray, client: int, anchors: Sequence[tuple[float, np.ndarray]] = ()) -> np.ndarray:
    """`q.STEPS` steps from w on `f_i(v) + sum_a lam_a/2 ||v - a||^2`."""
    v = np.array(w)
    for _ in range(q.STEPS):
        pull = sum((lam * (v - anchor) for lam, anchor in anchors), start=np.zeros(DIM))
        v = v - q.LR * (MATRICES[client] @ (v - CENTERS[client]) + pull)
    return v


def loss(w: np.ndarray, client: int) -> float:
    return float((w - CENTERS[client]) @ MATRICES[client] @ (w - CENTERS[client]) / 2)


def closest_by_loss(models: np.ndarray, client: int) -> int:
    return int(np.argmin([loss(w, client) for w in models]))


def best_partition(points: np.ndarray, clusters: int) -> np.ndarray:
    """The k-means labels of all that there are."""

    def spread(labels: np.ndarray) -> float:
        parts = (points[labels == k] for k in range(clusters))
        return sum(((part - part.mean(0)) ** 2).sum() for part in parts if len(part))

    every = (np.array(labels) for labels in itertools.product(range(clusters), repeat=len(points)))
    return min(every, key=spread)


def in_order_of_clients(labels: Any) -> list[int]:
    """The same clusters, numbered as they first appear."""
    seen: dict[int, int] = {}
    return [seen.setdefault(int(label), len(seen)) for label in labels]


def begun(state: State, models: np.ndarray, assigned: Any, memory: Any) -> State:
    """The state with other models [K, d], clusters [N] and memory."""
    return state._replace(server=Clusters(Params({"w": models}), assigned, memory))
