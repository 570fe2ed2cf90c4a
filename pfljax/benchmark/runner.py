"""The run: contenders side by side, one repetition each in turn."""

from __future__ import annotations

import contextlib
import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfljax import checks
from pfljax.benchmark import machine, once, store
from pfljax.benchmark.contender import MACHINE, OURS, Contender, Failed, Process
from pfljax.benchmark.report import Report
from pfljax.benchmark.rows import Row
from pfljax.benchmark.targets import TARGETS, Target
from pfljax.benchmark.workloads import Workload, select

_STEADY = 1.2
"""Ratio of the machine's speeds during the run above which they are reported."""
_MOST = 1000
"""Rounds of a repetition."""


def run(
    workloads: Iterable[str | Workload] = ("quick",),
    *,
    rivals: Sequence[Contender] = (),
    targets: Sequence[Target] = TARGETS,
    repeats: int = 5,
    seconds: float = 0.5,
    keep: str | Path | bool = False,
    timeout: float = 3600.0,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Times workloads, pfljax and its rivals in turn.

    Each contender is a process of its own, fresh for every workload. First each sets itself up and runs its first
    round; then, `repeats` times, each in turn runs as many rounds as take about `seconds`. A matrix product takes part
    in the same way; its fastest turn in the whole run is the machine's peak, of which the others have a share.

    Args:
      workloads: names, patterns, groups, or `Workload`s.
      rivals: other simulators.
      targets: goals that the report judges.
      repeats: repetitions, at least 1.
      seconds: of one repetition; always at least one round.
      keep: where the report is stored and earlier ones are found: a folder, True for the user's cache, False for
        nowhere.
      timeout: seconds that one repetition may take.
      progress: called with what begins.

    Raises:
      ValueError: if a workload is unknown, or `repeats` is below 1.
      RuntimeError: if the machine itself cannot be measured.
    """
    checks.each(checks.Count, repeats=repeats)
    checks.each(checks.NotNegative, seconds=seconds)
    chosen = select(workloads)
    warnings = machine.busy()
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows: list[Row] = []
    with Process(MACHINE, timeout) as reference:
        progress("the machine itself")
        reference.ask("prepare", workload={})
        peak = reference.ask("details")
        for workload in chosen:
            progress(workload.name)
            rows += _timed(workload, [OURS, *rivals], reference, peak, repeats, seconds, timeout)
    speeds = [row.gemm for row in rows if row.gemm]
    if speeds and max(speeds) > _STEADY * min(speeds):
        range_ = " to ".join(f"{speed / 1e9:,.0f}" for speed in (min(speeds), max(speeds)))
        warnings.append(f"this machine was not steady: its own matrix products ran at {range_} GFLOP/s")
    fastest = max([*peak["gemm"].values(), *speeds])
    rows = [replace(row, peak=fastest) for row in rows]
    known = machine.identity() | peak
    report = Report(rows, chosen, known, date, warnings, targets=targets)
    if keep is False:
        return report
    folder = store.default_folder() if keep is True else Path(keep)
    before = list(store.earlier(folder, known))
    report = replace(report, slower=store.slower(rows, before), compared=[date for date, _ in before[:1]])
    store.keep(report, folder)
    return report


def _timed(
    workload: Workload,
    contenders: Sequence[Contender],
    reference: Process,
    peak: Mapping[str, Any],
    repeats: int,
    seconds: float,
    timeout: float,
) -> list[Row]:
    if workload.measures == "sweep":
        contenders = [OURS, replace(OURS, name="pfljax, separate", source="separate")]
    elif workload.measures != "round":
        contenders = [OURS]
    if workload.measures != "round":
        return [once.measure(workload, each, _row(workload, each, peak), timeout) for each in contenders]
    rows = {each.name: _row(workload, each, peak) for each in contenders}
    with contextlib.ExitStack() as stack:
        running: dict[str, Process] = {}
        counts: dict[str, int] = {}

        def attempt(name: str, what: Callable[[], None]) -> None:
            try:
                what()
            except Failed as failure:
                running.pop(name, None)
                why = {"failed": str(failure), "unsupported": failure.unsupported}
                rows[name] = replace(rows[name], seconds=(), **why)

        def start(each: Contender) -> None:
            process = running[each.name] = stack.enter_context(Process(each, timeout))
            reply = process.ask("prepare", workload=workload.to_dict())
            rows[each.name] = replace(
                rows[each.name],
                compile_seconds=reply["compile_seconds"],
                first_round_seconds=reply["first_round_seconds"],
                about=reply["about"],
            )
            counts[each.name] = rounds_within(seconds, process.ask("rounds", count=1)["seconds"])

        def repeat(name: str) -> None:
            count = counts[name]
            each = running[name].ask("rounds", count=count)["seconds"] / count
            rows[name] = replace(rows[name], seconds=(*rows[name].seconds, each))

        def finish(name: str) -> None:
            rows[name] = replace(rows[name], peak_bytes=running[name].ask("memory")["peak_bytes"])

        for each in contenders:
            attempt(each.name, lambda each=each: start(each))
        products = []
        for _ in range(repeats):
            for name in list(running):
                attempt(name, lambda name=name: repeat(name))
            products.append(reference.ask("rounds", count=3)["seconds"] / 3)
        for name in list(running):
            attempt(name, lambda name=name: finish(name))
        details = running[OURS.name].ask("details") if OURS.name in running else {}
    gemm = peak["flops"] / min(products)
    known = {"gemm": gemm, "flops": details.get("flops"), "params": details.get("params")}
    return [replace(row, **known) for row in rows.values()]


def rounds_within(seconds: float, once: float) -> int:
    """How many rounds of a length take about `seconds`, at least one."""
    return math.ceil(seconds / max(once, seconds / _MOST)) if seconds else 1


def _row(workload: Workload, contender: Contender, peak: Mapping[str, Any]) -> Row:
    return Row(
        workload.name, contender.name, peak["backend"], workload.cohort, workload.client_steps,
        bandwidth=peak["bandwidth"],
    )  # fmt: skip
