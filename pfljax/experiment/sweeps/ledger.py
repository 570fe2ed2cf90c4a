"""The ledger of a sweep: points and outcomes in SQLite, one transaction for each.

One process writes a file: the shards of a sweep have one each, because SQLite on network disks does not bear several
writers. Whoever reads takes all ledgers of the folder together.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pfljax import files
from pfljax.engine.course import Diverged
from pfljax.experiment.sweeps.points import Point, digest
from pfljax.results.result import Result, Select

_SCHEMA = """
create table if not exists points (id text primary key, family text not null, config text not null);
create table if not exists outcomes (
    id text primary key, status text not null, reason text, summary text, validation real, test real, arrays blob,
    seconds real, host text, time text, content text, digest text
);
"""
_VERSION = 2
_UPGRADE = """
begin immediate; alter table outcomes add column content text; alter table outcomes add column digest text;
pragma user_version = 2; commit;
"""
_FAST = "id, status, reason, validation, test, seconds, host, time"
_MERGED = "ledger.sqlite"
# Errors that are not the file's: PERM, BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN.
_SYSTEM = {3, 5, 6, 7, 8, 10, 13, 14}
_REMEDY = "pfljax resume puts it aside, keeps what is sound, and runs the other points again"


class Outcome(NamedTuple):
    """How a point ended."""

    id: str
    status: Literal["done", "diverged", "failed"]  # one that failed could not be run, and may be tried again
    reason: str | None = None  # why it is not done
    validation: float | None = None  # mean over clients of what the personalized models score, where it was measured
    test: float | None = None
    seconds: float | None = None  # None if there is no result
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
            if version == 0:
                self._connection.executescript(f"begin immediate; {_SCHEMA} pragma user_version = {_VERSION}; commit;")
            elif version == 1:
                self._connection.executescript(_UPGRADE)
        if version > _VERSION:
            raise ValueError(
                f"{path} is a ledger of version {version}, and this program writes {_VERSION}: move it away"
            )

    def add(self, points: Iterable[Point]) -> None:
        """Enters points; those that are there already stay."""
        rows = [(point.id, point.group, json.dumps(point.config.to_dict())) for point in points]
        with self._guarded(), self._connection:
            self._connection.executemany("insert or ignore into points values (?, ?, ?)", rows)

    def record(self, point: Point, result: Result | Exception, select: Select = "last") -> Outcome:
        """Enters how a point ended, at once; the first outcome that is no failure stays for good.

        Args:
          point: which one.
          result: what came of it: if it diverged, the error has the result so far.
          select: the evaluation whose scores are entered.
        """
        if isinstance(result, Exception):
            outcome = Outcome(point.id, "diverged" if isinstance(result, Diverged) else "failed", _reason(result))
            kept = result.result if isinstance(result, Diverged) else None
        else:
            at, kept = result.evaluation(select), result
            validation, test = (result.mean_at(at, split) for split in ("validation", "test"))
            outcome = Outcome(point.id, "done", None, validation, test)
        summary = arrays = None
        if kept is not None:
            outcome = outcome._replace(seconds=float(kept.seconds))
            summary, arrays = json.dumps(kept.summary(select=select)), kept.arrays()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        outcome = outcome._replace(host=platform.node(), time=now)
        row = {**outcome._asdict(), "summary": summary, "arrays": arrays, "content": _content(summary, arrays)}
        row["digest"] = _digest(outcome, row["content"])
        marks = ", ".join(f":{name}" for name in row)
        with self._guarded(), self._connection:
            self._forget_failure(outcome.id)
            self._connection.execute(f"insert or ignore into outcomes ({', '.join(row)}) values ({marks})", row)
        return outcome

    def _forget_failure(self, id: str) -> None:
        self._connection.execute("delete from outcomes where id = ? and status = 'failed'", (id,))

    def outcomes(self) -> dict[str, Outcome]:
        """How points ended, by id."""
        found = {}
        for *row, content, written in self._rows(f"select {_FAST}, content, digest from outcomes order by rowid"):
            outcome = found[row[0]] = Outcome(*row)
            self._compare(written, _digest(outcome, content), f"how point {outcome.id} ended")
        return found

    def result(self, id: str) -> Result:
        """What a point recorded.

        Raises:
          KeyError: if it has recorded nothing.
        """
        columns = "summary, config, arrays, content from outcomes join points using (id)"
        for *stored, content in self._rows(f"select {columns} where id = ? and arrays is not null", id):
            summary, config, arrays = stored
            self._compare(content, _content(summary, arrays), f"the result of point {id}")
            try:
                result = Result.restored(json.loads(summary), json.loads(config), arrays)
            except (ValueError, TypeError) as error:
                raise self._damaged(error) from error
            self._compare(id, digest(result.config), f"the configuration of point {id}")
            return result
        raise KeyError(id)

    def check(self) -> None:
        """Reads everything.

        Raises:
          ValueError: if a part is damaged.
        """
        for (word,) in self._rows("pragma integrity_check(1)"):
            self._compare("ok", word, "a page")
        for id, outcome in self.outcomes().items():
            if outcome.seconds is not None:
                with suppress(KeyError):  # a point that was lost is entered again, its outcome serves it
                    self.result(id)

    def absorb(self, other: Ledger) -> list[str]:
        """Takes over what `other` has; of a point that ended differently there, the outcome here stays.

        Returns:
          The ids of those points.
        """
        with self._guarded(), self._connection:
            for table in ("points", "outcomes"):
                for row in other._rows(f"select * from {table}"):
                    if table == "outcomes" and "failed" not in row:
                        self._forget_failure(row[0])
                    self._insert(table, row)
        ended = "select id, status, arrays from outcomes"
        mine = {id: rest for id, *rest in self._rows(ended)}
        return [id for id, *rest in other._rows(ended) if mine[id] != rest]

    def rescue(self, other: Ledger) -> None:
        """Takes over what can still be read of a damaged ledger, and is as it was written."""
        for table, is_sound in (("points", _is_sound_point), ("outcomes", _is_sound_outcome)):
            with suppress(ValueError), self._guarded(), self._connection:
                for row in other._rows(f"select * from {table}"):
                    if is_sound(*row):
                        self._insert(table, row)

    def _insert(self, table: str, row: Sequence[Any]) -> None:
        self._connection.execute(f"insert or ignore into {table} values ({', '.join('?' * len(row))})", row)

    def _rows(self, query: str, *values: Any) -> Iterator[Any]:
        with self._guarded():
            yield from self._connection.execute(query, values)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _SYSTEM:
                raise OSError(f"{self.path}: {error}; is the disk full, read-only, or the file in use?") from error
            raise self._damaged(error) from error

    def _damaged(self, error: object) -> ValueError:
        return ValueError(f"{self.path} is damaged ({error}): {_REMEDY}")

    def _compare(self, stored: str | None, found: str, what: str) -> None:
        """Refuses what is not as it was written; rows of the first version have no digest."""
        if stored not in (None, found):
            raise self._damaged(f"{what} was changed after it was written")


def _reason(error: Exception) -> str:
    """One line; of errors that are no sentences their kind too."""
    kind = "" if isinstance(error, ValueError | OSError | MemoryError | Diverged) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())


def _content(summary: str | None, arrays: bytes | None) -> str:
    return files.digest({"summary": summary, "arrays": arrays})


def _digest(outcome: Outcome, content: str | None) -> str:
    return files.digest(outcome._asdict() | {"content": content})


def _is_sound_point(id: str, family: str, config: str) -> bool:
    try:
        return digest(json.loads(config)) == id
    except (ValueError, TypeError):
        return False


def _is_sound_outcome(
    id: Any, status: Any, reason: Any, summary: Any, validation: Any, test: Any, arrays: Any, *rest: Any
) -> bool:
    seconds, host, time, content, written = rest
    outcome = Outcome(id, status, reason, validation, test, seconds, host, time)
    return content == _content(summary, arrays) and written == _digest(outcome, content)


def path_of(folder: Path, shard: tuple[int, int] | None) -> Path:
    """Where a shard, or a sweep in one piece, writes."""
    return folder / (_MERGED if shard is None else f"ledger-{shard[0]}-of-{shard[1]}.sqlite")


def ledgers(folder: Path) -> list[Ledger]:
    """All ledgers of a folder, the merged one first; one that a process is just making is left out."""
    return [Ledger(path) for path in paths(folder) if path.stat().st_size]


def paths(folder: Path) -> list[Path]:
    """Where the ledgers of a folder are, the merged one first."""

    def order(path: Path) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", path.name)[::-1]))

    return sorted(folder.glob("ledger*.sqlite"), key=order)


def mend(path: Path) -> None:
    """Puts a ledger aside if it is damaged; what of it is sound goes into a new one."""
    try:
        Ledger(path).check()
    except ValueError as error:
        logging.getLogger(__name__).warning("%s", error)
        aside = path.with_name(f"damaged-{path.name}")
        for ending in ("-journal", ""):
            if os.path.exists(f"{path}{ending}"):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        fresh = Ledger(path)
        with suppress(ValueError):
            fresh.rescue(Ledger(aside))
