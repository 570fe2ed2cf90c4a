"""Groups of clients by their context, which is what is known of them before anything is trained."""

from __future__ import annotations

import jax
import numpy as np

from pfljax import checks
from pfljax.checks import Count, Seed
from pfljax.data.federated import FederatedData
from pfljax.printing import brief


def grouped(data: FederatedData, clusters: int, *, seed: int = 0) -> FederatedData:
    """The same federation, where each client has the trait `group`: the cluster of its context.

    The context is the row of the client's `traits`, all leaves side by side. Without traits it is what its training
    examples look like: the shares of the classes, or the means of real targets. K-means finds the centers among the N
    clients that train, `min sum_i ||z_i - m_k(i)||^2`; every client, unseen ones too, belongs to the nearest. Distances
    are those of the numbers as they are: bring traits of different units to one scale before.

    Args:
      data: the federation; traits that are no dictionary become its trait `context`.
      clusters: K, at most as many as there are different contexts.
      seed: of a hundred random starts, of which the best counts.

    Raises:
      ValueError: if there are fewer different contexts than clusters, or clients are in groups already.
      ImportError: without scikit-learn.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[0.0]], [0])] * 4).with_traits({"age": [20, 61, 58, 23]})
    >>> group = grouped(data, 2).traits["group"]
    >>> bool(group[0] == group[3] != group[1] == group[2])
    True
    """
    from sklearn.cluster import KMeans

    checks.each(Count, clusters=clusters)
    checks.each(Seed, seed=seed)
    named = data.traits if isinstance(data.traits, dict) else {"context": data.traits} if _known(data) else {}
    if "group" in named:
        raise ValueError(f"clients of {data.name} have the trait 'group' already: use it as it is, or leave it out")
    context = _context(data)
    different = len(np.unique(context[: data.num_clients], axis=0))
    if clusters > different:
        raise ValueError(f"clusters={clusters} of {different} different contexts of {data.name}: give at most as many")
    means = KMeans(clusters, n_init=100, random_state=seed)  # pyright: ignore[reportArgumentType]
    return data.with_traits({**named, "group": means.fit(context[: data.num_clients]).predict(context)})


def truth(data: FederatedData) -> np.ndarray | None:
    """The trait `group` of the clients [N + U]; None if there is none, or it is not one whole number for each.

    >>> from pfljax.data import from_clients
    >>> truth(from_clients([([[0.0]], [0])] * 3).with_traits({"group": [0, 2, 1]})).tolist()
    [0, 2, 1]
    """
    group = np.asarray(data.traits.get("group", ()) if isinstance(data.traits, dict) else ())
    return group if group.ndim == 1 and group.size and group.dtype.kind in "iu" else None


def num_groups(data: FederatedData) -> int:
    """How many groups the trait `group` of the clients has, K for groups 0, ..., K - 1.

    Raises:
      ValueError: if clients have no such trait, or it is not one whole number of at least 0.

    >>> from pfljax.data import from_clients
    >>> num_groups(from_clients([([[0.0]], [0])] * 3).with_traits({"group": [0, 2, 1]}))
    3
    """
    group = data.traits.get("group") if isinstance(data.traits, dict) else None
    if group is None:
        raise ValueError(f"clients of {data.name} are in no groups: set data.clusters=2, or use data.grouped")
    group = np.asarray(group)
    if group.ndim != 1 or group.dtype.kind not in "iu" or group.min() < 0:
        raise ValueError(
            f"the trait 'group' of {data.name} is {brief(group)} from {group.min()} on: give each client one whole "
            "number, counted from 0"
        )
    return int(group.max()) + 1


def _known(data: FederatedData) -> list[np.ndarray]:
    return [np.asarray(leaf, float) for leaf in jax.tree.leaves(data.traits)]


def _context(data: FederatedData) -> np.ndarray:
    """What is known of each client, [N + U, d]."""
    clients = data.num_clients + data.num_unseen
    if known := _known(data):
        return np.concatenate([leaf.reshape(clients, -1) for leaf in known], axis=1)
    if data.num_classes is not None:
        counts = data.label_counts().astype(float)
        return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    y, rows = np.asarray(data.examples.y, float), data.train
    held = [y[start : start + size] for start, size in zip(rows.start, rows.size, strict=True)]
    return np.stack([np.ravel(mine.sum(axis=0) / max(len(mine), 1)) for mine in held])
