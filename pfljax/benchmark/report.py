"""What a benchmark found: rows, their ratios, what the project wants, what became slower."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pfljax import files
from pfljax.benchmark.rows import OURS, Row, find, ratio
from pfljax.benchmark.targets import TARGETS, Target
from pfljax.benchmark.workloads import Workload

_NUMBERS = ("compile\ns", "first\nround s", "round\nms", "min-max\nms", "client-\nsteps/s", "client-\nrounds/s")


_COSTLY = 1.3
"""Times that a round may take for its matrix products, beside FedAvg's, before it is worth a look."""


@dataclass(frozen=True)
class Slower:
    """A workload that takes longer than it did.

    Args:
      workload, contender: what.
      before, now: milliseconds of a round.
      ratio: of the two, each in units of the machine's own matrix products at its time.
      since: date of the earlier run.
    """

    workload: str
    contender: str
    before: float
    now: float
    ratio: float
    since: str


@dataclass(frozen=True)
class Report:
    """A whole run of the benchmark.

    Args:
      rows: what was measured.
      workloads: what was run.
      machine: `pfljax.benchmark.machine.identity()` and what it measured.
      date: ISO 8601, UTC.
      warnings: what makes the numbers doubtful.
      slower: what became slower since the last stored run of the same machine.
      compared: the date of that run, if there is one.
      targets: goals, judged where this run has what they need.
    """

    rows: Sequence[Row]
    workloads: Sequence[Workload]
    machine: Mapping[str, Any]
    date: str
    warnings: Sequence[str] = ()
    slower: Sequence[Slower] = ()
    compared: Sequence[str] = ()
    targets: Sequence[Target] = TARGETS

    def row(self, workload: str, contender: str = OURS) -> Row | None:
        """A row, None if it was not run."""
        return find(self.rows, workload, contender)

    def ratio(self, row: Row) -> float | None:
        """How many times longer than pfljax this contender takes: a steady round, or the whole where that is all."""
        return ratio(self.rows, row)

    def judged(self) -> Iterator[tuple[Target, float]]:
        """The project's public goals that this run can judge, with what it found."""
        for target in self.targets:
            value = target.measure(self.rows)
            if value is not None:
                yield target, value

    def costs(self) -> dict[str, tuple[float, float | None]]:
        """What a round of each method takes beside one of FedAvg: its time, and its matrix products if they are known.

        Of the workloads `method_*`; nothing without FedAvg's.
        """
        rows = {row.workload.removeprefix("method_"): row for row in self.rows if row.workload.startswith("method_")}
        plain = rows.pop("fedavg", None)
        if plain is None or not plain.median:
            return {}
        return {
            name: (row.median / plain.median, row.flops / plain.flops if row.flops and plain.flops else None)
            for name, row in rows.items()
            if row.median
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "date": self.date,
            "machine": dict(self.machine),
            "warnings": list(self.warnings),
            "workloads": [workload.to_dict() for workload in self.workloads],
            "rows": [row.to_dict() | {"ratio": self.ratio(row)} for row in self.rows],
            "targets": [
                {"target": target.name, "value": value, "least": target.least, "aim": target.aim,
                 "reached": target.reached(value)}
                for target, value in self.judged()
            ],
            "costs": {name: {"time": time, "products": products} for name, (time, products) in self.costs().items()},
            "slower": [dataclasses.asdict(each) for each in self.slower],
            "compared": list(self.compared),
        }  # fmt: skip

    def table(self) -> RenderableType:
        """Everything, to be printed with rich."""
        parts: list[RenderableType] = [Text(_machine_line(self.machine))]
        parts += [Text(f"warning: {text}", style="yellow") for text in self.warnings]
        parts.append(self._rows())
        for row in self.rows:
            if row.failed:
                kind, style = ("has no counterpart", "dim") if row.unsupported else ("failed", "red")
                parts.append(Text(f"{row.workload}: {row.contender} {kind}: {row.failed}", style=style))
        parts += [Text(_divided(row)) for row in self.rows if row.parts]
        if costs := self.costs():
            parts.append(_costs(costs))
        judged = list(self.judged())
        if judged:
            parts.append(_targets(judged))
        for each in self.slower:
            parts.append(
                Text(
                    f"slower: {each.workload} ({each.contender}) {_digits(each.before)} -> {_digits(each.now)} ms, "
                    f"{each.ratio:.2f}x beside this machine's matrix products, since {each.since}",
                    style="red",
                )
            )
        if self.compared and not self.slower:
            parts.append(Text(f"nothing became slower since {self.compared[0]}"))
        return Group(*parts)

    def _rows(self) -> Table:
        on_chip = any(row.backend != "cpu" for row in self.rows)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("workload", "contender"):
            table.add_column(name, no_wrap=True)
        share = ["GEMM\n%", *(["memory\n%"] if on_chip else [])]
        for name in [*_NUMBERS, *share, "peak\nMB", "times\npfljax"]:
            table.add_column(name, justify="right", no_wrap=True)
        previous = ""
        for row in self.rows:
            name = "" if row.workload == previous else row.workload
            previous = row.workload
            if row.failed:
                table.add_row(name, row.contender, "-" if row.unsupported else "failed")
                continue
            table.add_row(name, row.contender, *_cells(row, self.ratio(row), on_chip))
        return table

    def markdown(self) -> str:
        """A table of how many times longer the others take: a line for each workload, a column for each contender."""
        rivals = list(dict.fromkeys(row.contender for row in self.rows if row.contender != OURS and not row.failed))
        head = ["a round, ms", OURS, *rivals, "% GEMM"]
        lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
        for workload in self.workloads:
            ours = self.row(workload.name)
            if ours is None or not ours.median:
                continue
            cells = [f"**{_digits(1e3 * ours.median)}**"]
            for rival in rivals:
                row = self.row(workload.name, rival)
                median = None if row is None else row.median
                cells.append("" if median is None else f"{_digits(1e3 * median)} ({median / ours.median:.1f}x)")
            share = "" if ours.gemm_share is None else f"{100 * ours.gemm_share:.0f}"
            lines.append(f"| {' | '.join([workload.about, *cells, share])} |")
        return "\n".join(lines) + "\n"

    def save(self, path: str | Path) -> Path:
        """Writes the whole report as JSON."""
        return files.write_json(path, self.to_dict(), indent=1)


