"""Contenders: processes that set a workload up, run rounds when asked, and may fail without harm to the others."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pfljax

_ROOT = Path(pfljax.__file__).parents[1]
# Threads that wait must not take the cores from the one that is timed; a GPU is shared by all processes.
_QUIET = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Args:
      name: in the tables.
      module: what `worker.py` loads: the path of a Python file, or the name of an installed module.
      source: path for its `prepare`, or None.
      python: its interpreter; this one if None.
      environment: variables of its process.
      checkout: where it finds pfljax, if it is ours.
    """

    name: str
    module: str
    source: str | None = None
    python: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    checkout: Path = _ROOT

    @property
    def worker(self) -> Path:
        """The program of its process: that of its own checkout, wherever it lay at the time."""
        return next((self.checkout / "pfljax" / "benchmark").rglob("worker.py"))

    def variables(self) -> dict[str, str]:
        """All variables of its process."""
        variables = {**os.environ, **_QUIET, **self.environment}
        if self.module.startswith("pfljax."):
            places = [str(self.checkout), os.environ.get("PYTHONPATH", "")]
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        return variables


OURS = Contender("pfljax", "pfljax.benchmark.ours", environment={"JAX_ENABLE_COMPILATION_CACHE": "false"})
"""This library. Nothing is kept between processes, so that compile times are real."""

MACHINE = Contender("machine", "pfljax.benchmark.machine", environment={**OURS.environment, "JAX_NUM_CPU_DEVICES": "1"})
"""Matrix products, see `pfljax.benchmark.machine`."""


class Failed(RuntimeError):
    """A contender could not do what it was asked; `unsupported` if it has no counterpart to the workload."""

    def __init__(self, reason: str, *, unsupported: bool = False):
        super().__init__(reason)
        self.unsupported = unsupported


class Process:
    """A running contender.

    Args:
      contender: who.
      timeout: seconds that a reply may take.
    """

    def __init__(self, contender: Contender, timeout: float = 3600.0):
        self.contender, self._timeout = contender, timeout
        command = [contender.python or sys.executable, str(contender.worker), contender.module]
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed by stop
        try:
            self._process = subprocess.Popen(
                command + ([contender.source] if contender.source else []),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
                env=contender.variables(),
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise Failed(f"{command[0]} cannot be started: {error}") from error
        self._replies: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)
        self._replies.put("")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and waits for its reply.

        Raises:
          Failed: with the reason that the contender gives, with its last words if it died, or because it took too
            long, which ends it.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=self._timeout)
        except queue.Empty:
            self._process.kill()
            raise Failed(f"no reply to {do!r} within {self._timeout:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise Failed(self._last_words())
        try:
            reply = json.loads(line)
        except ValueError:
            raise Failed(f"its reply to {do!r} is no JSON: {line.strip()[:80]!r}") from None
        if "error" in reply:
            raise Failed(reply["error"], unsupported=reply["unsupported"])
        return reply

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        return f"died with status {status}" + (f": {lines[-1]}" if lines else "")

    def stop(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write('{"do": "stop"}\n')
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(timeout=5)
        if not self._reader.is_alive():  # else a child of the process holds its output open
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
