"""What readers share."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data import limits
from pfljax.data.dataset import Dataset, from_arrays

Read = Callable[[Path, int | None], Dataset | None]
"""`(path, size of images) -> data set`, None if its files are not there."""


def plain(name: Any, where: Path) -> str:
    """The name of a file that another file lists, refused where it leads out of its folder.

    Raises:
      ValueError: if it is more than a name.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{where} lists {name!r}, which is no plain name of a file: fetch it again")
    return name


def rows(path: Path, stream: io.BytesIO | None = None, **options: Any) -> Any:
    """A text file as a pandas table.

    Args:
      path: the file.
      stream: a part of it; all of it if None.
      **options: of `pandas.read_csv`.

    Raises:
      ValueError: if it is damaged, or unpacks to more than allowed.
    """
    import pandas as pd

    try:
        return pd.read_csv(stream or io.BytesIO(limits.content(path)), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({str(error).strip()}): fetch it again") from error


def numbers(path: Path, *, gaps: bool = False, **options: Any) -> np.ndarray:
    """A text file without names as numbers [rows, columns]; see `rows`.

    Args:
      path: the file.
      gaps: whether some may be missing, which are NaN.
      **options: of `pandas.read_csv`.

    Raises:
      ValueError: with the first row that is not of numbers.
    """
    import pandas as pd

    table = rows(path, header=None, **options)
    found = table.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if (odd := np.isnan(found) & ~(gaps & table.isna().to_numpy())).any():
        row = np.argmax(odd.any(axis=1))
        raise ValueError(f"{path} is damaged (row {row} is not of numbers): fetch it again")
    return found


def matlab(path: Path) -> dict[str, Any]:
    """The variables of a file of Matlab.

    Raises:
      ValueError: if it is damaged, or larger than allowed.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    limits.check(path, path.stat().st_size)
    try:
        return loadmat(path)
    except (MatReadError, ValueError, TypeError, OSError, LookupError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error


def as_test(part: dict[str, Any], name: str) -> Dataset:
    """Arguments of `from_arrays` as the official test set of a data set."""
    return from_arrays(**part, name=f"{name} (test)")