def _machine_line(machine: Mapping[str, Any]) -> str:
    parts = [str(machine.get("processor", "")), f"{machine.get('cores')} cores", str(machine.get("system", ""))]
    if machine.get("memory_bytes"):
        parts.append(f"{machine['memory_bytes'] / 1e9:.0f} GB")
    if machine.get("backend", "cpu") != "cpu":
        parts.append(str(machine["device"]))
    if machine.get("gemm"):
        parts.append(f"GEMM {max(machine['gemm'].values()) / 1e9:,.0f} GFLOP/s")
    if machine.get("bandwidth"):
        parts.append(f"memory {machine['bandwidth'] / 1e9:,.0f} GB/s")
    return ", ".join(part for part in parts if part)


def _cells(row: Row, ratio: float | None, on_chip: bool) -> list[str]:
    def spelled(value: float | None, form: str = ",.0f", scale: float = 1.0) -> str:
        return "" if value is None else format(scale * value, form)

    spread = f"{_digits(1e3 * min(row.seconds))}-{_digits(1e3 * max(row.seconds))}" if row.seconds else ""
    cells = [
        spelled(row.compile_seconds, ".2f"),
        spelled(row.first_round_seconds, ".2f"),
        "" if row.median is None else _digits(1e3 * row.median),
        spread,
        spelled(row.client_steps_per_second),
        "" if row.client_rounds_per_second is None else _digits(row.client_rounds_per_second),
        spelled(row.gemm_share, ".1f", 100),
    ]
    if on_chip:
        cells.append(spelled(row.bandwidth_share, ".1f", 100))
    return [*cells, spelled(row.peak_bytes, ",.0f", 1e-6), "" if row.contender == OURS else spelled(ratio, ".2f")]


def _divided(row: Row) -> str:
    """Where the seconds of a command went."""
    assert row.first_round_seconds
    assert row.cpu_seconds
    shares = [f"{name} {s:.1f} s ({s / row.first_round_seconds:.0%})" for name, s in row.parts.items()]
    each = f", {row.cpu_seconds / row.methods:.1f} a method" if row.methods else ""
    return (
        f"{row.workload} ({row.contender}): {row.first_round_seconds:.1f} s, of which {', '.join(shares)}; "
        f"{row.cpu_seconds:.1f} CPU seconds{each}"
    )


def _costs(costs: Mapping[str, tuple[float, float | None]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="a round beside FedAvg's", title_justify="left")
    table.add_column("method", no_wrap=True)
    for name in ("time", "products", "time over\nproducts"):
        table.add_column(name, justify="right")
    for name, (seconds, products) in costs.items():
        over = seconds / products if products else None
        style = "red" if over and over > _COSTLY else ""
        known = ["unknown", ""] if over is None else [f"{products:.2f}", f"{over:.2f}"]
        table.add_row(name, f"{seconds:.2f}", *known, style=style)
    return table


def _digits(value: float) -> str:
    """At least three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _targets(judged: Sequence[tuple[Target, float]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="goals", title_justify="left")
    table.add_column("goal")
    for name in ("found", "at least", "aim"):
        table.add_column(name, justify="right")
    table.add_column("")
    for target, value in judged:
        reached = target.reached(value)
        style = {"missed": "red", "aim reached": "green"}.get(reached, "")
        spelled = [target.spelled(each) for each in (value, target.least, target.aim)]
        table.add_row(target.name, *spelled, Text(reached, style=style))
    return table
