"""In what clients differ, what to start with, and how sure that is, in words: measured on the data themselves."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pfljax.data.federated import FederatedData
from pfljax.data.heterogeneity import label_skew, quantity_skew
from pfljax.data.probes import PROBES, Found, probe

_STARTS = {
    "shared": ("little", "fedavg", "fedavg_finetuned, to see that nobody gains"),
    "priors": ("in their labels", "ditto", "fedrod, fedavg_finetuned"),
    "standardized": ("in what their inputs look like", "fedbn", "fedavg_finetuned"),
    "groups": ("by groups of clients", "ifca", "fedrod, ditto"),
    "near": ("in how inputs and labels go together", "ditto", "fedrod, fedrep"),
    "own": ("so much that they hardly help each other", "local_only", "fedrep, fedrod"),
}
"""Probe -> in what clients differ where it is best, what to start with, what to compare it to; see docs/advice.md."""

_UNEVEN, _WORTH = 0.4, 0.005


class Gain(NamedTuple):
    """What a probe gains over one model for all, mean over clients with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float


class Advice(NamedTuple):
    """What `advise` found."""

    differs: str
    start: str
    compare: str
    sure: str
    best: str  # of `PROBES`
    scores: dict[str, float]
    gains: dict[str, Gain]
    metric: str
    clients: int
    skew: dict[str, float]

    def __str__(self) -> str:
        accuracy = self.metric == "accuracy"
        scale, digits, unit = (100, 1, " points") if accuracy else (1, 3, "")
        lines = [f"mean test {self.metric} of linear probes, {self.clients} clients:"]
        lines += [f"  {PROBES[name]:<54}{scale * score:7.{digits}f}" for name, score in self.scores.items()]
        lines += ["", f"Clients differ {self.differs}: start with {self.start}, and compare it to {self.compare}."]
        if self.best in self.gains:
            mean, low, high = (f"{scale * part:.{digits}f}" for part in self.gains[self.best])
            lines += [f"{PROBES[self.best].capitalize()}: {mean}{unit} over one model for all (95 %: {low} to {high})."]
        lines += [f"{self.sure[0].upper()}{self.sure[1:]}."]
        if "tv" in self.skew:
            lines += [f"Labels: total variation {self.skew['tv']:.2f} from all, by chance {self.skew['chance']:.2f}."]
        if self.skew["gini"] > _UNEVEN:
            lines += [f"Sizes differ, Gini {self.skew['gini']:.2f}: look at the worst decile, not at the mean alone."]
        return "\n".join(lines)


def advise(data: FederatedData, *, seed: int = 0) -> Advice:
    """What to start with, by `probes.probe`: the simplest probe that no other one beats surely.

    A probe beats another where the interval of the mean difference over clients lies above 0, and the mean above half a
    point. Probes are small and linear: their order says in what clients differ, their heights do not say what a network
    reaches.

    Args:
      data: with test examples.
      seed: of what is random.

    Raises:
      ValueError: if the data cannot be probed.
    """
    found = probe(data, seed=seed)
    gains = {name: _gain(scores - found.scores["shared"]) for name, scores in found.scores.items() if name != "shared"}
    best = _best(found)
    skew = {} if data.num_classes is None else label_skew(data)
    skew |= quantity_skew(data.sizes()[: data.num_clients])
    differs, start, compare = _STARTS[best]
    if best == "shared" and skew.get("tv", 0) > 2 * skew.get("chance", 0) + 0.05:
        differs, compare = "in their labels, and one model serves them all the same", "ditto"
    means = {name: float(scores.mean()) for name, scores in found.scores.items()}
    sure = _sure(found, best, gains)
    return Advice(differs, start, compare, sure, best, means, gains, found.metric, len(found.groups), skew)


def _gain(difference: np.ndarray) -> Gain:
    from scipy import stats

    count = len(difference)
    margin = stats.t.ppf(0.975, count - 1) * difference.std(ddof=1) / np.sqrt(count)
    return Gain(float(difference.mean()), float(difference.mean() - margin), float(difference.mean() + margin))


def _best(found: Found) -> str:
    """From the simplest on, whatever beats the best so far surely."""
    best = "shared"
    for name, scores in found.scores.items():
        gain = _gain(scores - found.scores[best])
        if gain.low > 0 and gain.mean > _WORTH:
            best = name
    return best


def _sure(found: Found, best: str, gains: dict[str, Gain]) -> str:
    """How sure that is."""
    count = len(found.groups)
    if count < 8:
        return f"this is a guess: {count} clients tell little"
    rivals = {name: _gain(found.scores[best] - scores) for name, scores in found.scores.items() if name != best}
    close = [name for name, lead in rivals.items() if lead.low <= 0]
    if best == "shared":
        hope = max(gain.high for gain in gains.values())
        return (
            f"fairly sure that personalization gains less than {hope:.2g} of the {found.metric} with models this simple"
        )
    if not close:
        return "sure, as far as models this simple tell: every other probe is surely worse"
    return f"sure that one model for all is worse, not sure against {' and '.join(PROBES[name] for name in close)}"
