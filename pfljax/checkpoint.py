"""Checkpoints: a run's state and what it has reported, written whole or not at all.

Of several processes the leading one writes and reads, and the others hear from it; all of them make every call.
"""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import numpy as np

from pfljax import hosts
from pfljax.types import State

Record = dict[str, np.ndarray]
"""What a run has reported so far: flat named arrays."""


class Checkpoints:
    """The checkpoints of one run, the last two kept.

    Args:
      folder: where they live; made if missing.

    Raises:
      PermissionError: if the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder).absolute()
        if not hosts.leads():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            probe = self._folder / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise PermissionError(f"cannot write to {self._folder}: {error.strerror}; choose another folder") from error
        import orbax.checkpoint as ocp

        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2,
                enable_async_checkpointing=False,
                create=False,
                multiprocessing_options=ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0}),
            ),
        )

    def rounds(self) -> list[int]:
        """The rounds that have a checkpoint, ascending."""
        return hosts.shared(self._rounds)

    def save(self, state: State, record: Record) -> None:
        """Writes `state` and `record`; a crash in the middle leaves the checkpoints before it."""
        leaves = {str(n): leaf for n, leaf in enumerate(hosts.gathered(jax.tree.leaves(state)))}
        if not hosts.leads():
            return
        import orbax.checkpoint as ocp

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
        leaves, record = hosts.shared(self._newest)
        return self._rebuild(leaves, like), record

    def _rounds(self) -> list[int]:
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    def _newest(self) -> tuple[dict[str, np.ndarray], Record]:
        import orbax.checkpoint as ocp

        if not self._rounds():
            raise FileNotFoundError(f"no checkpoint in {self._folder}: start the run without resume")
        for number in reversed(self._rounds()):
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
            return content["state"], {name: np.asarray(rows) for name, rows in content["record"].items()}
        raise ValueError(f"every checkpoint in {self._folder} is corrupt: delete the folder and start again")

    def _rebuild(self, leaves: dict[str, np.ndarray], like: State) -> State:
        wanted, structure = jax.tree.flatten(like)
        stored = [np.asarray(leaves[str(n)]) for n in range(len(leaves))]
        if [(x.shape, x.dtype) for x in stored] != [(x.shape, x.dtype) for x in wanted]:
            raise ValueError(f"the checkpoint in {self._folder} belongs to another method, model or federation")
        placed = (
            np.array(leaf) if isinstance(model, np.ndarray) else jax.device_put(leaf, model.sharding)
            for leaf, model in zip(stored, wanted, strict=True)
        )
        return jax.tree.unflatten(structure, placed)
