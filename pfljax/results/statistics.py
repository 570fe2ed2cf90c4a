"""Statistics over clients: one number for a paper's table from the score of each client.

Scores are NumPy arrays [clients] where more is better. NaN marks a client without examples: it counts for nothing.
A statistic of nobody is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import wraps
from typing import Any, NamedTuple

import numpy as np

from pfljax import checks

Statistic = Callable[..., float]


def _of_present(statistic: Callable[..., float]) -> Statistic:
    """`statistic` of the clients that have a score; arguments that are arrays [clients] are cut alike."""

    @wraps(statistic)
    def called(scores: np.ndarray, *arrays: np.ndarray, **options: float | bool) -> float:
        scores = np.asarray(scores, float)
        others = [np.asarray(array, float) for array in arrays]
        for other in others:
            if other.shape != scores.shape:
                raise ValueError(f"scores of {scores.shape} clients beside {other.shape}: both must be [clients]")
        present = ~np.isnan(np.stack([scores, *others])).any(axis=0)
        if not present.any():
            return float("nan")
        return statistic(scores[present], *(other[present] for other in others), **options)

    return called


def _part(share: float, clients: int) -> int:
    """`floor(share n)` of the decimal number that `share` is written as, not of the binary one beside it."""
    checks.each(checks.Share, share=share)
    return math.floor(Fraction(repr(float(share))) * clients)


@_of_present
def mean(scores: np.ndarray) -> float:
    """`1/n sum_i a_i`, every client the same: what most papers call average accuracy."""
    return float(np.mean(scores))


@_of_present
def weighted_mean(scores: np.ndarray, sizes: np.ndarray) -> float:
    """`sum_i n_i a_i / sum_i n_i` with test examples n_i: the accuracy over all examples (PFLlib's headline)."""
    return float(np.average(scores, weights=sizes)) if sizes.any() else np.nan


@_of_present
def std(scores: np.ndarray) -> float:
    """Population standard deviation over clients (not over seeds)."""
    return float(np.std(scores))


@_of_present
def variance(scores: np.ndarray) -> float:
    """Population variance over clients, by which q-FFL and Ditto call one method fairer than another."""
    return float(np.var(scores))


@_of_present
def worst(scores: np.ndarray) -> float:
    """The lowest score."""
    return float(np.min(scores))


@_of_present
def best(scores: np.ndarray) -> float:
    """The highest score."""
    return float(np.max(scores))


@_of_present
def median(scores: np.ndarray) -> float:
    """The median client, the mean of the middle two for an even number."""
    return float(np.median(scores))


@_of_present
def quantile(scores: np.ndarray, *, share: float = 0.1) -> float:
    """`a_(floor(share n))` of the sorted scores, counted from 0: FederatedScope's bottom decile.

    `share` is taken as it is written: 0.29 of 100 clients are 29.

    Raises:
      ValueError: if `share` does not lie in [0, 1].
    """
    return float(np.sort(scores)[min(_part(share, len(scores)), len(scores) - 1)])


@_of_present
def tail_mean(scores: np.ndarray, *, share: float = 0.1, top: bool = False) -> float:
    """Mean of the lowest (`top`: highest) `max(1, floor(share n))` clients: the "worst 10%" of q-FFL and Ditto.

    Raises:
      ValueError: if `share` does not lie in [0, 1].

    >>> tail_mean(np.array([0.5, 0.9, 0.7])), tail_mean(np.array([0.5, 0.9, 0.7]), top=True)
    (0.5, 0.9)
    """
    count = max(1, _part(share, len(scores)))
    ordered = np.sort(scores)
    return float(np.mean(ordered[-count:] if top else ordered[:count]))


@_of_present
def jain(scores: np.ndarray) -> float:
    """Jain's index `(sum a)^2 / (n sum a^2)` in (0, 1]; 1 if all are equal. NaN if all are 0, or one is below."""
    squares = np.sum(scores**2) if np.min(scores) >= 0 else 0
    return float(np.sum(scores) ** 2 / (len(scores) * squares)) if squares > 0 else np.nan


@_of_present
def gini(scores: np.ndarray) -> float:
    """`sum_ij |a_i - a_j| / (2 n^2 mean)`, 0 if all are equal. NaN if the mean is 0, or a score is below."""
    average = np.mean(scores)
    if average == 0 or np.min(scores) < 0:
        return np.nan
    ranks = 2 * np.arange(1, len(scores) + 1) - len(scores) - 1
    return float(ranks @ np.sort(scores) / (len(scores) ** 2 * average))


@_of_present
def entropy(scores: np.ndarray) -> float:
    """Entropy `-sum p log p` (natural) of the normalised scores `p = a / sum a`. NaN if all are 0, or one is below."""
    total = np.sum(scores)
    if total == 0 or np.min(scores) < 0:
        return np.nan
    shares = scores[scores > 0] / total
    return float(-np.sum(shares * np.log(shares)))


@_of_present
def uniformity(scores: np.ndarray) -> float:
    """`entropy / log n`, 1 if all are equal."""
    return entropy(scores) / float(np.log(len(scores))) if len(scores) > 1 else 1.0


@_of_present
def cosine(scores: np.ndarray) -> float:
    """Cosine of the angle between the scores and equal ones, 1 if all are equal: the root of `jain`. NaN as there."""
    return float(np.sqrt(jain(scores)))


@_of_present
def better_off(scores: np.ndarray, reference: np.ndarray) -> float:
    """Share of clients with a strictly higher score than in `reference` [clients], such as training alone."""
    return float(np.mean(scores > reference))


@_of_present
def tied(scores: np.ndarray, reference: np.ndarray) -> float:
    """Share of clients with the same score as in `reference` [clients]."""
    return float(np.mean(scores == reference))


def summarize(
    scores: np.ndarray, sizes: np.ndarray, reference: np.ndarray | None = None, *, lower_is_better: bool = False
) -> dict[str, float]:
    """The statistics of a results table.

    Args:
      scores: [clients], NaN without examples.
      sizes: [clients] examples that each score is a mean of.
      reference: [clients] scores to compare with, usually those of `local_only`.
      lower_is_better: scores are losses: the worst client has the highest.

    Returns:
      `clients`, `mean`, `weighted_mean`, `std`, `variance`, `worst`, `bottom_decile` (`tail_mean`), `median`,
      `top_decile`, `best`;
      for scores where more is better also `jain`, `gini`, `entropy`, `uniformity`, `cosine`; with a reference also
      `better_off`, `tied`.

    >>> summary = summarize(np.array([0.5, 0.6, 0.7, 0.8, 0.9]), np.array([1, 1, 1, 1, 6]))
    >>> round(summary["mean"], 12), round(summary["weighted_mean"], 12)
    (0.7, 0.8)
    """
    sign = -1.0 if lower_is_better else 1.0
    signed = sign * np.asarray(scores, float)
    summary = {
        "clients": int(np.sum(~np.isnan(signed))),
        "mean": mean(scores),
        "weighted_mean": weighted_mean(scores, sizes),
        "std": std(scores),
        "variance": variance(scores),
        "worst": sign * worst(signed),
        "bottom_decile": sign * tail_mean(signed),
        "median": median(scores),
        "top_decile": sign * tail_mean(signed, top=True),
        "best": sign * best(signed),
    }
    if not lower_is_better:
        summary |= {spread.__name__: spread(scores) for spread in (jain, gini, entropy, uniformity, cosine)}
    if reference is not None:
        other = sign * np.asarray(reference, float)
        summary |= {"better_off": better_off(signed, other), "tied": tied(signed, other)}
    return summary


class Estimate(NamedTuple):
    """A mean over seeds, with half the width of its 95 % confidence interval by Student's t.

    The margin is NaN for a single seed; both are NaN for none.
    """

    mean: float
    margin: float
    count: int


def estimate(values: Iterable[float | None]) -> Estimate:
    """Mean and t_{0.975, n-1} s / sqrt(n) of the values that are there.

    >>> estimate([1.0, 2.0, 3.0])
    Estimate(mean=2.0, margin=2.48..., count=3)
    """
    from scipy.special import stdtrit

    known = np.array([value for value in values if value is not None and not math.isnan(value)])
    if not known.size:
        return Estimate(math.nan, math.nan, 0)
    if known.size == 1:
        return Estimate(float(known[0]), math.nan, 1)
    margin = stdtrit(known.size - 1, 0.975) * known.std(ddof=1) / math.sqrt(known.size)
    return Estimate(float(known.mean()), float(margin), known.size)


class Trend(NamedTuple):
    """A straight line through the scores of clients over something that is known of them; NaN where there is none."""

    slope: float  # of the score, by standard deviation of what is known
    correlation: float  # of Pearson
    chance: float  # of a line as steep where there is no relation, two-sided
    clients: int


def trend(scores: np.ndarray, trait: np.ndarray) -> Trend:
    """Whether clients fare by what they are, such as how many examples they have: fair is a slope of 0.

    Args:
      scores: [clients], NaN without examples.
      trait: [clients] a number of each, NaN where it is not known.

    Raises:
      ValueError: if they are not of the same clients.

    >>> trend(np.array([0.6, 0.7, 0.8]), np.array([10, 20, 30]))
    Trend(slope=0.08..., correlation=1.0, chance=..., clients=3)
    """
    from scipy.stats import linregress

    scores, trait = np.asarray(scores, float), np.asarray(trait, float)
    if scores.shape != trait.shape:
        raise ValueError(f"scores of {scores.shape} clients beside a trait of {trait.shape}: both must be [clients]")
    present = ~(np.isnan(scores) | np.isnan(trait))
    y, x = scores[present], trait[present]
    if len(x) < 3 or np.ptp(x) == 0:
        return Trend(math.nan, math.nan, math.nan, len(x))
    line: Any = linregress((x - x.mean()) / x.std(), y)
    return Trend(float(line.slope), float(line.rvalue), float(line.pvalue), len(x))


class Recovery(NamedTuple):
    """What a drift costs. NaN where it was not measured; infinite rounds where the level was not reached again."""

    drop: float  # of the mean, from the last evaluation before to the first one after
    rounds: float  # after the change until the level is reached


def recovery(rounds: np.ndarray, scores: np.ndarray, change: int, *, share: float = 0.95) -> Recovery:
    """How much a change of concept costs, and how long.

    Args:
      rounds: that were done at each evaluation [E], as in `result.rounds`.
      scores: at each of them of each client [E, clients], more is better.
      change: the first round of the new concept, counted from 0, as in `data.drifting`.
      share: of the mean before, that shall be reached again.

    >>> recovery(np.array([5, 10, 15, 20]), np.array([[0.6], [0.8], [0.5], [0.77]]), change=10)
    Recovery(drop=0.3..., rounds=10.0)
    """
    checks.each(checks.Size, change=change)
    checks.each(checks.Share, share=share)
    rounds, means = np.asarray(rounds), np.array([mean(row) for row in np.asarray(scores, float)])
    before, after = means[rounds <= change], means[rounds > change]
    if not len(before) or not len(after):
        return Recovery(math.nan, math.nan)
    reached = rounds[rounds > change][after >= share * before[-1]]
    return Recovery(float(before[-1] - after[0]), float(reached[0] - change) if len(reached) else math.inf)
