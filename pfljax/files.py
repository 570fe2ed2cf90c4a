"""A run's folder: files are whole or not there, what matters is checked when it is read, one process at a time writes.

A file is written under a partial name, brought to the disk, and renamed. JSON that a run depends on is sealed: it
carries the digest of its content.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import platform
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LOCKLESS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def named(folder: str | Path) -> Path:
    """The path of a folder that a user names.

    Raises:
      ValueError: if the name is empty, as that of a variable which is not set, or cannot be one.
    """
    if not str(folder).strip() or "\0" in str(folder):
        raise ValueError(f"out={str(folder)!r} names no folder: name one, or leave it out")
    return Path(folder)


def made(folder: str | Path) -> Path:
    """`folder`, made if missing.

    Raises:
      PermissionError, OSError: if it cannot be written, see `writing`.
    """
    with writing(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        probe = Path(folder) / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    return Path(folder)


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Errors of the system name the file and the remedy.

    Raises:
      OSError: if the disk or a quota is full.
      PermissionError: if `path` cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            full = OSError(f"cannot write {path}: {reason}; free some space and continue")
            full.errno = error.errno
            raise full from error
        raise PermissionError(f"cannot write {path}: {reason}; choose another folder") from error


def write(path: str | Path, content: bytes) -> Path:
    """Writes a file whole or not at all; one that has this content already is not touched.

    Raises:
      PermissionError, OSError: if it cannot be written, see `writing`.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
    _sync(path.parent)
    return path


def write_json(path: str | Path, content: Any, *, indent: int = 2) -> Path:
    """Writes plain values, see `write`."""
    return write(path, (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode())


def write_figure(path: str | Path, figure: Any) -> Path:
    """Writes a figure of matplotlib, see `write`; the ending chooses the format."""
    stream = io.BytesIO()
    figure.savefig(stream, format=Path(path).suffix.removeprefix(".") or None)
    return write(path, stream.getvalue())


def read(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
      OSError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"cannot read {path}: {error.strerror}") from error


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """The section that a file holds; the digest of a sealed one is compared and left out.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged; the message ends with the remedy.
    """
    content = read(path)
    try:
        return unsealed(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error if content else 'it is empty'}): {remedy}") from error


def digest(content: Mapping[str, Any]) -> str:
    """32 hex digits of named arrays, bytes and plain values, in whatever order.

    >>> digest({"a": 1, "b": [2.5]}) == digest({"b": [2.5], "a": 1})
    True
    """
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(content):
        value = content[name]
        if isinstance(value, np.ndarray):
            found.update(f"{name} {value.dtype} {value.shape} ".encode())
            found.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        elif isinstance(value, bytes):
            found.update(f"{name} {len(value)} ".encode() + value)
        else:
            found.update(f"{name} {json.dumps(value, sort_keys=True)} ".encode())
    return found.hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with their digest."""
    return {**content, "digest": digest(content)}


def unsealed(content: Any) -> dict[str, Any]:
    """What was `sealed`. Sections without a digest pass.

    Raises:
      ValueError: if it was changed since, or is no section.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it holds {json.dumps(content)[:20]}, not a section")
    content = dict(content)
    if "digest" in content and content.pop("digest") != digest(content):
        raise ValueError("it was changed after it was written")
    return content


@contextlib.contextmanager
def held(folder: str | Path, name: str = "", *, wait: bool = False) -> Iterator[None]:
    """Keeps other processes out of a folder, or out of one file of it; the system lets go when this process ends.

    Args:
      folder: made if missing.
      name: of the file, if the folder is shared.
      wait: until it is free.

    Raises:
      BlockingIOError: if another one holds it; the message says which, where, and since when.
    """
    lock = made(folder) / f".{name or 'folder'}.lock"
    handle = _locked(lock, wait)
    try:
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):
                lock.unlink()
            os.close(handle)


def _locked(lock: Path, wait: bool) -> int | None:
    """An open file that locks; None where the file system has no locks. Who unlinks it does so before he lets go."""
    if fcntl is None:
        return None
    while True:
        with writing(lock):
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(handle), lock.stat()):
                os.ftruncate(handle, 0)
                since = datetime.now().astimezone().isoformat(timespec="seconds")
                os.write(handle, f"process {os.getpid()} on {platform.node()} since {since}".encode())
                return handle
        except OSError as error:
            holder = os.pread(handle, 1000, 0).decode(errors="replace") or "another process"
            os.close(handle)
            if error.errno in _LOCKLESS:
                logging.getLogger(__name__).warning("%s has no locks: keep other processes out of it", lock.parent)
                return None
            if error.errno in _FULL:
                raise OSError(f"cannot write {lock}: {error.strerror}; free some space and continue") from error
            what = lock.parent if lock.name == ".folder.lock" else lock.parent / lock.name[1:].removesuffix(".lock")
            raise BlockingIOError(f"{what} is in use by {holder}: wait for it, or end it") from error
        os.close(handle)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which schedulers send before they kill."""


def status(error: BaseException) -> int:
    """What a command that ended so says to the shell."""
    if not isinstance(error, KeyboardInterrupt):
        return 1
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM raises `Terminated` in the block, as Ctrl-C raises `KeyboardInterrupt`."""

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk, where that can be asked for."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def orbax_quiet() -> Iterator[None]:
    """Orbax without its log; what the system refused becomes an error of the system again."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if (code := re.search(r"os_error_code='(\d+)'", str(error))) is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    finally:
        log.setLevel(level)
