"""Several processes, on one machine or many, that compute one run together. Each of them runs the same program."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from pfljax import files
from pfljax.engine.process import configure
from pfljax.types import Tree

T = TypeVar("T")

_HEARTBEAT_SECONDS = 30
# Sizes travel as int32, and what is told may be larger.
_PIECE_BYTES = 1 << 28
# Speaks if its input ends without a word.
_WITNESS = "import sys; sys.stdin.read() or print(sys.argv[1], file=sys.stderr)"


def join(coordinator: str | None = None, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process one of several; to be called before JAX computes.

    Under SLURM, Open MPI, Kubernetes and on TPU pods JAX finds out the arguments itself.

    Args:
      coordinator: `address:port` of process 0, reachable by all.
      processes: how many there are.
      process: which of them this is, from 0.

    Raises:
      ValueError: if an argument is missing that the environment does not tell.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    if any(value is None for value in given.values()) and any(value is not None for value in given.values()):
        missing = ", ".join(f"--{name}" for name, value in given.items() if value is None)
        raise ValueError(f"several processes need {missing} too (none of them under SLURM or on a TPU pod)")
    try:
        jax.distributed.initialize(coordinator, processes, process, heartbeat_timeout_seconds=_HEARTBEAT_SECONDS)
        configure()
    except ValueError as error:
        raise ValueError(f"{error}: give --coordinator, --processes and --process") from error


@contextlib.contextmanager
def bound(remedy: str) -> Iterator[None]:
    """Ends this process at once if the program fails, so that the others, which wait for it, end as well.

    JAX aborts a process that waits for one that has died, and then no Python code of it runs any more; a small process
    beside it says so.

    Args:
      remedy: said at the end, such as the command that continues the run.
    """
    name = f"pfljax: process {jax.process_index()}"
    witness = subprocess.Popen(
        [
            sys.executable,
            "-Sc",
            _WITNESS,
            f"{name}: another process of the run has ended, or the system ended this one; {remedy}",
        ],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield
        jax.distributed.shutdown()
    except BaseException as error:
        message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, jax.errors.JaxRuntimeError):
            message = f"another process of the run has ended, see what it says ({message[:200]})"
        print(f"{name}: {message}; {remedy}", file=sys.stderr, flush=True)
        witness.communicate(b"ended")
        os._exit(files.status(error))
    witness.communicate(b"ended")


def together() -> bool:
    """Whether there are several processes."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def leads() -> bool:
    """Whether this process is the one that reports and writes files."""
    return not together() or jax.process_index() == 0


def gathered(tree: Tree) -> Tree:
    """The arrays of all processes as NumPy arrays in each."""

    def whole(leaf: jax.Array | np.ndarray) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def shared(find: Callable[[], T]) -> T:
    """What the leading process finds, in each process."""
    if not together():
        return find()
    content = pickle.dumps(find()) if leads() else b""
    whole, rest = multihost_utils.broadcast_one_to_all(np.array(divmod(len(content), _PIECE_BYTES), np.int32)).tolist()
    heard = bytearray()
    for size in [_PIECE_BYTES] * whole + [rest]:
        said = np.frombuffer(content, np.uint8, size, len(heard)) if leads() else np.zeros(size, np.uint8)
        heard += multihost_utils.broadcast_one_to_all(said).tobytes()
    return pickle.loads(heard)
