"""Running a sweep: group by group, each compiled once, every outcome entered as it comes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from pfljax import checks, files
from pfljax.engine import hosts
from pfljax.engine.checkpoint import differences
from pfljax.experiment.config import Config
from pfljax.experiment.progress import Bar
from pfljax.experiment.sweeps import spaces
from pfljax.experiment.sweeps.ensembles import Ensembles
from pfljax.experiment.sweeps.ledger import Ledger, ledgers, mend, path_of, paths
from pfljax.experiment.sweeps.outcomes import Sweep, spell_counts
from pfljax.experiment.sweeps.points import check_effect, deal, digest, lay_out, plain_values
from pfljax.experiment.sweeps.spaces import Space
from pfljax.results.stored import vacant

_AGAIN = "; repeat the command that began the sweep, with --resume: what has ended is not run again"


@checks.by_hints()
def sweep(
    config: Config | Mapping[str, Any],
    space: Space | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
    at_once: checks.Count | None = None,
    ensembles: Ensembles | None = None,
    progress: bool = False,
) -> Sweep:
    """Many runs of one experiment, as few compiled programs.

    Points that differ in seeds and traced numbers only (learning rates, strengths, the floats of a method) are one
    program; each other difference compiles once. A point gives what `run` gives alone. One that diverges, or
    cannot be run, is entered as such and harms no other; the latter is tried again when the sweep is resumed.

    Args:
      config: what the points share, see `lay_out`.
      space: which points, see `spaces`; a dictionary is a grid.
      out: a folder for the ledger, or None: kept in memory.
      shard: `(i, N)`: run the i-th of N parts, each in a process of its own on the same `out`; i is from 0 to N - 1.
      resume: continue in `out`, with more points if the space has grown. No finished point is run again.
      at_once: points of one program call, see `ensemble.Ensemble`.
      ensembles: programs of earlier sweeps that serve this one too, and this one's for later ones.
      progress: a live bar on the standard error.

    Returns:
      The points of the space and what is known of them; of a shard, its own part.

    Raises:
      FileExistsError: if `out` holds something else, or the same sweep and `resume` is false.
      BlockingIOError: if another process runs this sweep or shard; the message says which.
      PermissionError, OSError: if a file cannot be written.
      ValueError: if the space or a configuration cannot be met, or no point can be run.
    """
    points = lay_out(config, space)
    if not resume:
        check_effect(points, dict.fromkeys(itertools.chain(*(point.setting for point in points))))
    settings = [point.setting for point in points]
    if hosts.together():
        raise ValueError("the processes of a sweep run apart: give each its own shard I/N instead of --distributed")
    mine = deal(points, shard)
    with _claimed(out, _Begun(plain_values(config), settings), shard, resume) as (own, known):
        own.add(mine)
        begun = Sweep(mine, known)
        ended = {id for id, outcome in begun.outcomes.items() if outcome.status != "failed"}
        pending = [point for point in mine if point.id not in ended]
        with Bar(progress) as bar:
            show = _watch(bar, begun) if progress else lambda: None
            for point, result in (ensembles or Ensembles()).run(pending, at_once):
                begun.outcomes[point.id] = own.record(point, result, point.config.run.select)
                show()
    if mine and begun.counts["failed"] == len(mine):
        raise ValueError(f"no point could be run: {begun.outcomes[mine[0].id].reason}")
    return Sweep(mine if shard else points, known)


def load(out: str | Path) -> Sweep:
    """The sweep in a folder as far as it is, all shards together; it may be running.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if its files are damaged.
    """
    begun = _read(Path(out))
    return Sweep(lay_out(begun.config, begun.space), ledgers(Path(out)))


def resume(
    out: str | Path, *, shard: tuple[int, int] | None = None, at_once: int | None = None, progress: bool = False
) -> Sweep:
    """Runs what is left of the sweep in `out`. See `sweep`.

    Raises:
      FileNotFoundError: if there is none.
    """
    begun = _read(files.named(out))
    return sweep(begun.config, begun.space, out, shard=shard, resume=True, at_once=at_once, progress=progress)


def is_sweep(out: str | Path) -> bool:
    """Whether a folder holds a sweep."""
    try:
        _read(Path(out))
    except (OSError, ValueError):
        return bool(paths(Path(out)))
    return True


def merge(out: str | Path) -> list[str]:
    """Unites the ledgers of all shards in `ledger.sqlite`; again whenever there is more.

    Returns:
      The ids of points that ended differently in two ledgers, as they may on two kinds of machines; the merged ledger
      keeps the first.

    Raises:
      FileNotFoundError: if `out` holds no sweep.
    """
    _read(Path(out))
    with files.held(out, path_of(Path(out), None).name):
        merged = Ledger(path_of(Path(out), None))
        conflicts = [merged.absorb(ledger) for ledger in ledgers(Path(out)) if ledger.path != merged.path]
    return sorted({id for ids in conflicts for id in ids})


class _Begun(NamedTuple):
    """What `config.json` says of a sweep."""

    config: dict[str, Any]
    space: Space


def _read(out: Path) -> _Begun:
    path = out / "config.json"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{out} holds no sweep: config.json is missing{_AGAIN if paths(out) else ''}")
    begun = files.read_json(path, _AGAIN.removeprefix("; "))
    if set(begun) != set(_Begun._fields):
        raise FileNotFoundError(f"{out} holds a run, not a sweep")
    return _Begun(**begun)


@contextmanager
def _claimed(
    out: str | Path | None, begun: _Begun, shard: tuple[int, int] | None, resume: bool
) -> Iterator[tuple[Ledger, list[Ledger]]]:
    """The ledger of this process and all that there are, while `out` is the folder of this sweep."""
    if out is None:
        if shard is not None:
            raise ValueError(f"shard {shard[0]}/{shard[1]} needs a folder that the shards share: give out")
        if resume:
            raise ValueError("resume=True without a folder: give the one of the sweep, out=...")
        own = Ledger()
        yield own, [own]
        return
    out = files.named(out)
    mine = path_of(out, shard)
    with files.held(out, mine.name):
        with files.held(out, "config.json", wait=True):
            _enter(out, begun, shard, resume)
        for path in paths(out):
            with suppress(BlockingIOError), nullcontext() if path == mine else files.held(out, path.name):
                mend(path)
        own = Ledger(mine)
        yield own, ledgers(out)


def _enter(out: Path, begun: _Begun, shard: tuple[int, int] | None, resume: bool) -> None:
    """Makes `out` the folder of this sweep, or finds that it is."""
    known = _known(out, begun, resume)
    if digest(known.config) != digest(begun.config):
        changes = differences(known.config, begun.config)
        raise FileExistsError(f"{out} holds a sweep of another configuration ({changes}): choose another folder")
    if not resume and any(path.exists() for path in ([path_of(out, shard)] if shard else paths(out))):
        raise FileExistsError(f"{out} holds this sweep already: resume it or choose another folder")
    names = {digest(setting) for setting in known.space}
    fresh = [setting for setting in begun.space if digest(setting) not in names]
    if fresh:
        files.write_json(
            out / "config.json", files.sealed(known._replace(space=known.space + fresh)._asdict()), indent=1
        )


def _known(out: Path, begun: _Begun, resume: bool) -> _Begun:
    """What `out` holds so far; `begun` without points where nothing readable says so."""
    if not os.path.exists(out / "config.json"):
        vacant(out)
        return begun._replace(space=[])
    try:
        return _read(out)
    except FileNotFoundError as error:
        raise FileExistsError(f"{error}: choose another folder") from error
    except ValueError:
        if not resume:
            raise
        return begun._replace(space=[])


def _watch(bar: Bar, begun: Sweep) -> Callable[[], None]:
    """A line with how many points have ended, how many were lost, and the best setting so far, as the table has it."""
    line = bar.line("sweep", "point", len(begun.points), len(begun.outcomes))

    def show() -> None:
        lost, standings = {status: begun.counts[status] for status in ("diverged", "failed")}, begun.standings()
        news = [spell_counts(lost)] * any(lost.values())
        if any(standing.validation.count for standing in standings):
            best, what = begun.best(), begun.compared()
            news.append(f"best validation {what.say(best.validation.mean)}: {spaces.spell(best.setting)}")
        line(len(begun.outcomes), ", ".join(news))

    return show
