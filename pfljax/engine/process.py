"""What pfljax sets for the whole process: CPU cores as devices, and where compiled programs are kept.

Importing the package sets nothing: the first simulation and `hosts.join` do, by `configure`.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from pfljax import checks
from pfljax.engine import mesh

_PATIENCE = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 600,
    "xla_cpu_collective_call_terminate_timeout_seconds": 1_000_000,
}
"""How long CPU devices wait for each other: XLA ends the process after a minute, and a client may train longer."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure(devices: int | None = None, cache: str | Path | None = None) -> None:
    """Makes CPU cores devices, so that all of them train, and keeps compiled programs for later processes.

    The first simulation does it by itself; call it at the top of a program where JAX computes before that, as
    `jax.random.key` does, for JAX then settles on one CPU device. Of several processes, each joins the others first.

    Args:
      devices: how many CPU devices. If None, what `JAX_NUM_CPU_DEVICES`, `XLA_FLAGS` or `jax.config` say, else one for
        each core.
      cache: a folder for compiled programs. If None, what `JAX_COMPILATION_CACHE_DIR` or `jax.config` say, else
        `pfljax` in the user's cache folder; `JAX_ENABLE_COMPILATION_CACHE=0` turns it off.

    Raises:
      ValueError: if `devices` is below 1.
      RuntimeError: if JAX has computed already, on other devices.
    """
    if devices is not None:
        checks.each(checks.Count, devices=devices)
    _keep(cache)
    told = "device_count" in os.environ.get("XLA_FLAGS", "") or _config("jax_num_cpu_devices") > 0
    if devices is not None or (mesh.SHARDS_CONVOLUTIONS and not told):
        _divide(cores() if devices is None else devices)
    _settle()


def begin(*, warn: bool = True) -> None:
    """`configure` for what computes; where that comes too late for the devices, a warning says so."""
    try:
        configure()
    except RuntimeError as error:
        if warn:
            warnings.warn(str(error), stacklevel=3)


def _divide(wanted: int) -> None:
    """Makes `wanted` devices of the CPU."""
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if jax.default_backend() == "cpu" and (settled := jax.local_device_count()) != wanted:
            raise RuntimeError(
                f"JAX computed before pfljax.configure() or the first simulation and uses {settled} of "
                f"{wanted} CPU devices: call pfljax.configure() before anything that computes, or set "
                f"JAX_NUM_CPU_DEVICES={wanted} ({settled} to keep what there is)"
            ) from error


def _config(name: str) -> Any:
    return getattr(jax.config, name)


def _keep(folder: str | Path | None) -> None:
    """Keeps compiled programs in `folder`, those of the rest of this process."""
    if folder is None:
        if _config("jax_compilation_cache_dir"):
            return
        folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pfljax"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # JAX opens one folder


def _settle() -> None:
    """Lets JAX find its devices. XLA reads its flags then, once, those of patience too if not given."""
    given = os.environ.get("XLA_FLAGS")
    names_a_file = given and not given.lstrip().startswith("-")
    if mesh.SHARDS_CONVOLUTIONS and not names_a_file:
        flags = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in (given or "")]
        os.environ["XLA_FLAGS"] = " ".join([given or "", *flags])
    try:
        jax.devices()
    finally:
        if given is None:
            os.environ.pop("XLA_FLAGS", None)
        else:
            os.environ["XLA_FLAGS"] = given
