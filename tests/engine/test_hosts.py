"""Two processes with two devices each are the run of one with four; when one dies the other says so and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jax.experimental import multihost_utils

from pfljax.engine import hosts

ROOT = Path(__file__).parents[2]
# 16 clients, whose states are spread over the four devices, and 4 that never train.
RUN = [
    *("--config=configs/digits_quickstart.py", "--config.algorithm.name=ditto", "--config.run.eval_every=1"),
    *("--config.data.unseen=0.2", "--config.local.momentum=0.9"),
    *("--config.model.hidden=(8,)", "--config.local.plan=full_batch", "--config.local.steps=2"),
]


def start(*arguments: str, processes: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "pfljax", *arguments, "--quiet"]
            + (["--distributed", *group, f"--process={n}"] if processes > 1 else []),
            cwd=ROOT,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": str(4 // processes)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for n in range(processes)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What they print, once all have ended well."""
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    return said


def scores(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "clients.npz") as stored:
        return {name: stored[name] for name in stored.files if name.startswith("scores/")}


@pytest.mark.slow
def test_two_processes_are_one_run_and_a_death_ends_both(tmp_path: Path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    finish(start("run", *RUN, "--config.run.rounds=20", f"--out={alone}", processes=1))

    running = start("run", *RUN, "--config.run.rounds=20", f"--out={both}", processes=2)
    deadline = time.monotonic() + 240
    while not [path for path in (both / "checkpoint").glob("*") if path.name.isdigit()]:
        assert all(process.poll() is None for process in running), "a process ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running[1].send_signal(signal.SIGKILL)
    (_, complaint), _ = (process.communicate(timeout=240) for process in running)
    assert running[0].returncode != 0
    assert "process 0: another process of the run has ended" in complaint
    assert f"continue with pfljax resume {both} --distributed" in complaint
    assert not (both / "summary.json").exists()

    (table, _), (silence, _) = finish(start("resume", str(both), processes=2))
    assert "ditto" in table
    assert "ditto" not in silence, "only the leading process reports"
    expected, resumed = scores(alone), scores(both)
    assert expected.keys() == resumed.keys()
    for name in expected:
        np.testing.assert_allclose(resumed[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_group_is_named_whole_or_not_at_all():
    with pytest.raises(ValueError, match="several processes need --coordinator, --process too"):
        hosts.join(processes=2)


def test_one_process_leads_and_shares_with_itself():
    assert hosts.leads()
    assert hosts.shared(lambda: {"round": 3}) == {"round": 3}
    assert hosts.gathered({"w": np.ones(2)})["w"].tolist() == [1, 1]


@pytest.mark.parametrize("size", [1, 6, 7, 8, 70])
def test_what_is_shared_travels_in_pieces(size: int, monkeypatch: pytest.MonkeyPatch):
    """A length above 2 GiB is no int32; here a piece has seven bytes."""
    told = []
    monkeypatch.setattr(hosts, "_PIECE_BYTES", 7)
    monkeypatch.setattr(hosts, "together", lambda: True)
    monkeypatch.setattr(hosts, "leads", lambda: True)
    monkeypatch.setattr(multihost_utils, "broadcast_one_to_all", lambda x: told.append(x.size) or np.asarray(x))
    assert hosts.shared(lambda: b"x" * size) == b"x" * size
    assert max(told) == 7
