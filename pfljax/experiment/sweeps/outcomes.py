"""What a sweep found: means and intervals over seeds, the best setting by validation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pfljax import checks
from pfljax.experiment.config import Config
from pfljax.experiment.sweeps import spaces
from pfljax.experiment.sweeps.ledger import Ledger, Outcome
from pfljax.experiment.sweeps.points import Point, digest
from pfljax.experiment.sweeps.spaces import Setting
from pfljax.printing import Shown
from pfljax.results import scores
from pfljax.results.result import Result, import_pandas
from pfljax.results.scores import Yardstick
from pfljax.results.statistics import Estimate, estimate
from pfljax.results.tables import Table, bold

if TYPE_CHECKING:
    import pandas as pd

Select = Literal["best_validation", "best_test"]
"""Which examples choose a setting."""

_ROWS = 30  # of the table of a sweep that is printed as a whole


class Standing(NamedTuple):
    """How one setting fares, over its seeds."""

    setting: Setting  # without seeds
    config: Config  # of its first seed
    validation: Estimate
    test: Estimate
    ids: tuple[str, ...]
    done: int
    diverged: int
    failed: int = 0

    @property
    def pending(self) -> int:
        """Seeds that have not been run."""
        return len(self.ids) - self.done - self.diverged - self.failed


class Results(Mapping[str, Result]):
    """Results of the points that ended in one way, by id, read when asked for."""

    def __init__(
        self, ledgers: Sequence[Ledger], points: Sequence[Point], outcomes: Mapping[str, Outcome], status: str
    ) -> None:
        self._ledgers, self._points, self._outcomes, self._status = ledgers, points, outcomes, status

    def __getitem__(self, id: str) -> Result:
        for ledger in self._ledgers if self._there(id) else ():
            try:
                return ledger.result(id)
            except KeyError:
                continue
        raise KeyError(id)

    def __iter__(self) -> Iterator[str]:
        return (point.id for point in self._points if self._there(point.id))

    def __len__(self) -> int:
        return sum(map(self._there, (point.id for point in self._points)))

    def _there(self, id: str) -> bool:
        outcome = self._outcomes.get(id)
        return outcome is not None and outcome.status == self._status and outcome.seconds is not None


class Sweep(Shown):
    """The points of a sweep and how they ended.

    Args:
      points: in the order of the space.
      ledgers: where outcomes are read from; of a point in several, the first that is no failure counts.

    Attributes:
      results: of the points that are done.
      diverged: of those that diverged after an evaluation, the evaluations before.
    """

    def __init__(self, points: Sequence[Point], ledgers: Sequence[Ledger]):
        self.points = tuple(points)
        self.outcomes: dict[str, Outcome] = {}
        for ledger in ledgers:
            for id, outcome in ledger.outcomes().items():
                if id not in self.outcomes or self.outcomes[id].status == "failed":
                    self.outcomes[id] = outcome
        self.outcomes = {point.id: self.outcomes[point.id] for point in points if point.id in self.outcomes}
        self.results = Results(ledgers, points, self.outcomes, "done")
        self.diverged = Results(ledgers, points, self.outcomes, "diverged")
        self._found: Result | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of points that are `done`, `diverged`, `failed` and `pending`."""
        ended = [outcome.status for outcome in self.outcomes.values()]
        counts = {status: ended.count(status) for status in ("done", "diverged", "failed")}
        return counts | {"pending": len(self.points) - len(ended)}

    @property
    def metric(self) -> str:
        """What settings are compared by: as the first result has it."""
        known = self.points[0].config.run.metric if self.points else None
        return self._first.metric if self._first else known or "accuracy"

    def compared(self, metric: str | None = None) -> Yardstick:
        """What `metric` means, that of the sweep if None.

        Raises:
          ValueError: if it was not measured, with the nearest name.
        """
        return scores.choose(self.metric if metric is None else metric, self._first.measured if self._first else ())

    def standings(self, metric: str | None = None) -> list[Standing]:
        """Every setting once, in the order of the space.

        Args:
          metric: what validation and test are the means of; that of the sweep if None. Another one is looked up in
            all results.

        Raises:
          ValueError: if it was not measured.
        """
        outcomes = self._scored(metric)
        return [_standing(members, outcomes) for members in self._settings]

    def best(self, select: Select = "best_validation", *, metric: str | None = None) -> Standing:
        """The setting with the best mean over seeds; one that diverged with fewer seeds comes before.

        Args:
          select: `"best_validation"`; `"best_test"` looks at the test examples, so its numbers are too high: for
            comparison with publications that report it.
          metric: of which the mean is; that of the sweep if None.

        Raises:
          ValueError: if no point has ended well, none has validation examples, or the metric was not measured.
        """
        return self._best(self.standings(metric), select, self.compared(metric))

    def best_by(
        self, name: str, select: Select = "best_validation", *, metric: str | None = None
    ) -> dict[Any, Standing]:
        """The best setting for each value of a field, such as `"algorithm.name"`, in the order of the space.

        Args:
          name: of a field of the configuration. Values of which no point has ended well are left out.
          select, metric: see `best`.

        Raises:
          ValueError: if there is no such field, besides what `best` raises.
        """
        groups: dict[Any, list[Standing]] = {}
        for standing in self.standings(metric):
            if standing.done:
                groups.setdefault(_value(standing.config, name), []).append(standing)
        what = self.compared(metric)
        return {value: self._best(members, select, what) for value, members in groups.items()}

    def runs(self, standings: Mapping[Any, Standing] | None = None) -> dict[str, list[Result]]:
        """The results of settings over their seeds, for figures.

        Args:
          standings: what to call each setting; all, by what was chosen, if None.
        """
        if standings is None:
            standings = {spaces.spell(standing.setting): standing for standing in self.standings()}
        return {
            str(name): [self.results[id] for id in standing.ids if id in self.results]
            for name, standing in standings.items()
            if standing.done
        }

    @cached_property
    def _settings(self) -> list[list[Point]]:
        """Points that differ in their seeds only."""
        settings: dict[str, list[Point]] = {}
        for point in self.points:
            content = point.config.to_dict()
            for section in filter(content.get, ("run", "data")):
                content[section].pop("seed")
            settings.setdefault(digest(content), []).append(point)
        return list(settings.values())

    @property
    def _first(self) -> Result | None:
        """A result, as soon as there is one."""
        self._found = self._found or next(iter(self.results.values()), None)
        return self._found

    def _scored(self, metric: str | None) -> Mapping[str, Outcome]:
        """The outcomes, with the scores of `metric`."""
        if metric is None or self.compared(metric) == self.compared():
            return self.outcomes
        what, configs = str(self.compared(metric)), {point.id: point.config for point in self.points}
        scored = {}
        for id, result in self.results.items():
            at = result.evaluation(configs[id].run.select, metric=what)
            splits = {split: result.mean_at(at, split, metric=what) for split in ("validation", "test")}
            scored[id] = self.outcomes[id]._replace(**splits)
        return self.outcomes | scored

    def _best(self, standings: Sequence[Standing], select: Select, what: Yardstick) -> Standing:
        if select not in ("best_validation", "best_test"):
            raise ValueError(f"select={select!r}: choose 'best_validation' or 'best_test'")
        split = select.removeprefix("best_")
        ended = [standing for standing in standings if standing.done]
        if not ended:
            raise ValueError(f"no point has ended well ({spell_counts(self.counts)}), so none is the best")
        scored = [standing for standing in ended if getattr(standing, split).count]
        if not scored:
            raise ValueError(
                f"select={select!r}: no client has {split} examples; set data.validation=0.2, or ask for "
                "select='best_test', whose numbers are too high"
            )

        def rank(standing: Standing) -> tuple[int, float]:
            return standing.diverged + standing.failed, -what.sign * getattr(standing, split).mean

        return min(scored, key=rank)

    def __rich__(self) -> Table:
        return self.table(rows=_ROWS)

    def table(self, select: Select | None = None, *, metric: str | None = None, rows: int | None = None) -> Table:
        """One row for each setting: its mean test score +- half a 95 % confidence interval over seeds.

        The best setting is bold. Rows are in the order of the space. Accuracies are in percent.

        Args:
          select: what chooses the best; validation if it was measured and None, else nobody is.
          metric: of which the means are; that of the sweep if None.
          rows: so many, and the caption says how many there are; all if None.

        Raises:
          ValueError: if it was asked for and is not possible, see `best`.
        """
        standings, what = self.standings(metric), self.compared(metric)
        validated = any(standing.validation.count for standing in standings)
        best = self._best(standings, select or "best_validation", what) if select or validated else None
        names = list(dict.fromkeys(name for standing in standings for name in standing.setting))
        shown = standings[:rows]
        more = f"the first {len(shown)} of {len(standings)} settings; " * (len(shown) < len(standings))
        table = Table(f"Mean {what.title} ± 95 % interval over seeds", more + spell_counts(self.counts))
        for name in names:
            table.add_names(name.replace(".", ".\n"), justify="right")
        lost = [status for status in ("diverged", "failed") if self.counts[status]]
        columns = {"validation": validated, "test": True, "seeds": True, **dict.fromkeys(lost, True)}
        for column in filter(columns.get, columns):
            table.add_numbers(column)
        for standing in shown:
            cells = [spaces.brief(standing.setting.get(name, "-")) for name in names]
            cells += [_spell(standing.validation, what)] if validated else []
            cells += [_spell(standing.test, what), f"{standing.done}/{len(standing.ids)}"]
            cells += [str(getattr(standing, status) or "-") for status in lost]
            table.add(*(map(bold, cells) if best and standing.ids == best.ids else cells))
        return table

    def frame(self, *, clients: bool = False) -> pd.DataFrame:
        """One row for each point: id, its setting, status, validation, test, seconds.

        Args:
          clients: the frames of all results below each other instead, with id and setting as further columns.

        Raises:
          ImportError: if pandas is not installed.
        """
        pandas = import_pandas()
        if clients:
            settings = {point.id: point.setting for point in self.points}
            frames = [result.frame().assign(id=id, **_scalars(settings[id])) for id, result in self.results.items()]
            return pandas.concat(frames, ignore_index=True)
        rows = []
        for point in self.points:
            outcome = self.outcomes.get(point.id)
            ended = {} if outcome is None else outcome._asdict()
            rows.append({"id": point.id, **_scalars(point.setting), "status": "pending", **ended})
        return pandas.DataFrame(rows)


