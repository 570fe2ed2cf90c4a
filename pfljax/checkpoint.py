"""Checkpoints: a run's state and what it has reported, written whole or not at all."""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from pfljax.types import State

Record = dict[str, np.ndarray]
"""What a run has reported so far: flat named arrays."""

logging.getLogger("absl").setLevel(logging.WARNING)


class Checkpoints:
    """The checkpoints of one run, the last two kept.

    Args:
      folder: where they live; made if missing.

    Raises:
      PermissionError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).absolute()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe = self._folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise PermissionError(f"cannot write to {self._folder}: {error.strerror}; choose another folder") from error
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False),
        )

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, ascending."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def save(self, state: State, record: Record) -> None:
        """Writes `state` and `record`; a crash in the middle leaves the checkpoints before it."""
        leaves = {str(n): np.asarray(leaf) for n, leaf in enumerate(jax.tree.leaves(state))}
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(leaves),  # pyright: ignore[reportCallIssue]
            record=ocp.args.StandardSave(record),  # pyright: ignore[reportCallIssue]
        )
        self._manager.save(int(state.round), args=content, force=True)
        self._manager.wait_until_finished()

    def restore(self, like: State) -> tuple[State, Record]:
        """The newest checkpoint that can be read, with the structure of `like`; corrupt ones are put aside.

        Raises:
          FileNotFoundError: if there is none.
          ValueError: if none can be read, or the newest belongs to another run.
        """
        if not self.rounds():
            raise FileNotFoundError(f"no checkpoint in {self._folder}: start the run without resume")
        for number in reversed(self.rounds()):
            try:
                content = self._manager.restore(
                    number,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                        record=ocp.args.StandardRestore(),  # pyright: ignore[reportCallIssue]
                    ),
                )
            except Exception as error:
                logging.getLogger(__name__).warning(
                    "checkpoint %d is corrupt, trying the one before: %s", number, error
                )
                (self._folder / str(number)).rename(self._folder / f"corrupt-{number}")
                self._manager.reload()
                continue
            return self._rebuild(content["state"], like), {k: np.asarray(v) for k, v in content["record"].items()}
        raise ValueError(f"every checkpoint in {self._folder} is corrupt: delete the folder and start again")

    def _rebuild(self, leaves: dict[str, np.ndarray], like: State) -> State:
        wanted, structure = jax.tree.flatten(like)
        stored = [np.asarray(leaves[str(n)]) for n in range(len(leaves))]
        if [(x.shape, x.dtype) for x in stored] != [(x.shape, x.dtype) for x in wanted]:
            raise ValueError(f"the checkpoint in {self._folder} belongs to another method, model or federation")
        return jax.tree.unflatten(structure, [jax.device_put(leaf) for leaf in stored])
