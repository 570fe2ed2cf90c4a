"""NumPy's archives of arrays, without pickles."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pfljax.data import limits

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError, MemoryError, RuntimeError)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an `.npz` file.

    Raises:
      ValueError: if it is damaged, holds objects, or would unpack to more than allowed.
    """
    with _sound(path), zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    limits.check(path, size)
    with _sound(path), np.load(path, allow_pickle=False) as content:
        return {key: content[key] for key in content.files}


@contextlib.contextmanager
def _sound(path: str | Path) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(f"{path} is not a sound .npz file ({error}): write it again with np.savez") from error
