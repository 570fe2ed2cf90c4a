"""This checkout against another one: both run the same workloads in turn, pair after pair of fresh processes.

A pair gives one ratio for each measure, now over before; its processes take turns, and who begins changes. Two
processes of one program differ by a few percent, so that it is pairs that count, not turns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pfljax import checks, files
from pfljax.benchmark import machine, once
from pfljax.benchmark.contender import OURS, Contender, Failed, Process
from pfljax.benchmark.rows import Row
from pfljax.benchmark.runner import rounds_within
from pfljax.benchmark.workloads import Workload, select

LIMIT = 1.03
"""How much longer a workload may take."""
MEAN = "mean"
_TURNS = 4
"""Of each process of a pair."""


@dataclass(frozen=True)
class Ratio:
    """How a measure of a workload changed.

    Args:
      workload: its name, `MEAN` for the geometric mean over several.
      measure: `round`, `compile`, `whole`, `cpu` or `import`.
      now, before: seconds, one for each pair.
    """

    workload: str
    measure: str
    now: Sequence[float]
    before: Sequence[float]

    @property
    def ratio(self) -> float:
        """Geometric mean of now / before."""
        return float(np.exp(self._logs.mean()))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of 95 %, by Student's t on the logarithms; None for a single pair.

        >>> low, high = Ratio("mlp", "round", [2.0, 2.0, 8.0], [1.0, 2.0, 4.0]).interval
        >>> print(f"{low:.3f} {high:.3f}")  # exp(2/3 log 2 -+ 4.3027 log 2 / 3)
        0.587 4.290
        """
        from scipy import stats

        count = len(self._logs)
        if count < 2:
            return None
        reach = stats.t.ppf(0.975, count - 1) * self._logs.std(ddof=1) / math.sqrt(count)
        low, high = np.exp(self._logs.mean() + np.array([-reach, reach]))
        return float(low), float(high)

    @property
    def verdict(self) -> str:
        """`"slower"` than the limit or `"faster"` than before where that is sure, `"unclear"`, or nothing."""
        low, high = self.interval or (0.0, math.inf)
        if low > LIMIT:
            return "slower"
        return "unclear" if high > LIMIT else "faster" if high < 1 else ""

    @property
    def _logs(self) -> np.ndarray:
        return np.log(self.now) - np.log(self.before)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with what follows from it."""
        derived = {name: getattr(self, name) for name in ("ratio", "interval", "verdict")}
        return dataclasses.asdict(self) | derived


@dataclass(frozen=True)
class Paired:
    """What became of each workload.

    Args:
      ratios: of each workload and measure, in the order in which they ran.
      failed: workload -> why it has none.
      against: the other checkout.
      machine: `pfljax.benchmark.machine.identity()`.
      date: ISO 8601, UTC.
      warnings: what makes the numbers doubtful.
    """

    ratios: Sequence[Ratio]
    failed: Mapping[str, str]
    against: str
    machine: Mapping[str, Any]
    date: str
    warnings: Sequence[str] = ()

    def means(self) -> Iterator[Ratio]:
        """Over the workloads, for each measure that several have."""
        for measure in dict.fromkeys(ratio.measure for ratio in self.ratios):
            several = [ratio for ratio in self.ratios if ratio.measure == measure]
            if len(several) > 1:
                now, before = (
                    np.exp(np.log([getattr(ratio, when) for ratio in several]).mean(axis=0))
                    for when in ("now", "before")
                )
                yield Ratio(MEAN, measure, now.tolist(), before.tolist())

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        ratios = [ratio.to_dict() for ratio in (*self.ratios, *self.means())]
        return dataclasses.asdict(self) | {"ratios": ratios}

    def save(self, path: str | Path) -> Path:
        """Writes everything as JSON."""
        return files.write_json(path, self.to_dict(), indent=1)

    def table(self) -> RenderableType:
        """To be printed with rich."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"against {self.against}", title_justify="left")
        for name in ("workload", "measure"):
            table.add_column(name, no_wrap=True)
        for name in ("before", "now", "ratio", "95 % interval"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("")
        for ratio in (*self.ratios, *self.means()):
            times = [_time(statistics.median(each)) for each in (ratio.before, ratio.now)]
            interval = "" if ratio.interval is None else "{:.3f} to {:.3f}".format(*ratio.interval)
            style = {"slower": "red", "faster": "green"}.get(ratio.verdict, "")
            cells = [ratio.workload, ratio.measure, *times, f"{ratio.ratio:.3f}", interval]
            table.add_row(*cells, Text(ratio.verdict, style=style))
        failures = [Text(f"{name} failed: {why}", style="red") for name, why in self.failed.items()]
        return Group(*(Text(f"warning: {text}", style="yellow") for text in self.warnings), table, *failures)


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def compare(
    against: str | Path,
    workloads: Iterable[str | Workload] = ("quick",),
    *,
    pairs: int = 5,
    seconds: float = 0.5,
    timeout: float = 3600.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Paired:
    """Runs workloads in this checkout and in another one.

    Args:
      against: the other checkout, a folder with `pfljax` in it. Its programs run in this interpreter.
      workloads: names, patterns, groups, or `Workload`s.
      pairs: of processes for each workload, at least 1.
      seconds: of one turn; always at least one round.
      timeout: seconds that one reply may take.
      progress: called with what begins.

    Raises:
      ValueError: if a workload is unknown, `pairs` is below 1, or `against` is no checkout.
    """
    checks.each(checks.Count, repeats=pairs)
    checks.each(checks.NotNegative, seconds=seconds)
    chosen = select(workloads)
    both = OURS, replace(OURS, name="before", checkout=_checkout(against))
    warnings = machine.busy()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    failed: dict[str, str] = {}
    for number in range(pairs):
        for workload in chosen:
            if workload.name in failed:
                continue
            progress(f"{workload.name}, pair {number + 1} of {pairs}")
            order = both if number % 2 == 0 else both[::-1]
            try:
                pair = _pair(workload, order, seconds, timeout)
            except Failed as failure:
                failed[workload.name] = str(failure)
                continue
            now, before = (pair[each.name] for each in both)
            for measure in now:
                found.setdefault((workload.name, measure), []).append((now[measure], before[measure]))
    ratios = [Ratio(*what, *zip(*times, strict=True)) for what, times in found.items() if what[0] not in failed]
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Paired(ratios, failed, str(against), machine.identity(), date, warnings)


def _checkout(against: str | Path) -> Path:
    folder = Path(against).expanduser().resolve()
    if not (folder / "pfljax" / "benchmark").is_dir():
        raise ValueError(f"{str(against)!r} is no checkout of pfljax: give the folder that has pfljax/benchmark in it")
    return folder


def _pair(
    workload: Workload, order: Sequence[Contender], seconds: float, timeout: float
) -> dict[str, dict[str, float]]:
    """Name -> measure -> seconds."""
    if workload.measures == "round":
        return _turns(workload, order, seconds, timeout)
    return {each.name: _whole(workload, each, timeout) for each in order}


def _whole(workload: Workload, contender: Contender, timeout: float) -> dict[str, float]:
    row = once.measure(workload, contender, Row(workload.name, contender.name, "", 0, 0.0), timeout)
    if row.failed or not row.first_round_seconds:
        raise Failed(f"{contender.name}: {row.failed}")
    more = {"cpu": row.cpu_seconds, "import": row.parts["import"]} if row.cpu_seconds else {}
    return {"whole": row.first_round_seconds, **more}


def _turns(
    workload: Workload, order: Sequence[Contender], seconds: float, timeout: float
) -> dict[str, dict[str, float]]:
    times: dict[str, list[float]] = {each.name: [] for each in order}
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(Process(each, timeout)) for each in order]
        compiled, counts = {}, {}
        for process in processes:
            name = process.contender.name
            compiled[name] = _ask(process, "prepare", workload=workload.to_dict())["compile_seconds"]
            counts[name] = rounds_within(seconds, _ask(process, "rounds", count=1)["seconds"])
        for turn in range(_TURNS):
            for process in processes if turn % 2 == 0 else processes[::-1]:
                name = process.contender.name
                times[name].append(_ask(process, "rounds", count=counts[name])["seconds"] / counts[name])
    return {name: {"round": statistics.median(times[name]), "compile": compiled[name]} for name in times}


def _ask(process: Process, do: str, **arguments: Any) -> dict[str, Any]:
    try:
        return process.ask(do, **arguments)
    except Failed as failure:
        raise Failed(f"{process.contender.name}: {failure}") from None
