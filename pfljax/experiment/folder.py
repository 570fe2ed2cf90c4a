"""The folder of a run or a comparison: what it was begun as, who holds it, what is done."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pfljax import files
from pfljax.engine import hosts
from pfljax.engine.checkpoint import differences
from pfljax.engine.runs import check_rounds
from pfljax.experiment.config import Config, from_config_dict
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from pfljax.results.stored import vacant

# What may change when a run is continued.
_FREE = ("rounds", "eval_every", "patience", "executor", "store", "select")


# Says, sealed, what a folder was begun as, should `config.json` be lost.
_COPY = Path("checkpoint") / "begun.json"


class Begun(typing.NamedTuple):
    """What a folder was begun as."""

    config: Config
    methods: list[str] | None = None  # of a comparison
    seeds: list[int] | None = None  # of a comparison over seeds
    tune: dict[str, Any] | None = None  # of a comparison that chooses hyperparameters

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        told = {"config": self.config.to_dict(), "methods": self.methods, "seeds": self.seeds, "tune": self.tune}
        told = {name: value for name, value in told.items() if value is not None}
        return told if self.methods else told["config"]

    def fixed(self) -> dict[str, Any]:
        """What stays as it is when the run is continued."""
        config = json.loads(json.dumps(self.config.to_dict()))
        config["run"] = {name: value for name, value in config["run"].items() if name not in _FREE}
        return {"config": config, "methods": self.methods, "seeds": self.seeds, "tune": self.tune}


def begun_as(out: Path) -> Begun:
    """What `out` was begun as, by the sealed copy beside the checkpoints, or else by `config.json`.

    Raises:
      FileNotFoundError: if there is neither.
      ValueError: if none is sound.
    """
    lost: Exception = FileNotFoundError(f"{out} holds no run to resume: config.json is missing")
    for path in (out / _COPY, out / "config.json"):
        if not os.path.isfile(path):
            continue
        try:
            return _parsed(files.read_json(path, "nothing else says what was begun: delete the folder and start again"))
        except (ValueError, TypeError) as error:
            lost = error if str(path) in str(error) else ValueError(f"{path}: {error}")
    raise lost


@contextlib.contextmanager
def claimed(out: str | Path | None, begun: Begun, resume: bool) -> Iterator[None]:
    """Makes `out` the folder of a run, and keeps other processes out of it."""
    if out is None and resume:
        raise ValueError("resume=True without a folder: give the one of the run, out=...")
    if out is None or not hosts.leads():
        yield
        return
    out = files.named(out)
    with files.held(out):
        if not resume:
            vacant(out)
        elif changes := differences(_before(out, begun).fixed(), begun.fixed()):
            raise FileExistsError(f"{out} holds a run with another configuration ({changes}): choose another folder")
        check_rounds(begun.config.run.rounds, _done(out), out)
        if not os.path.exists(out / "summary.json"):
            files.write_json(out / "config.json", begun.plain())
        files.write_json(out / _COPY, files.sealed(begun.plain()))
        yield


def keep(out: str | Path | None, comparison: Comparison, begun: Begun) -> None:
    """Writes a comparison and what it was begun as."""
    if out is not None and hosts.leads():
        comparison.save(out, replace=True)
        files.write_json(Path(out) / "config.json", begun.plain())


def finished(out: Path, rounds: int) -> Result | None:
    """The result in `out`, if it is whole and has all `rounds`."""
    try:
        result = Result.load(out)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.getLogger(__name__).warning("%s; it is made again from the checkpoints", error)
        return None
    done = int(result.rounds[-1])
    check_rounds(rounds, done, out)
    return result if done == rounds else None


def _parsed(content: dict[str, Any]) -> Begun:
    if content.keys() >= {"config", "methods"}:
        told: dict[str, Any] = content | {"config": from_config_dict(content["config"])}
        return Begun(**told)
    return Begun(from_config_dict(content))


def _done(out: Path) -> int:
    """Rounds after which there is a checkpoint, of a run or of any method of a comparison."""
    kept = (*out.glob("checkpoint/*"), *out.glob("*/checkpoint/*"))
    return max((int(path.name) for path in kept if path.name.isdigit()), default=0)


def _before(out: Path, begun: Begun) -> Begun:
    """What `out` was begun as; `begun` if nothing says so."""
    try:
        return begun_as(out)
    except (FileNotFoundError, ValueError):
        return begun
