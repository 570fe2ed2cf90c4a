"""What a sweep found: means and intervals over seeds, the best setting by validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from pfljax import results
from pfljax.experiment import Config
from pfljax.results import Result
from pfljax.sweeps import spaces
from pfljax.sweeps.ledger import Ledger, Outcome
from pfljax.sweeps.points import Point, digest
from pfljax.sweeps.spaces import Setting

if TYPE_CHECKING:
    import pandas as pd

Select = Literal["best_validation", "best_test"]
"""Which examples choose a setting."""


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


class Standing(NamedTuple):
    """How one setting fares, over its seeds."""

    setting: Setting  # without seeds
    config: Config  # of its first seed
    validation: Estimate
    test: Estimate
    ids: tuple[str, ...]
    done: int
    diverged: int

    @property
    def pending(self) -> int:
        """Seeds that have not been run."""
        return len(self.ids) - self.done - self.diverged


class Results(Mapping[str, Result]):
    """Results by id, read when asked for. What diverged or has not been run has none."""

    def __init__(self, ledgers: Sequence[Ledger], points: Sequence[Point], outcomes: Mapping[str, Outcome]):
        self._ledgers = ledgers
        self._ids = [point.id for point in points if point.id in outcomes and outcomes[point.id].status == "done"]

    def __getitem__(self, id: str) -> Result:
        for ledger in self._ledgers if id in self._ids else ():
            try:
                return ledger.result(id)
            except KeyError:
                continue
        raise KeyError(id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


class Sweep:
    """The points of a sweep and how they ended.

    Args:
      points: in the order of the space.
      ledgers: where outcomes are read from; of a point in several, the first counts.
    """

    def __init__(self, points: Sequence[Point], ledgers: Sequence[Ledger]):
        self.points = tuple(points)
        self.outcomes: dict[str, Outcome] = {}
        for ledger in ledgers:
            self.outcomes = ledger.outcomes() | self.outcomes
        self.outcomes = {point.id: self.outcomes[point.id] for point in points if point.id in self.outcomes}
        self.results = Results(ledgers, points, self.outcomes)

    @property
    def counts(self) -> dict[str, int]:
        """Number of points that are `done`, `diverged` and `pending`."""
        ended = [outcome.status for outcome in self.outcomes.values()]
        done, diverged = ended.count("done"), ended.count("diverged")
        return {"done": done, "diverged": diverged, "pending": len(self.points) - len(ended)}

    def standings(self) -> list[Standing]:
        """Every setting once, in the order of the space."""
        settings: dict[str, list[Point]] = {}
        for point in self.points:
            content = point.config.to_dict()
            del content["run"]["seed"], content["data"]["seed"]
            settings.setdefault(digest(content), []).append(point)
        return [self._standing(members) for members in settings.values()]

    def best(self, select: Select = "best_validation") -> Standing:
        """The setting with the best mean over seeds; one that diverged with fewer seeds comes before.

        Args:
          select: `"best_validation"`; `"best_test"` looks at the test examples, so its numbers are too high: for
            comparison with publications that report it.

        Raises:
          ValueError: if no point has ended well, or none has validation examples.
        """
        if select not in ("best_validation", "best_test"):
            raise ValueError(f"select={select!r}: choose 'best_validation' or 'best_test'")
        split = select.removeprefix("best_")
        ended = [standing for standing in self.standings() if standing.done]
        if not ended:
            raise ValueError(f"no point has ended well ({spell_counts(self.counts)}), so none is the best")
        scored = [standing for standing in ended if getattr(standing, split).count]
        if not scored:
            raise ValueError(
                f"select={select!r}: no client has {split} examples; set data.validation=0.2, or ask for "
                "select='best_test', whose numbers are too high"
            )
        return min(scored, key=lambda standing: (standing.diverged, -getattr(standing, split).mean))

    def table(self, select: Select | None = None) -> Table:
        """One row for each setting: test accuracy in percent, mean +- half a 95 % confidence interval over seeds.

        The best setting is bold. Rows are in the order of the space.

        Args:
          select: what chooses the best; validation if it was measured and None, else nobody is.

        Raises:
          ValueError: if it was asked for and is not possible, see `best`.
        """
        standings = self.standings()
        validated = any(standing.validation.count for standing in standings)
        best = self.best(select or "best_validation") if select or validated else None
        names = list(dict.fromkeys(name for standing in standings for name in standing.setting))
        table = Table(
            title="Accuracy, %: mean ± 95 % interval over seeds",
            caption=spell_counts(self.counts),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        for name in names:
            table.add_column(name, justify="right")
        for column in (["validation"] if validated else []) + ["test", "seeds", "diverged"]:
            table.add_column(column, justify="right")
        for standing in standings:
            cells = [spaces.brief(standing.setting.get(name, "-")) for name in names]
            cells += [_percent(standing.validation)] if validated else []
            cells += [_percent(standing.test), f"{standing.done}/{len(standing.ids)}", str(standing.diverged or "-")]
            table.add_row(*cells, style="bold" if best and standing.ids == best.ids else None)
        return table

    def frame(self, *, clients: bool = False) -> pd.DataFrame:
        """One row for each point: id, its setting, status, validation, test, seconds.

        Args:
          clients: the frames of all results below each other instead, with id and setting as further columns.

        Raises:
          ImportError: if pandas is not installed.
        """
        pandas = results.import_pandas()
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

    def _standing(self, members: Sequence[Point]) -> Standing:
        outcomes = [self.outcomes[point.id] for point in members if point.id in self.outcomes]
        ended = [outcome.status for outcome in outcomes]
        return Standing(
            members[0].chosen,
            members[0].config,
            estimate(outcome.validation for outcome in outcomes),
            estimate(outcome.test for outcome in outcomes),
            tuple(point.id for point in members),
            ended.count("done"),
            ended.count("diverged"),
        )


def spell_counts(counts: Mapping[str, int]) -> str:
    """`12 done, 1 diverged, 3 pending`, zeros left out."""
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing"


def _percent(score: Estimate) -> str:
    if not score.count:
        return "-"
    return f"{100 * score.mean:.1f}" + ("" if math.isnan(score.margin) else f" ± {100 * score.margin:.1f}")


def _scalars(setting: Setting) -> dict[str, Any]:
    """A setting for the columns of a frame: what is no scalar is spelled."""
    return {name: value if np.isscalar(value) else str(value) for name, value in setting.items()}
