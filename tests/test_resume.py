"""An interrupted run loses nothing: killed, resumed, it ends with the bits of a run that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from pfljax import cli
from pfljax.checkpoint import Checkpoints
from pfljax.types import State

ROOT = Path(__file__).parent.parent
RUN = [
    *("--config=configs/digits_quickstart.py", "--config.algorithm.name=ditto", "--config.run.rounds=12"),
    *("--config.run.eval_every=1", "--config.model.hidden=(8,)", "--config.data.unseen=0.1", "--quiet"),
]


def pfljax(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pfljax", *arguments]


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "clients.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(pfljax("run", *RUN, f"--out={out}"), cwd=ROOT, check=True, capture_output=True)
    return out


def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(whole: Path, tmp_path: Path):
    out = tmp_path / "killed"
    process = subprocess.Popen(pfljax("run", *RUN, f"--out={out}"), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len([p for p in (out / "checkpoint").glob("*") if p.name.isdigit()]) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    subprocess.run(pfljax("resume", str(out), "--quiet"), cwd=ROOT, check=True, capture_output=True)
    expected, resumed = arrays(whole), arrays(out)
    assert expected.keys() == resumed.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(whole: Path, tmp_path: Path):
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    newest = max((p for p in (out / "checkpoint").glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    subprocess.run(pfljax("resume", str(out), "--quiet"), cwd=ROOT, check=True, capture_output=True)
    expected, resumed = arrays(whole), arrays(out)
    for name in expected:
        np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)


def test_checkpoints_that_are_all_damaged_are_named(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    for file in (out / "checkpoint").rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    assert cli.main(["resume", str(out), "--quiet"]) == 1
    assert "is corrupt: delete the folder and start again" in capfd.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(State({"w": jax.numpy.zeros(3)}, (), jax.numpy.asarray(1)), {"rounds": np.asarray([1])})
    with pytest.raises(ValueError, match="belongs to another method, model or federation"):
        checkpoints.restore(State({"w": jax.numpy.zeros(4)}, (), jax.numpy.asarray(0)))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="choose another folder"):
        Checkpoints(tmp_path / "file" / "below")
