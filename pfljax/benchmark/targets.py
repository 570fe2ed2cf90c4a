"""The project's public goals: ratios within one run of the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pfljax.benchmark.rows import Row, find, ratio

Measure: TypeAlias = Callable[[Sequence[Row]], float | None]
"""Rows of a run -> what it found, None if it did not run what is needed."""


@dataclass(frozen=True)
class Target:
    """A goal.

    Args:
      name: what is wanted.
      measure: what a run found.
      least: what counts as reached.
      aim: what would be better.
      unit: `"x"`, `"%"`, `"s"` or `"/s"`.
      smaller: whether less is better.
    """

    name: str
    measure: Measure
    least: float
    aim: float
    unit: str = "x"
    smaller: bool = False

    def reached(self, value: float) -> str:
        """`"missed"`, `"reached"` or `"aim reached"`."""
        sign = -1 if self.smaller else 1
        if sign * value >= sign * self.aim:
            return "aim reached"
        return "reached" if sign * value >= sign * self.least else "missed"

    def spelled(self, value: float) -> str:
        """A value with its unit."""
        if self.unit == "%":
            return f"{100 * value:.0f} %"
        return f"{value:,.0f}/s" if self.unit == "/s" else f"{value:.3g}{'' if self.unit == 'x' else ' '}{self.unit}"


def over(workload: str, rival: str) -> Measure:
    """How many times longer the rival takes."""

    def measure(rows: Sequence[Row]) -> float | None:
        row = find(rows, workload, rival)
        return None if row is None or row.failed else ratio(rows, row)

    return measure


def _share(workload: str) -> Measure:
    def measure(rows: Sequence[Row]) -> float | None:
        row = find(rows, workload)
        return None if row is None or row.backend != "cpu" else row.gemm_share

    return measure


def _times(workload: str, other: str) -> Measure:
    def measure(rows: Sequence[Row]) -> float | None:
        both = find(rows, workload), find(rows, other)
        a, b = (None if row is None else row.median for row in both)
        return a / b if a and b else None

    return measure


def _memory_growth(rows: Sequence[Row]) -> float | None:
    """Growth of the peak from the smallest to the largest cohort, over the bytes of the examples that these add."""
    few, many = find(rows, "cohort_10"), find(rows, "cohort_1000")
    if few is None or many is None or not few.peak_bytes or not many.peak_bytes:
        return None
    return (many.peak_bytes - few.peak_bytes) / ((many.cohort - few.cohort) * 100 * 28 * 28)


def _whole(workload: str) -> Measure:
    def measure(rows: Sequence[Row]) -> float | None:
        row = find(rows, workload)
        return None if row is None else row.first_round_seconds

    return measure


def _chip(rows: Sequence[Row]) -> float | None:
    row = find(rows, "cnn")
    return None if row is None or row.backend == "cpu" else row.client_steps_per_second


_SHARES = {"logistic": (0.20, 0.30), "mlp": (0.45, 0.60), "cnn": (0.54, 0.75)}

TARGETS: tuple[Target, ...] = (
    *(Target(f"{workload}, share of GEMM", _share(workload), *goal, unit="%") for workload, goal in _SHARES.items()),
    Target("power-law sizes, time over no waste", _times("power_law", "no_waste"), 1.3, 1.1, smaller=True),
    Target("population 10k over 1k", _times("population_10k", "population_1k"), 1.1, 1.0, smaller=True),
    Target("population 100k over 1k", _times("population_100k", "population_1k"), 1.1, 1.0, smaller=True),
    Target("memory growth, cohort 10 to 1,000, over its data", _memory_growth, 1.0, 0.05, smaller=True),
    Target("sweep of 32 over separate runs", over("sweep", "pfljax, separate"), 5, 10),
    Target("time to the first round, warm cache", _whole("startup"), 5, 3, unit="s", smaller=True),
    Target("seven methods, cleared cache", _whole("compile_seven"), 13.5, 10, unit="s", smaller=True),
    Target("seven methods, warm cache", _whole("compile_seven_warm"), 5, 3, unit="s", smaller=True),
    Target("CNN client-steps on an accelerator", _chip, 40_000, 80_000, unit="/s"),
)
"""What the project wants to reach on one machine in one run, without others."""
