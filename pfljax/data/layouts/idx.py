"""The idx format of MNIST: two zeros, the type, the number of axes, their sizes in big-endian, then the numbers."""

from __future__ import annotations

import gzip
import zlib
from math import prod
from pathlib import Path

import numpy as np

from pfljax.data import limits

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read(path: str | Path) -> np.ndarray:
    """The array of an idx file, gzipped if its name ends in `.gz`.

    Raises:
      ValueError: if the file is damaged, of another format, or would unpack to more than allowed.
    """
    path = Path(path)
    try:
        with limits.opened(path) as file:
            content = file.read(4)
            if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
                raise ValueError(f"{path} is not an idx file, it begins with {content!r}: delete it and fetch it again")
            sizes, dtype = file.read(4 * content[3]), np.dtype(_TYPES[content[2]])
            shape = tuple(int.from_bytes(sizes[at : at + 4], "big") for at in range(0, 4 * content[3], 4))
            size = dtype.itemsize * prod(shape)
            limits.check(path, size)
            numbers, header = file.read(size + 1), 4 + len(sizes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch it again") from error
    if len(numbers) != size:
        there = f"{header + len(numbers)}{' or more' * (len(numbers) > size)}"
        raise ValueError(
            f"{path} has {there} bytes where shape {shape} needs {header + size}: delete it and fetch it again"
        )
    return np.frombuffer(numbers, dtype).reshape(shape).astype(dtype.newbyteorder("="))
