"""How far clients differ: in their labels and in their numbers of examples."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pfljax import checks
from pfljax.data.federated import FederatedData


def divergences(p: np.ndarray, q: np.ndarray) -> dict[str, np.ndarray]:
    """Distances of label distributions `p` [..., C] from `q` [C], each [...]; natural logarithms.

    `tv = 1/2 sum |p - q|`, `emd = sum |p - q|` (as Zhao et al. 2018 call it), `kl = sum p log(p / q)`,
    `js = (KL(p, m) + KL(q, m)) / 2` with `m = (p + q) / 2`, `hellinger = sqrt(1/2 sum (sqrt p - sqrt q)^2)`, and for
    ordered labels one apart `w1 = sum |CDF_p - CDF_q|`.

    >>> round(float(divergences(np.array([0.7, 0.2, 0.1]), np.ones(3) / 3)["w1"]), 12)
    0.6
    """
    l1 = np.abs(p - q).sum(-1)
    middle = (p + q) / 2
    return {
        "tv": l1 / 2,
        "emd": l1,
        "kl": _kl(p, q),
        "js": (_kl(p, middle) + _kl(q, middle)) / 2,
        "hellinger": np.sqrt(np.square(np.sqrt(p) - np.sqrt(q)).sum(-1) / 2),
        "w1": np.abs(np.cumsum(p - q, -1)).sum(-1),
    }


def entropy(p: np.ndarray) -> np.ndarray:
    """`-sum p log p` of [..., C], with `0 log 0 = 0`; its exponential is the effective number of classes."""
    return -_kl(p, np.ones_like(p))


def quantity_skew(sizes: np.ndarray) -> dict[str, float]:
    """Of sizes [N]: `cv`, standard deviation over mean, and `gini`, `sum_ij |n_i - n_j| / (2 N^2 mean)`.

    >>> quantity_skew(np.array([1, 3]))
    {'cv': 0.5, 'gini': 0.25}
    """
    sizes, count = np.sort(np.asarray(sizes, float)), len(sizes)
    ranks = 2 * np.arange(1, count + 1) - count - 1
    return {"cv": float(sizes.std() / sizes.mean()), "gini": float(ranks @ sizes / (count * sizes.sum()))}


def heterogeneity(data: FederatedData, *, weights: Literal["size", "uniform"] = "size") -> dict[str, float]:
    """Means over the N training clients of their divergences from the pooled labels, and the skew of their sizes.

    Args:
      data: a federation with classes.
      weights: a client counts by its training examples, or all that have any count the same.

    Raises:
      ValueError: if labels are not classes, or `weights` is neither.
    """
    checks.each(Literal["size", "uniform"], weights=weights)
    counts = data.label_counts()[: data.num_clients]
    sizes = data.sizes()[: data.num_clients]
    held = counts[counts.sum(1) > 0]
    p = held / held.sum(1, keepdims=True)
    weight = held.sum(1) if weights == "size" else np.ones(len(held))
    each = divergences(p, held.sum(0) / held.sum()) | {"entropy": entropy(p), "labels": (held > 0).sum(1)}
    return {name: float(np.average(value, weights=weight)) for name, value in each.items()} | quantity_skew(sizes)


def label_skew(data: FederatedData, *, draws: int = 20, seed: int = 0) -> dict[str, float]:
    """`tv`, the mean total variation of clients' labels from the pooled ones, and what `chance` alone makes of it.

    Chance is the mean over `draws` in which all labels change places at random among all clients: clients with few
    examples differ even if all draw from the same labels. A client counts by its training examples.

    Raises:
      ValueError: if labels are not classes.

    >>> from pfljax.data import from_clients
    >>> skew = label_skew(from_clients([([[0.0]] * 50, [0] * 50), ([[0.0]] * 50, [1] * 50)]))
    >>> skew["tv"], skew["chance"] < 0.1
    (0.5, True)
    """
    counts = data.label_counts()[: data.num_clients]
    sizes, pooled = counts.sum(1), counts.sum(0)
    generator = np.random.Generator(np.random.PCG64([seed, 13]))

    def skew(counts: np.ndarray) -> float:
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        return float(np.average(divergences(share, pooled / pooled.sum())["tv"], weights=sizes))

    labels, ends = np.repeat(np.arange(len(pooled)), pooled), np.cumsum(sizes)[:-1]
    chance = []
    for _ in range(draws):
        dealt = np.split(generator.permutation(labels), ends)
        chance.append(skew(np.stack([np.bincount(mine, minlength=len(pooled)) for mine in dealt])))
    return {"tv": skew(counts), "chance": float(np.mean(chance))}


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """`sum p log(p / q)`; infinite where q is 0 and p is not."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0.0).sum(-1)
