"""Workloads that are one long call: a sweep, the start of a process, a command."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pfljax.benchmark.contender import Contender, Failed, Process
from pfljax.benchmark.rows import Row
from pfljax.benchmark.workloads import Workload

_STOPWATCH = Path(__file__).with_name("stopwatch.py")


def measure(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    """`row` with what the contender needs for the whole workload, or why it failed.

    Args:
      workload: of which `measures` is not `round`.
      contender: this library, of this or of another checkout.
      row: what is known before.
      timeout: seconds that one call may take.
    """
    try:
        return _MEASURES[workload.measures](workload, contender, row, timeout)
    except Failed as failure:
        return replace(row, failed=str(failure), unsupported=failure.unsupported)


def _sweep(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    with Process(contender, timeout) as process:
        reply = process.ask("prepare", workload=workload.to_dict())
        memory = process.ask("memory")
    return replace(row, first_round_seconds=reply["first_round_seconds"], about=reply["about"], **memory)


def _startup(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    """Starts a process twice with one cache of programs and times the second start, imports included."""
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            start = time.perf_counter()
            with Process(_keeping(contender, cache), timeout) as process:
                reply = process.ask("prepare", workload=workload.to_dict())
                elapsed = time.perf_counter() - start
                memory = process.ask("memory")
    compiled = reply["compile_seconds"]
    return replace(row, first_round_seconds=elapsed, compile_seconds=compiled, about=reply["about"], **memory)


def _cold(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    with tempfile.TemporaryDirectory() as cache:
        return _command(workload, _keeping(contender, cache), row, timeout)


def _warm(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            row = _command(workload, _keeping(contender, cache), row, timeout)
    return row


_MEASURES: dict[str, Callable[[Workload, Contender, Row, float], Row]] = {
    "sweep": _sweep,
    "startup": _startup,
    "cold": _cold,
    "warm": _warm,
}


def _keeping(contender: Contender, cache: str) -> Contender:
    """With a cache of programs in that folder, instead of the user's."""
    keeping = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return replace(contender, environment=keeping)


def _command(workload: Workload, contender: Contender, row: Row, timeout: float) -> Row:
    """The command of a workload, from the start of its process to its end."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        command = [contender.python or sys.executable, str(_STOPWATCH), str(told), *workload.command]
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command, env=contender.variables(), capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise Failed(f"not finished within {timeout:.0f} s") from None
        whole = time.perf_counter() - start
        if done.returncode:
            raise Failed((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
        reply = json.loads(told.read_text())
    seconds = reply["seconds"]
    return replace(
        row,
        first_round_seconds=whole,
        compile_seconds=seconds["trace"] + seconds["xla"],
        cpu_seconds=reply["cpu_seconds"],
        parts={"import": whole - sum(seconds.values()), **seconds},
        methods=reply["methods"],
    )
