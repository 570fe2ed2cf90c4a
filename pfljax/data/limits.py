"""What a file may unpack to, known before it is read."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import zlib
from pathlib import Path
from typing import IO, Any

_USUAL = 4 * 2**30
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".lzma": lzma.open}
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, OSError)


class TooLarge(ValueError):
    """A sound file that is more than it may be."""


def most() -> int:
    """Bytes that a file may unpack to: `$PFLJAX_DATA_LIMIT`, or 4 GiB.

    Raises:
      ValueError: if the variable is no whole number.
    """
    given = os.environ.get("PFLJAX_DATA_LIMIT", str(_USUAL))
    if not given.isdecimal():
        raise ValueError(f"PFLJAX_DATA_LIMIT={given!r}: it must be a whole number of bytes")
    return int(given)


def check(path: str | Path, size: int) -> None:
    """Refuses what would be more than `most`.

    Raises:
      TooLarge: with both numbers.
    """
    if size > most():
        raise TooLarge(
            f"{path} would unpack to {size:,} bytes or more, and {most():,} are the most: set PFLJAX_DATA_LIMIT to "
            "more if you trust it"
        )


def opened(path: str | Path) -> IO[bytes]:
    """A file for reading, unpacked where its name ends in .gz, .bz2, .xz or .lzma."""
    return _OPENERS.get(Path(path).suffix, open)(path, "rb")


def content(path: str | Path) -> bytes:
    """What is in a file, unpacked.

    Raises:
      ValueError: if it is damaged, or more than `most`.
      FileNotFoundError: if there is no such file.
    """
    try:
        with opened(path) as file:
            found = file.read(most() + 1)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch it again") from error
    check(path, len(found))
    return found
