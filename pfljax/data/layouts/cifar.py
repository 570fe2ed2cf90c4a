"""The files of CIFAR-10 and CIFAR-100: batches in Python's pickles, or in binary records."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from pfljax.data import limits
from pfljax.data.pickles import DAMAGE, unpickled

_PIXELS = 3 * 32 * 32


class Batch(NamedTuple):
    """Images and labels of one file."""

    x: np.ndarray  # [T, 32, 32, 3] bytes
    y: np.ndarray  # [T] the label, of CIFAR-100 the fine one
    coarse: np.ndarray | None  # [T] of CIFAR-100


def find(path: Path) -> tuple[list[Path], Path] | None:
    """The files with training and with test examples, in the folder or in the one that the archive makes."""
    for folder in (path, *sorted(path.glob("cifar-*"))):
        for ending in ("", ".bin"):
            ten = [folder / f"data_batch_{n}{ending}" for n in range(1, 6)], folder / f"test_batch{ending}"
            hundred = [folder / f"train{ending}"], folder / f"test{ending}"
            for train, test in (ten, hundred):
                if train[0].is_file() and test.is_file():
                    return train, test
    return None


def read(paths: list[Path]) -> Batch:
    """The examples of several files, one after the other.

    Raises:
      ValueError: if a file is damaged, larger than allowed, or would run code.
    """
    parts = [_binary(path) if path.suffix == ".bin" else _pickled(path) for path in paths]
    coarse = [part.coarse for part in parts if part.coarse is not None]
    x, y = (np.concatenate([getattr(part, name) for part in parts]) for name in "xy")
    return Batch(x, y, np.concatenate(coarse) if coarse else None)


def _pickled(path: Path) -> Batch:
    try:
        held = unpickled(limits.content(path), encoding="bytes")
        x, fine = np.asarray(held[b"data"]), held.get(b"labels", held.get(b"fine_labels"))
        y, coarse = np.array(fine, np.int32), held.get(b"coarse_labels")
        return Batch(_images(x, y), y, None if coarse is None else np.array(coarse, np.int32))
    except DAMAGE as error:
        raise ValueError(f"{path} is no batch of CIFAR ({error}): delete it and fetch it again") from error


def _binary(path: Path) -> Batch:
    content, hundred = np.frombuffer(limits.content(path), np.uint8), int(path.stem in ("train", "test"))
    record = _PIXELS + 1 + hundred
    if not len(content) or len(content) % record:
        raise ValueError(f"{path} has {len(content)} bytes, no number of records of {record}: fetch it again")
    rows = content.reshape(-1, record)
    y = rows[:, hundred].astype(np.int32)
    return Batch(_images(rows[:, 1 + hundred :], y), y, rows[:, 0].astype(np.int32) if hundred else None)


def _images(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows of red, then green, then blue, as images."""
    if x.dtype != np.uint8 or x.shape != (len(y), _PIXELS):
        raise ValueError(f"its data are {x.dtype}{list(x.shape)}, and there are {len(y)} labels")
    return np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
