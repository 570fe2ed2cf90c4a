"""Importing changes nothing in the process; the first simulation takes the cores and keeps its programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from pfljax.engine import mesh, process

ROOT = Path(__file__).parents[2]
several = pytest.mark.skipif(not mesh.SHARDS_CONVOLUTIONS, reason="this jax trains on one device")

# Three cores on every machine, so that neither one core nor JAX's own one device pass.
SMALL = """
import os, warnings
import jax, numpy as np, optax
import pfljax as pfl
from pfljax.engine import process
from pfljax.experiment import recipe

process.cores = lambda: 3

def small():
    rows = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
    data = pfl.from_clients([(x, np.arange(4) % 2) for x in rows], num_classes=2, unseen=1)
    model = pfl.models.mlp((2,), 2, hidden=(3,))
    task = pfl.classification(model)
    local = pfl.descent(optax.adam(0.1), pfl.full_batch(1, 4))
    return task, pfl.algorithms.fedper(task, local, pfl.masks.head(model)), data

def kept():
    return any("advance" in name for name in os.listdir(jax.config.jax_compilation_cache_dir))
"""

IMPORT = """
import logging, os, signal, sys, threading, warnings
import jax

def seen():
    loggers = {name: made for name, made in logging.root.manager.loggerDict.items() if isinstance(made, logging.Logger)}
    return {
        "environment": dict(os.environ),
        "configuration": dict(jax.config.values),
        "levels": {name: made.level for name, made in loggers.items() if made.level} | {"root": logging.root.level},
        "handlers": {name: made.handlers for name, made in loggers.items() if made.handlers},
        "root": (list(logging.root.handlers), logging.root.manager.disable),
        "warnings": (list(warnings.filters), warnings.showwarning),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "threads": threading.active_count(),
        "hooks": (sys.excepthook, sys.displayhook, sys.getrecursionlimit()),
    }

before = seen()
import pfljax
after = seen()
print({name: (before[name], after[name]) for name in before if before[name] != after[name]})
print(len(jax.devices()))
"""

FIRST = """
task, method, data = small()
model = pfl.models.resnet8((8, 8, 3), 2)
for name in pfl.METHODS:
    recipe.build(name, pfl.classification(model), model, capacity=8, inputs=192).make()
pfl.sampling.dropouts(pfl.sampling.uniform(2), 0.1), pfl.schedules.cosine(0.1, rounds=3)
warnings.simplefilter("error")
result = pfl.simulate(task, method, data, rounds=1)
assert ("unseen_personal", "test", "loss") in result.scores
print(len(jax.devices()), kept())
"""

LATE = """
jax.random.key(0)
assert not jax.config.jax_compilation_cache_dir
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pfl.simulate(*small(), rounds=1)
    list(pfl.simulate_many(*small(), [pfl.Point(0, {})], rounds=1))
    pfl.Simulation(*small(), devices=jax.devices())
for warning in caught:
    print(warning.message)
print(len(jax.devices()), kept())
"""

CHOSEN = """
pfl.configure(devices=2, cache=folder)
pfl.configure()
pfl.simulate(*small(), rounds=1)
assert kept() and jax.config.jax_compilation_cache_dir == folder
pfl.configure(devices=2, cache=folder + "/other")
pfl.simulate(*small(), rounds=1)
try:
    pfl.configure(devices=4)
except RuntimeError as error:
    print(error)
print(len(jax.devices()), kept())
"""

APART = """
import sys, time
from jax.sharding import PartitionSpec as P
from pfljax.engine import mesh

def late(index):
    return jax.pure_callback(lambda index: time.sleep(float(index.sum()) * seconds) or index, index, index)

pfl.configure()
mesh = mesh.clients(None).mesh
wait = jax.shard_map(lambda i: jax.lax.psum(late(i), "clients"), mesh=mesh, in_specs=P("clients"), out_specs=P())
print(float(jax.jit(wait)(np.array([0.0, 0.0, 1.0], np.float32))[0]), os.environ.get("XLA_FLAGS"))
"""


def fresh(program: str, tmp_path: Path, **environment: str) -> list[str]:
    """The lines that a program prints in a process whose environment says nothing of JAX."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    kept |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path), **environment}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), *(line for line in done.stderr.splitlines() if "rendezvous" in line)]


def test_importing_changes_nothing(tmp_path: Path):
    assert fresh(IMPORT, tmp_path) == ["{}", "1"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@several
def test_the_first_simulation_takes_all_cores_and_keeps_its_programs(tmp_path: Path):
    """Data, models, tasks and methods were made before, so none of them computes."""
    assert fresh(SMALL + FIRST, tmp_path) == ["3 True"]


@pytest.mark.slow
@several
def test_a_warning_says_that_it_is_too_late_for_the_cores(tmp_path: Path):
    """Not for devices that were chosen. Programs are kept all the same."""
    *warned, last = fresh(SMALL + LATE, tmp_path)
    told = (
        "JAX computed before pfljax.configure() or the first simulation and uses 1 of 3 CPU devices: call "
        "pfljax.configure() before anything that computes, or set JAX_NUM_CPU_DEVICES=3 (1 to keep what there is)"
    )
    assert warned == [told, told]
    assert last == "1 True"


@pytest.mark.slow
def test_devices_and_folder_can_be_chosen(tmp_path: Path):
    complaint, last = fresh(f"{SMALL}\nfolder = {str(tmp_path / 'mine')!r}\n{CHOSEN}", tmp_path)
    assert complaint.startswith("JAX computed before pfljax.configure() or the first simulation and uses 2 of 4 CPU")
    assert last == "2 True"


@pytest.mark.parametrize(
    "environment", [{"JAX_NUM_CPU_DEVICES": "2"}, {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}]
)
def test_what_the_environment_says_stays(environment: dict[str, str], tmp_path: Path):
    folder = str(tmp_path / "theirs")
    program = SMALL + "process.begin(); print(len(jax.devices()), jax.config.jax_compilation_cache_dir)"
    assert fresh(program, tmp_path, JAX_COMPILATION_CACHE_DIR=folder, **environment) == [f"2 {folder}"]


@several
def test_xla_is_told_how_long_devices_wait_for_each_other(tmp_path: Path):
    """Shortened, it complains; the flags are not left behind."""
    short = 'process._PATIENCE = {"xla_cpu_collective_call_warn_stuck_timeout_seconds": 1}'
    result, complaint, *_ = fresh("\n".join([SMALL, short, "seconds = 4", APART]), tmp_path)
    assert result == "1.0 None"
    assert "for 1 seconds and may be stuck" in complaint


@several
@pytest.mark.slow
def test_devices_wait_longer_than_a_minute(tmp_path: Path):
    """By itself XLA complains after 20 seconds, and ends the process after 60."""
    assert fresh(f"{SMALL}\nseconds = 75\n{APART}", tmp_path) == ["1.0 None"]


def test_devices_are_counted_from_one():
    with pytest.raises(ValueError, match="devices=0: it must be a whole number of at least 1"):
        process.configure(devices=0)
    assert len(jax.devices()) == 1
