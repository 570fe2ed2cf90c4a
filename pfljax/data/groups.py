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


def num_groups(data: FederatedData) -> int:
    """How many groups the trait `group` of the clients has, K for groups 0, ..., K - 1.

    Raises:
      ValueError: if clients have no such trait, or it is not one whole number of at least 0.

    >>> from pfljax.data import from_clients
    >>> num_groups(from_clients([([[0.0]], [0])] * 3).with_traits({"group": [0, 2, 1]}))
    3
    """
    group = _numbered(data, "group")
    if group is None:
        raise ValueError(f"clients of {data.name} are in no groups: set data.clusters=2, or use data.grouped")
    return int(group.max()) + 1


def kinds(data: FederatedData, count: int) -> np.ndarray:
    """[N + U] which of `count` networks each client has, by its trait `kind`; 0 where there is only one.

    Raises:
      ValueError: if clients have no such trait, it is not one of the whole numbers below `count`, or no client that
        trains is of a kind.

    >>> from pfljax.data import from_clients
    >>> kinds(from_clients([([[0.0]], [0])] * 3).with_traits({"kind": [0, 1, 1]}), count=2).tolist()
    [0, 1, 1]
    """
    if count == 1:
        return np.zeros(data.num_clients + data.num_unseen, int)
    kind = _numbered(data, "kind")
    if kind is None:
        raise ValueError(
            f"there are {count} networks, and clients of {data.name} have no trait 'kind' that says which is theirs: "
            "give data.with_traits({'kind': [0, 1, ...]})"
        )
    present = np.unique(kind[: data.num_clients])
    if kind.max() >= count or len(present) < count:
        raise ValueError(
            f"the trait 'kind' of {data.name} goes up to {kind.max()}, and clients that train are of the kinds "
            f"{present.tolist()}: give each of the {count} networks, counted from 0, to at least one of them"
        )
    return kind


def _numbered(data: FederatedData, trait: str) -> np.ndarray | None:
    """A trait that is a whole number from 0 on, None where clients have none of this name."""
    found = data.traits.get(trait) if isinstance(data.traits, dict) else None
    if found is None:
        return None
    found = np.asarray(found)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.min() < 0:
        raise ValueError(
            f"the trait {trait!r} of {data.name} is {brief(found)} from {found.min()} on: give each client one whole "
            "number, counted from 0"
        )
    return found


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
