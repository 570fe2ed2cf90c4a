"""Memory, foreseen: what a compiled program will take, and what the device has left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.stages import Compiled


class Shortage(NamedTuple):
    """What is needed and what is free, in bytes."""

    need: int
    free: int


def needed(program: Compiled) -> int:
    """Bytes of the program's results and temporaries on one device, beyond the arguments that exist already; 0 where
    unknown."""
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    fresh = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return fresh + analysis.temp_size_in_bytes


def available(device: Any) -> int | None:
    """Bytes that `device` has free, None where it does not tell."""
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    meminfo = Path("/proc/meminfo")
    if device.platform != "cpu" or not meminfo.exists():
        return None
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def shortage(program: Compiled, devices: Sequence[Any]) -> Shortage | None:
    """What a program lacks on its `devices`, None if it fits; CPU devices share one memory."""
    need, free = needed(program), available(devices[0])
    if devices[0].platform == "cpu":
        need *= len(devices)
    return None if free is None or need <= free else Shortage(need, free)