def _standing(members: Sequence[Point], outcomes: Mapping[str, Outcome]) -> Standing:
    known = [outcomes[point.id] for point in members if point.id in outcomes]
    ended = [outcome.status for outcome in known]
    return Standing(
        members[0].chosen,
        members[0].config,
        estimate(outcome.validation for outcome in known),
        estimate(outcome.test for outcome in known),
        tuple(point.id for point in members),
        *(ended.count(status) for status in ("done", "diverged", "failed")),
    )


def _value(config: Config, name: str) -> Any:
    """A field of a configuration by its dotted name."""
    value: Any = config.to_dict()
    for part in name.split("."):
        checks.names([part], value if isinstance(value, Mapping) else (), name)
        value = value[part]
    return value if np.isscalar(value) else str(value)


def spell_counts(counts: Mapping[str, int]) -> str:
    """`12 done, 1 diverged, 3 pending`, zeros left out."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing"


def _spell(score: Estimate, metric: Yardstick) -> str:
    return metric.spell(score.mean) + ("" if math.isnan(score.margin) else f" ± {metric.spell(score.margin)}")


def _scalars(setting: Setting) -> dict[str, Any]:
    """A setting for the columns of a frame: what is no scalar is spelled."""
    return {name: value if np.isscalar(value) else str(value) for name, value in setting.items()}
