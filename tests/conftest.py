"""Settings that every test shares: CPU, programs that compile fast, a cache of them, strict numerics on demand."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib import metadata
from pathlib import Path

import pytest

# Workers do not share a cache: entries are not written atomically.
_CACHE = Path(__file__).parent.parent / ".jax_cache" / os.environ.get("PYTEST_XDIST_WORKER", "main")

# Compiling takes most of the time of these tests, and less so; those with `optimized` run what users run.
_FULL = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
_FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
if tuple(map(int, metadata.version("jax").split(".")[:2])) >= (0, 11):  # there are no others any more
    del _FULL["xla_cpu_use_fusion_emitters"], _FAST["xla_cpu_use_fusion_emitters"]
_WORKER = "PYTEST_XDIST_WORKER" in os.environ

# Where Python is told to keep no bytecode, each process that a test starts would parse JAX anew, for two seconds.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    os.environ.setdefault("PYTHONPYCACHEPREFIX", str(_CACHE.parent / "bytecode"))
    sys.dont_write_bytecode, sys.pycache_prefix = False, os.environ["PYTHONPYCACHEPREFIX"]

# Before jax is imported, and through the environment, so that processes started by tests inherit them.
for _name, _value in {
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "1",
    "JAX_COMPILATION_CACHE_DIR": str(_CACHE),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "MPLBACKEND": "Agg",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_name, _value)

import jax  # noqa: E402

from pfljax.engine import programs  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Flags for the tests that are asked for, where they run; XLA reads them when it is first used."""
    if config.getoption("numprocesses", None) and not _WORKER:
        return
    flags = dict(_FAST)
    if _WORKER:
        flags["xla_cpu_multi_thread_eigen"] = False
    os.environ.setdefault("XLA_FLAGS", " ".join(f"--{name}={str(value).lower()}" for name, value in flags.items()))


@contextlib.contextmanager
def _optimized() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "options", lambda *_: _FULL)
        yield


@pytest.fixture(scope="session")
def optimizing() -> Callable[[], AbstractContextManager[None]]:
    """`with optimizing():` programs as users get them. Equal bits of different programs are promised for these."""
    return _optimized


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs as users get them, for one test."""
    with _optimized():
        yield


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 for one test."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def strict() -> Iterator[None]:
    """No implicit promotion of dtypes or ranks."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
