"""The machine: its name, how fast it multiplies matrices, how fast it moves memory.

As a contender (`prepare`) one round is one float32 matrix product with everything that JAX gives a single program: all
cores, or the accelerator. Timed in turn with the others, it tells what the machine could do at that moment.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.engine.process import configure

_SIZES = (512, 1024, 2048)
_LARGE = (4096, 8192)
"""On an accelerator also these."""

_BUSY = 0.5
"""Running processes per core above which times are doubtful."""

_measured: dict[str, Any] = {}


def identity() -> dict[str, Any]:
    """What the machine is: processor, cores, memory, system. Starts no accelerator."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def busy() -> list[str]:
    """A warning if others have run on this machine in the last minute, where the system tells."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
    if load <= _BUSY:
        return []
    return [f"this machine was busy before the start (load {load:.2f} per core): times are too long"]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def prepare(workload: dict[str, Any], examples: Callable[[], Any], source: str | None) -> Callable[[], None]:
    """Products of the size that this machine multiplies fastest."""
    del workload, examples, source
    configure()
    on_cpu = jax.devices()[0].platform == "cpu"
    speeds = {size: _speed(size) for size in (_SIZES if on_cpu else _SIZES + _LARGE)}
    best = max(speeds, key=lambda size: speeds[size])
    _measured.update(
        device=jax.devices()[0].device_kind,
        backend=jax.default_backend(),
        flops=2.0 * best**3,
        gemm={str(size): speed for size, speed in speeds.items()},
        bandwidth=_copied() if on_cpu else _triad(),
    )
    return _product(best)


def about() -> dict[str, str]:
    """Versions and the device."""
    return {"jax": jax.__version__, "device": jax.devices()[0].device_kind}


def details(workload: dict[str, Any]) -> dict[str, Any]:
    """`device`, `backend`, `flops` of a round, `gemm` (size -> FLOP/s), `bandwidth` (bytes/s)."""
    del workload
    return _measured


def _product(size: int) -> Callable[[], None]:
    x = jnp.ones((size, size), jnp.float32)
    with jax.default_matmul_precision("highest"):
        multiply = jax.jit(jnp.matmul).lower(x, x).compile()
    return lambda: multiply(x, x).block_until_ready()


def _speed(size: int) -> float:
    return 2.0 * size**3 / _median(_product(size))


def _median(function: Callable[[], Any], repeats: int = 5) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def _copied(size: int = 1 << 27) -> float:
    """Bytes read and written a second by all cores copying."""
    cores = os.cpu_count() or 1
    source, target = (np.ones((cores, size // cores), np.uint8) for _ in range(2))
    with ThreadPoolExecutor(cores) as pool:
        return 2.0 * source.size / _median(lambda: list(pool.map(np.copyto, target, source)))


def _triad(size: int = 1 << 28) -> float:
    """Bytes a second of `a + 2 b`."""
    a, b = jnp.ones(size, jnp.float32), jnp.ones(size, jnp.float32)
    add = jax.jit(lambda a, b: a + 2 * b)
    return 12.0 * size / _median(lambda: add(a, b).block_until_ready())
