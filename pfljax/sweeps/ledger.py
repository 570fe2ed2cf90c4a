"""The ledger of a sweep: points and outcomes in SQLite, one transaction for each.

One process writes a file: the shards of a sweep have one each, because SQLite on network disks does not bear several
writers. Whoever reads takes all ledgers of the folder together.
"""

from __future__ import annotations

import json
import platform
import re
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pfljax.course import Diverged
from pfljax.results import Result, Select
from pfljax.sweeps.points import Point

_SCHEMA = """
create table if not exists points (id text primary key, family text not null, config text not null);
create table if not exists outcomes (
    id text primary key, status text not null, reason text, summary text, validation real, test real, arrays blob,
    seconds real, host text, time text
);
"""
_VERSION = 1
_FAST = "id, status, reason, validation, test, seconds, host, time"
_MERGED = "ledger.sqlite"


class Outcome(NamedTuple):
    """How a point ended."""

    id: str
    status: Literal["done", "diverged"]
    reason: str | None = None  # why it diverged
    validation: float | None = None  # mean over clients of what the personalized models score, where it was measured
    test: float | None = None
    seconds: float | None = None
    host: str = ""
    time: str = ""  # UTC


class Ledger:
    """One file, or memory.

    Args:
      path: of the file, made if missing; memory if None.

    Raises:
      ValueError: if the file is damaged, or of another version.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._connection = sqlite3.connect(":memory:" if path is None else path, timeout=60)
        weakref.finalize(self, self._connection.close)
        with self._guarded():
            (version,) = self._connection.execute("pragma user_version").fetchone()
            if version not in (0, _VERSION):
                raise ValueError(f"{path} is a ledger of version {version}, and this program writes {_VERSION}")
            if version == 0:
                self._connection.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit;")

    def add(self, points: Iterable[Point]) -> None:
        """Enters points; those that are there already stay."""
        rows = [(point.id, point.group, json.dumps(point.config.to_dict())) for point in points]
        with self._guarded(), self._connection:
            self._connection.executemany("insert or ignore into points values (?, ?, ?)", rows)

    def record(self, point: Point, result: Result | Diverged, select: Select = "last") -> Outcome:
        """Enters how a point ended, at once and for good; the first outcome of a point stays.

        Args:
          point: which one.
          result: what the engine yielded.
          select: the evaluation whose scores are entered.
        """
        if isinstance(result, Diverged):
            outcome, summary, arrays = Outcome(point.id, "diverged", str(result)), None, None
        else:
            at = result.evaluation(select)
            validation, test = (result.mean_at(at, split) for split in ("validation", "test"))
            outcome = Outcome(point.id, "done", None, validation, test, result.seconds)
            summary, arrays = json.dumps(result.summary(select=select)), result.arrays()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = outcome._replace(host=platform.node(), time=now)
        row = {**outcome._asdict(), "summary": summary, "arrays": arrays}
        marks = ", ".join(f":{name}" for name in row)
        with self._guarded(), self._connection:
            self._connection.execute(f"insert or ignore into outcomes ({', '.join(row)}) values ({marks})", row)
        return outcome

    def outcomes(self) -> dict[str, Outcome]:
        """How points ended, by id."""
        return {row[0]: Outcome(*row) for row in self._rows(f"select {_FAST} from outcomes order by rowid")}

    def result(self, id: str) -> Result:
        """What a point recorded.

        Raises:
          KeyError: if it has not ended, or diverged.
        """
        for summary, config, arrays in self._rows(
            "select summary, config, arrays from outcomes join points using (id) where id = ? and status = 'done'", id
        ):
            return Result.restored(json.loads(summary), json.loads(config), arrays)
        raise KeyError(id)

    def absorb(self, other: Ledger) -> list[str]:
        """Takes over what `other` has; of a point that ended differently there, the outcome here stays.

        Returns:
          The ids of those points.
        """
        with self._guarded(), self._connection:
            for table in ("points", "outcomes"):
                for row in other._rows(f"select * from {table}"):
                    marks = ", ".join("?" * len(row))
                    self._connection.execute(f"insert or ignore into {table} values ({marks})", row)
        ended = "select id, status, arrays from outcomes"
        mine = {id: rest for id, *rest in self._rows(ended)}
        return [id for id, *rest in other._rows(ended) if mine[id] != rest]

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        with self._guarded():
            yield from self._connection.execute(query, values)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise OSError(f"{self.path}: {error}; is the disk full, read-only, or the file in use?") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is damaged ({error}): move it away and resume the sweep") from error


def path_of(folder: Path, shard: tuple[int, int] | None) -> Path:
    """Where a shard, or a sweep in one piece, writes."""
    return folder / (_MERGED if shard is None else f"ledger-{shard[0]}-of-{shard[1]}.sqlite")


def ledgers(folder: Path) -> list[Ledger]:
    """All ledgers of a folder, the merged one first; one that a process is just making is left out."""

    def order(path: Path) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", path.name)[::-1]))

    return [Ledger(path) for path in sorted(folder.glob("ledger*.sqlite"), key=order) if path.stat().st_size]
