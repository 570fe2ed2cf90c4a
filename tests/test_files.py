"""Files of a run: whole or not there, compared with their digest, held by one process, in spite of signals."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pfljax import files

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = files.write(tmp_path / "below" / "numbers", b"old")

    def fail(*_: object) -> None:
        raise FULL

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os if step == "fsync" else Path, step, fail)
            with pytest.raises(OSError, match=rf"cannot write {path}: No space left on device; free some") as full:
                files.write(path, b"new")
        assert full.value.errno == errno.ENOSPC
        assert path.read_bytes() == b"old"
        assert os.listdir(path.parent) == ["numbers"]
    assert files.write(path, b"new").read_bytes() == b"new"


def test_what_is_equal_is_not_written_again(tmp_path: Path):
    path = files.write_json(tmp_path / "a.json", {"a": 1})
    before = path.stat()
    files.write_json(path, {"a": 1})
    assert path.stat().st_ino == before.st_ino
    files.write_json(path, {"a": 2})
    assert path.stat().st_ino != before.st_ino


def test_what_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "a.json", tmp_path / ("n" * 300)):
        with pytest.raises(PermissionError, match=rf"cannot write {path}: .*; choose another folder"):
            files.write(path, b"")
    for name in ("", " ", "a\0b"):
        with pytest.raises(ValueError, match="names no folder"):
            files.named(name)


def test_each_bit_of_a_sealed_file_counts(tmp_path: Path):
    """A flipped bit is found, or it has changed nothing but the name of the seal."""
    content = {"lr": 0.1, "method": "ditto", "seeds": [1, 2], "none": None}
    path = files.write_json(tmp_path / "a.json", files.sealed(content))
    sound, found = path.read_bytes(), 0
    for bit in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        read, message = content, f"{path} is damaged (here): start again"
        try:
            read = files.read_json(path, "start again")
        except ValueError as error:
            message = str(error)
            found += 1
        assert content.items() <= read.items()
        assert re.fullmatch(rf"{path} is damaged \(.+\): start again", message)
    assert found > 0.8 * 8 * len(sound)


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_section_is_damaged(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.json is damaged \(.+\): start again"):
        files.read_json(tmp_path / "a.json", "start again")


def test_a_digest_is_of_names_types_shapes_and_bits():
    rows = np.arange(6, dtype=np.float32)
    others = [
        {"a": rows, "b": 1},
        {"a": rows.reshape(2, 3), "b": 1},
        {"a": rows.view(np.int32), "b": 1},
        {"a": np.where(rows == 0, np.float32(-0.0), rows), "b": 1},
        {"c": rows, "b": 1},
        {"a": rows, "b": 2},
        {"a": rows.tobytes(), "b": 1},
    ]
    assert len({files.digest(content) for content in others}) == len(others)
    assert files.digest({"b": 1, "a": rows[::-1][::-1]}) == files.digest(others[0])


def test_a_folder_is_held_by_one(tmp_path: Path):
    with files.held(tmp_path), files.held(tmp_path, "ledger"):
        for name, what in (("", tmp_path), ("ledger", tmp_path / "ledger")):
            message = rf"{what} is in use by process {os.getpid()} on .+ since 20"
            with pytest.raises(BlockingIOError, match=message), files.held(tmp_path, name):
                pass
    with files.held(tmp_path):
        pass
    assert not os.listdir(tmp_path)


def test_what_a_killed_process_held_is_free(tmp_path: Path):
    program = (
        f"import os, signal; from pfljax import files\nwith files.held({str(tmp_path)!r}): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parent.parent)
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [".folder.lock"]
    with files.held(tmp_path):
        pass


def test_signals_wait_until_a_file_is_whole():
    for number, kind in ((signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, files.Terminated)):
        done = []

        def write(number: int = number, done: list[str] = done) -> None:
            with files.unbroken():
                signal.raise_signal(number)
                done.append("whole")
            done.append("after")

        with pytest.raises(kind) as stop, files.interruptible():
            write()
        assert done == ["whole"]
        assert files.status(stop.value) == 128 + number
    assert files.status(ValueError()) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_json_keeps_every_bit_of_a_number(tmp_path: Path):
    numbers = np.random.default_rng(0).normal(size=100).tolist()
    path = files.write_json(tmp_path / "a.json", files.sealed({"numbers": numbers}))
    assert files.read_json(path, "")["numbers"] == numbers
    assert "digest" in json.loads(path.read_text())
