"""Checkpoints: a run's state and what it has reported, written whole or not at all, read as they were written.

Of several processes the leading one writes and reads, and the others hear from it; all of them make every call.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pfljax import files
from pfljax.engine import hosts
from pfljax.types import State

Record = dict[str, np.ndarray]
"""What a run has reported so far: flat named arrays."""

_KEPT = 2

_ANOTHER = "belongs to another method, model or federation"

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, the last two kept.

    Args:
      path: the folder where they live; made if missing.
      identity: plain values that tell the run from others; kept in each checkpoint, and compared with what it says
        under the same names.

    Raises:
      PermissionError: if the folder cannot be written.
    """

    def __init__(self, path: str | Path, identity: Mapping[str, Any] | None = None):
        self._folder = Path(path).absolute()
        self._identity = json.loads(json.dumps(identity or {}))
        if not hosts.leads():
            return
        files.made(self._folder)
        for half in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(half, ignore_errors=True)
        import orbax.checkpoint as ocp

        # Orbax's manager would read all checkpoints at once, and fail with an older one that is damaged.
        alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
        self._orbax = ocp.Checkpointer(
            ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone)),
            multiprocessing_options=alone,
        )

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, ascending."""
        return hosts.shared(self._rounds)

    def save(self, state: State, record: Record) -> None:
        """Writes `state` and `record`; a crash in the middle leaves the checkpoints before it.

        Raises:
          PermissionError, OSError: if it cannot be written.
        """
        leaves = dict(zip(_names(state), hosts.gathered(jax.tree.leaves(state)), strict=True))
        if not hosts.leads():
            return
        import orbax.checkpoint as ocp

        content = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),  # pyright: ignore[reportCallIssue]
            record=ocp.args.StandardSave(record),  # pyright: ignore[reportCallIssue]
        )
        about = {"identity": self._identity, "digest": _digest(leaves, record, self._identity), "record": list(record)}
        path = self._folder / str(int(state.round))
        with files.unbroken(), files.writing(path), files.orbax_quiet():
            self._orbax.save(path, args=content, custom_metadata=about, force=True)
            for number in self._rounds()[:-_KEPT]:
                shutil.rmtree(self._folder / str(number))

    def restore(self, like: State) -> tuple[State, Record]:
        """The newest checkpoint that is sound, with the structure of `like`; corrupt ones are put aside.

        Raises:
          FileNotFoundError: if there is none.
          ValueError: if none is sound, or the newest belongs to another run; the message says what differs.
        """
        leaves, record = hosts.shared(self._newest)
        return self._rebuild(leaves, like), record

    def __repr__(self) -> str:
        return f"Checkpoints({str(self._folder)!r})"

    def _rounds(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def _newest(self) -> tuple[dict[str, np.ndarray], Record]:
        if not self._rounds():
            raise FileNotFoundError(f"no checkpoint in {self._folder}: start the run without resume")
        while rounds := self._rounds():
            *older, newest = rounds
            try:
                leaves, record, identity = self._read(newest)
            except Exception as error:
                _log.warning(
                    "the checkpoint after %d rounds in %s is corrupt (%s): it is put aside, %s",
                    newest,
                    self._folder,
                    " ".join(str(error).split())[:200],
                    f"trying the one after {older[-1]}" if older else "none is left",
                )
                self._put_aside(newest)
                continue
            names = sorted(identity.keys() & self._identity.keys())
            stored, wanted = ({name: told[name] for name in names} for told in (identity, self._identity))
            if changes := differences(stored, wanted):
                raise ValueError(f"the checkpoint in {self._folder} belongs to another run: {changes}")
            return leaves, record
        raise ValueError(
            f"every checkpoint in {self._folder} is corrupt: delete the folder and start again; to resume the run "
            "then begins at round 0 and gives the same numbers"
        )

    def _read(self, number: int) -> tuple[dict[str, np.ndarray], Record, dict[str, Any]]:
        import orbax.checkpoint as ocp

        path = self._folder / str(number)
        with files.orbax_quiet():
            content = self._orbax.restore(
                path,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                    record=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                ),
            )
            about = self._orbax.metadata(path).custom_metadata or {}
        leaves, record = ({name: np.asarray(x) for name, x in content[part].items()} for part in ("state", "record"))
        # Orbax forgets the order of names, and the first score is what clients are compared by.
        order = about.get("record", sorted(record))
        if sorted(order) != sorted(record):
            raise ValueError("its record does not have the names that were stored with it")
        record = {name: record[name] for name in order}
        if about.get("digest") != _digest(leaves, record, about.get("identity", {})):
            raise ValueError("its content does not have the digest that was stored with it")
        return leaves, record, about["identity"]

    def _put_aside(self, number: int) -> None:
        aside = self._folder / f"corrupt-{number}"
        with files.writing(aside):
            shutil.rmtree(aside, ignore_errors=True)
            (self._folder / str(number)).rename(aside)

    def _rebuild(self, leaves: dict[str, np.ndarray], like: State) -> State:
        what, names = f"the checkpoint in {self._folder}", _names(like)
        if strange := sorted(leaves.keys() ^ set(names)):
            raise ValueError(f"{what} {_ANOTHER}: {strange[0]} is in one of the two only")
        return placed([leaves[name] for name in names], like, what)


def _names(state: State) -> list[str]:
    """The path of each leaf, such as `server.params.trainable.dense.kernel`."""
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in jax.tree.leaves_with_path(state)]


def placed(leaves: Sequence[np.ndarray], like: State, what: str) -> State:
    """A state of these leaves, copied to where those of `like` are.

    Raises:
      ValueError: if they have other shapes; `what` says where they are from.
    """
    wanted, structure = jax.tree.flatten(like)
    if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in wanted]:
        raise ValueError(f"{what} {_ANOTHER}")
    copies = (
        np.array(leaf) if isinstance(model, np.ndarray) else jax.device_put(np.array(leaf), model.sharding)
        for leaf, model in zip(leaves, wanted, strict=True)
    )
    return jax.tree.unflatten(structure, copies)


def differences(stored: Any, wanted: Any, name: str = "") -> str:
    """`name: stored there, wanted here` for each value in which two trees of plain values differ.

    >>> differences({"seed": 1, "local": {"lr": 0.1}}, {"seed": 2, "local": {"lr": 0.1}})
    'seed is 1 there and 2 here'
    """
    if isinstance(stored, Mapping) and isinstance(wanted, Mapping):
        path = f"{name}." if name else ""
        parts = (differences(stored.get(key), wanted.get(key), f"{path}{key}") for key in {**stored, **wanted})
        return ", ".join(filter(None, parts))
    return "" if stored == wanted else f"{name} is {stored!r} there and {wanted!r} here"


def _digest(leaves: Mapping[str, np.ndarray], record: Record, identity: Any) -> str:
    parts = {f"state/{name}": np.asarray(leaf) for name, leaf in leaves.items()}
    parts |= {f"record/{name}": np.asarray(rows) for name, rows in record.items()}
    return files.digest(parts | {"identity": identity})
