"""Stored reports, and what became slower since.

Machines drift: they throttle, and neighbours take their share. A row is therefore compared in units of the machine's
own matrix products, which were timed in turn with it: `seconds x FLOP/s then` against `seconds x FLOP/s now`. It counts
as slower if its median grew by more than a tenth in these units AND its fastest repetition is slower than the slowest
one was.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pfljax.benchmark.report import Report, Slower
from pfljax.benchmark.rows import Row

_TOLERANCE = 1.1


def default_folder() -> Path:
    """Where reports are kept unless told otherwise: beside the compiled programs, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pfljax" / "benchmarks"


def folder_of(store: Path, machine: Mapping[str, Any]) -> Path:
    """The folder of a machine's reports."""
    name = f"{machine['processor']} {machine['cores']} cores {machine.get('device', '')}"
    return store / re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def keep(report: Report, store: Path) -> Path:
    """Stores a report and returns its file."""
    stamp = re.sub(r"[^0-9T]", "", report.date)
    return report.save(folder_of(store, report.machine) / f"{stamp}.json")


def earlier(store: Path, machine: Mapping[str, Any]) -> Iterator[tuple[str, list[Row]]]:
    """Dates and rows of the stored reports of this machine, newest first. Files that are damaged are left out."""
    for path in sorted(folder_of(store, machine).glob("*.json"), reverse=True):
        try:
            stored = json.loads(path.read_text())
            yield stored["date"], [Row.from_dict(row) for row in stored["rows"]]
        except (ValueError, KeyError, TypeError):
            continue


def slower(rows: Iterable[Row], before: Iterable[tuple[str, Iterable[Row]]]) -> list[Slower]:
    """Rows that became slower since the newest earlier report that has them."""
    last: dict[tuple[str, str, str], tuple[str, Row]] = {}
    for date, stored in before:
        for row in stored:
            if row.seconds and row.gemm:
                last.setdefault(_identity(row), (date, row))
    found = []
    for row in rows:
        if not (row.seconds and row.gemm) or _identity(row) not in last:
            continue
        date, old = last[_identity(row)]
        assert row.median
        assert old.median
        assert old.gemm
        ratio = row.median * row.gemm / (old.median * old.gemm)
        if ratio > _TOLERANCE and min(row.seconds) * row.gemm > max(old.seconds) * old.gemm:
            found.append(Slower(row.workload, row.contender, 1e3 * old.median, 1e3 * row.median, ratio, date))
    return found


def _identity(row: Row) -> tuple[str, str, str]:
    return row.workload, row.contender, row.backend
