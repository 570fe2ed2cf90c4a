"""Claims: the rows of a published table, how each is run, and what becomes of them here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pfljax.data import FederatedData
from pfljax.engine.course import Diverged
from pfljax.engine.ensemble import Ensemble, Point
from pfljax.experiment import from_config_dict, prepare
from pfljax.printing import Shown
from pfljax.results import statistics
from pfljax.results.result import Result
from pfljax.results.tables import Table

_DOUBTFUL = 0.05

Read = Callable[[Result], np.ndarray]
"""A run -> what a row says of it [columns], NaN where it says nothing."""


class Row(NamedTuple):
    """A row of a published table."""

    config: dict[str, Any]  # sections of a configuration; its data are None
    data: FederatedData
    read: Read
    means: Sequence[float]  # [columns] as published, NaN where nothing was
    spreads: Sequence[float]  # [columns] standard deviations over seeds


class Protocol(NamedTuple):
    """In which all methods are compared on the data of a claim."""

    config: dict[str, Any]
    data: FederatedData


class Claim(NamedTuple):
    """A published table."""

    title: str
    source: str
    columns: tuple[str, ...]
    judged: str  # the column of the verdict
    published: int  # seeds behind each number
    rows: Mapping[str, Row]
    protocol: Protocol
    notes: Sequence[str] = ()


class Verdict(NamedTuple):
    """What two means over seeds say of each other: the difference, and how often seeds alone make one as large."""

    difference: float
    chance: float  # Welch's test of equal means, two-sided
    word: str


def judge(ours: np.ndarray, mean: float, spread: float, count: int, tests: int) -> Verdict:
    """Our scores of a row [seeds] beside the published mean and standard deviation over `count` seeds.

    `"agrees"` where seeds alone make such a difference in 5 % of all cases or more, `"differs"` where in less than 5 %
    over the number of `tests` (Bonferroni), else `"doubtful"`.

    >>> judge(np.array([70.0, 71.0, 72.0]), 71.5, 1.0, count=5, tests=10).word
    'agrees'
    """
    from scipy.stats import ttest_ind_from_stats

    mine = float(ours.mean()), float(ours.std(ddof=1)) if len(ours) > 1 else 0.0
    chance = float(ttest_ind_from_stats(*mine, len(ours), mean, spread, count, equal_var=False).pvalue)
    if np.isnan(chance):  # neither varies
        chance = float(mine[0] == mean)
    word = "agrees" if chance >= _DOUBTFUL else "differs" if chance < _DOUBTFUL / tests else "doubtful"
    return Verdict(mine[0] - mean, chance, word)


class Replica(Shown):
    """A published table and ours.

    Args:
      claim: what was published.
      scores: row -> ours [seeds, columns].
    """

    def __init__(self, claim: Claim, scores: Mapping[str, np.ndarray]):
        self.claim, self.scores = claim, dict(scores)
        at = claim.columns.index(claim.judged)
        self.verdicts = {}
        for name, ours in self.scores.items():
            row = claim.rows[name]
            self.verdicts[name] = judge(ours[:, at], row.means[at], row.spreads[at], claim.published, len(scores))

    def __rich__(self) -> Table:
        return self.table()

    @property
    def verdict(self) -> str:
        """In words, how many rows agree, and which do not."""
        words = {name: verdict.word for name, verdict in self.verdicts.items()}
        count = [*words.values()].count("agrees")
        others = [
            f"{name} {word} ({self.verdicts[name].difference:+.2f})" for name, word in words.items() if word != "agrees"
        ]
        said = f"{count} of {len(words)} rows agree with what was published within what seeds explain"
        return f"{said}; {', '.join(others)}" if others else said

    def table(self) -> Table:
        """Two lines for each row, what was published and ours, with the difference, its chance and a verdict."""
        claim = self.claim
        seeds = len(next(iter(self.scores.values())))
        notes = [self.verdict, f"published: {claim.source}, {claim.published} seeds; ours: {seeds}", *claim.notes]
        table = Table(claim.title, "\n".join(notes))
        table.add_names("row")
        table.add_names("")
        for column in claim.columns:
            table.add_numbers(column)
        table.add_numbers("difference")
        table.add_numbers("chance")
        table.add_names("verdict")
        for name, ours in self.scores.items():
            row, verdict = claim.rows[name], self.verdicts[name]
            table.add(name, "published", *map(_spread, row.means, row.spreads), "", "", "")
            mine = map(_spread, ours.mean(axis=0), ours.std(axis=0, ddof=min(1, len(ours) - 1)))
            table.add("", "ours", *mine, f"{verdict.difference:+.2f}", f"{verdict.chance:.2f}", verdict.word)
        return table


def _spread(mean: float, spread: float) -> str:
    return "-" if np.isnan(mean) else f"{mean:.2f} ± {spread:.2f}"


def over_seeds(config: Mapping[str, Any], data: FederatedData, seeds: Sequence[int]) -> list[Result]:
    """Runs that differ in their seeds, as one program.

    Args:
      config: sections of a configuration, without data.
      data: the federation.
      seeds: of the runs.

    Raises:
      ValueError: if the configuration cannot be met.
      Diverged: if one of them diverges.
    """
    described = from_config_dict({**config, "data": None})
    made = prepare(described, data)
    options = made.options(described.run)
    served = Ensemble(made.task, made.recipe.make, made.data, method=described.algorithm.name, **options)
    ended = dict(served.run([Point(seed, made.recipe.hyper) for seed in seeds]))
    for outcome in ended.values():
        if isinstance(outcome, Diverged):
            raise outcome
    return [outcome for _, outcome in sorted(ended.items())]  # pyright: ignore[reportReturnType]


def replicate(claim: Claim, seeds: Sequence[int], rows: Iterable[str] | None = None) -> Replica:
    """Runs the rows of a claim, all of them if None, with these seeds."""
    chosen = list(claim.rows if rows is None else rows)
    scores = {}
    for name in chosen:
        row = claim.rows[name]
        scores[name] = np.stack([row.read(result) for result in over_seeds(row.config, row.data, seeds)])
    return Replica(claim, scores)


def methods(claim: Claim, names: Sequence[str], seeds: Sequence[int]) -> Table:
    """Our methods in the protocol of a claim: means over clients of what they deploy, over seeds.

    A method that cannot be run in it says why, below the table.
    """
    config, data = claim.protocol
    found, left = {}, []
    for name in names:
        of_method = {**config, "algorithm": {"name": name}, "methods": config.get("methods", {})}
        try:
            results = over_seeds(of_method, data, seeds)
        except (ValueError, Diverged) as error:
            left.append(f"{name}: {str(error).splitlines()[0]}")
            continue
        found[name] = 100 * np.stack([result.scores["personal", "test", "accuracy"][-1] for result in results])
    alone = found.get("local_only")
    table = Table(f"{claim.title}: what clients deploy, {len(seeds)} seeds", "\n".join(left) or None)
    table.add_names("method")
    for column in [*data.names[: data.num_clients], "mean", "worst", ">alone"]:
        table.add_numbers(column)
    for name in sorted(found, key=lambda name: -found[name].mean()):
        scores = found[name]
        spread = scores.std(axis=0, ddof=min(1, len(seeds) - 1))
        means = scores.mean(axis=1)
        better = "-" if alone is None or name == "local_only" else f"{np.mean(scores > alone):.0%}"
        worst = np.mean([statistics.worst(row) for row in scores])
        mean = _spread(float(means.mean()), float(means.std(ddof=min(1, len(seeds) - 1))))
        table.add(name, *map(_spread, scores.mean(axis=0), spread), mean, f"{worst:.2f}", better)
    return table
