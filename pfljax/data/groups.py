"""Clients by their context, which is what is known of them before anything is trained: in groups, or as an input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pfljax import checks
from pfljax.checks import Count, Seed
from pfljax.data.federated import SPLITS, FederatedData, followed, places
from pfljax.printing import brief
from pfljax.types import Rows


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
    named = _by_name(data)
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


def in_turn(data: FederatedData, count: int) -> FederatedData:
    """The same federation, where client n has the trait `kind` n modulo `count`, unless clients have one already.

    >>> from pfljax.data import from_clients
    >>> in_turn(from_clients([([[0.0]], [0])] * 3), count=2).traits["kind"].tolist()
    [0, 1, 0]
    """
    named = _by_name(data)
    if "kind" in named:
        return data
    return data.with_traits({**named, "kind": np.arange(data.num_clients + data.num_unseen) % count})


def _by_name(data: FederatedData) -> dict[str, Any]:
    """The traits; those that are no dictionary are the `context`."""
    return data.traits if isinstance(data.traits, dict) else {"context": data.traits} if _known(data) else {}


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


def featurized(data: FederatedData) -> FederatedData:
    """The same clients, each example with the context of its client beside it, so that one model may serve all.

    The context is the row of the client's `traits`, all leaves side by side; a `group` of K is K numbers, 1 for the own
    one. Features [T, d] get as many more, images [T, height, width, channels] as many constant channels more; bytes
    become numbers from -1 to 1 as models read them. Bring traits of different units to one scale before.

    Public examples have the mean context of the clients that train.
    Source: the featurization baseline of Mansour et al., "Three Approaches for Personalization with Applications to
    Federated Learning", 2020, section 1: contexts as features of the common model.

    Raises:
      ValueError: if nothing is known of the clients, inputs are not one array of floats or images, or clients drift
        already.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[5.0]], [0]), ([[6.0]], [1])]).with_traits({"age": [0.2, 0.7]})
    >>> np.asarray(featurized(data).examples.x, float).round(3).tolist()
    [[5.0, 0.2], [6.0, 0.7]]
    """
    x = data.examples.x
    if data.drift is not None:
        raise ValueError(f"{data.name} drifts: give its concepts their context, and let them drift then")
    if not hasattr(x, "dtype") or np.ndim(x) not in (2, 4) or (x.dtype.kind in "iu" and x.dtype != np.uint8):
        raise ValueError(f"inputs of {data.name} are {brief(x)}: context goes beside floats [T, d], or images")
    context = _numbers(data)
    holder = np.full(len(data.examples.y), len(context))
    for split in SPLITS:
        rows: Rows = getattr(data, split)
        holder[places(*rows)] = np.repeat(np.arange(len(context)), rows.size)
    known = np.append(context, context[: data.num_clients].mean(axis=0, keepdims=True), axis=0)
    inputs = np.asarray(x, np.float32) / 127.5 - 1 if x.dtype == np.uint8 else np.asarray(x)
    beside = known[holder].astype(inputs.dtype).reshape(len(inputs), *[1] * (inputs.ndim - 2), -1)
    beside = np.broadcast_to(beside, (*inputs.shape[:-1], beside.shape[-1]))
    examples: Any = data.examples._replace(x=np.concatenate([inputs, beside], axis=-1))
    fingerprint = followed(data.fingerprint, "featurized", examples)
    return replace(data, examples=examples, fingerprint=fingerprint, called=replace(data.called, inputs=None))


def _numbers(data: FederatedData) -> np.ndarray:
    """What is known of each client as inputs of a model, [N + U, c]."""
    named = dict(data.traits) if isinstance(data.traits, dict) else {"context": data.traits}
    if "group" in named:
        named["group"] = np.eye(num_groups(data))[np.asarray(named["group"])]
    if not (known := _known(replace(data, traits=named))):
        raise ValueError(f"nothing is known of the clients of {data.name}: give traits, or set data.clusters=2")
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in known], axis=1)


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
