"""How far clients differ: in their labels, their numbers of examples and their inputs; also without their examples."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from pfljax import checks
from pfljax.checks import Count, NotNegative, Positive, Seed
from pfljax.data.federated import FederatedData, places


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
    return _labelled(counts, weights) | quantity_skew(data.sizes()[: data.num_clients])


class Estimate(NamedTuple):
    """What is known without the examples, and how far that is from what they say."""

    value: float
    truth: float

    @property
    def error(self) -> float:
        """`value - truth`."""
        return self.value - self.truth


def noised(data: FederatedData, epsilon: float = 1.0, *, draws: int = 20, seed: int = 0) -> dict[str, Estimate]:
    """`heterogeneity` from label counts with noise, which is all that leaves a client, beside the truth.

    Each client sends `c + Laplace(1 / epsilon)` for each class once, which is epsilon-differentially private for one
    example more or less. Noise makes clients look more different: what `draws` times the same noise again adds to the
    measures, on average, is taken off, as the bootstrap does it.

    Args:
      data: a federation with classes.
      epsilon: above 0; less is more noise.
      draws: of the noise that is added again, which needs no more of the clients.
      seed: of all noise.

    Raises:
      ValueError: if labels are not classes, or an argument is out of range.
    """
    checks.each(Positive, epsilon=epsilon)
    checks.each(Count, draws=draws)
    checks.each(Seed, seed=seed)
    counts = data.label_counts()[: data.num_clients]
    generator = np.random.Generator(np.random.PCG64([seed, 17]))

    def measured(counts: np.ndarray) -> dict[str, float]:
        return _labelled(np.maximum(counts, 0), "size") | quantity_skew(np.maximum(counts.sum(1), 1e-9))

    def with_noise(counts: np.ndarray) -> np.ndarray:
        return counts + generator.laplace(scale=1 / epsilon, size=counts.shape)

    sent = with_noise(counts)
    once, truth = measured(sent), measured(counts)
    again = [measured(with_noise(np.maximum(sent, 0))) for _ in range(draws)]
    least = {name: -np.inf if name == "entropy" else 0.0 for name in once}
    corrected = {name: max(2 * once[name] - float(np.mean([a[name] for a in again])), least[name]) for name in once}
    return {name: Estimate(corrected[name], truth[name]) for name in _SENT}


_SENT = ("tv", "js", "hellinger", "w1", "cv", "gini")


def input_skew(
    data: FederatedData, *, features: int = 512, noise: float = 0.0, most: int = 2000, seed: int = 0
) -> Estimate:
    """How far clients' inputs differ, `sum_i n_i / n MMD(i, all)^2`, from sketches that need no examples.

    A client sends the mean of D random features of its inputs, `sqrt(2 / D) cos(W x + b)`, W normal, b uniform; squared
    distances of these means are those of the Gaussian kernel, `k(x, x') = exp(-|x - x'|^2 / 2 d)` of standardized
    inputs, up to an error that falls as `D^-1/2`. The truth is computed from the examples. 0 is alike; clients with few
    examples differ by chance by about 1 / n_i.

    Args:
      data: whose inputs are one array of numbers; if these are tokens, they count as numbers.
      features: D.
      noise: standard deviation of normal noise in each of the D numbers.
      most: examples of all clients that count, drawn at random.
      seed: of features, noise and draw.

    Raises:
      ValueError: if inputs are several arrays, or an argument is out of range.

    Source: Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007; Gretton et al., "A kernel
    two-sample test", JMLR 2012.
    """
    checks.each(Count, features=features, most=most)
    checks.each(NotNegative, noise=noise)
    checks.each(Seed, seed=seed)
    if not hasattr(data.examples.x, "dtype"):
        raise ValueError(f"an example of {data.name} is several arrays: its inputs have no sketch")
    generator = np.random.Generator(np.random.PCG64([seed, 19]))
    sizes = data.sizes()[: data.num_clients]
    rows, holder = places(data.train.start[: len(sizes)], sizes), np.repeat(np.arange(len(sizes)), sizes)
    kept = np.sort(generator.permutation(len(rows))[:most])
    x = np.asarray(data.examples.x)[rows[kept]].reshape(len(kept), -1).astype(float)
    x, holder = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), np.inf), holder[kept]
    width = x.shape[1]
    belongs = np.eye(len(sizes))[:, holder]
    belongs = belongs[belongs.sum(1) > 0]
    share = belongs.sum(1) / len(kept)
    means = belongs / belongs.sum(1, keepdims=True) - 1 / len(kept)  # [N, T]: client i against all
    z = np.cos(
        x @ generator.normal(size=(width, features)) / np.sqrt(width) + generator.uniform(0, 2 * np.pi, features)
    )
    sent = np.sqrt(2 / features) * means @ z
    sent += noise * generator.normal(size=sent.shape)
    squares = np.square(x).sum(1)
    kernel = np.exp(-np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0) / (2 * width))
    exact = np.einsum("it,ts,is->i", means, kernel, means, optimize=True)
    estimate = np.square(sent).sum(1) - noise**2 * features
    return Estimate(float(share @ estimate), float(share @ exact))


def _labelled(counts: np.ndarray, weights: str) -> dict[str, float]:
    held = counts[counts.sum(1) > 0]
    p = held / held.sum(1, keepdims=True)
    weight = held.sum(1) if weights == "size" else np.ones(len(held))
    each = divergences(p, held.sum(0) / held.sum()) | {"entropy": entropy(p), "labels": (held > 0).sum(1)}
    return {name: float(np.average(value, weights=weight)) for name, value in each.items()}


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
