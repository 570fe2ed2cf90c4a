"""Memory, foreseen: what a compiled program will take, and what the device has left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jax.stages import Compiled


def needed(program: Compiled) -> int:
    """Bytes of the program's results and temporaries, beyond the arguments that exist already; 0 where unknown."""
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


def check(program: Compiled, device: Any, block: int) -> None:
    """Refuses a program that will not fit.

    Raises:
      MemoryError: with the two sizes, and a block size that should fit.
    """
    need, free = needed(program), available(device)
    if free is None or need <= free:
        return
    smaller = max(1, block * free // need)
    remedy = f"executor={smaller}" if smaller < block else "a smaller model or fewer clients"
    raise MemoryError(f"the run needs about {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: try {remedy}")
