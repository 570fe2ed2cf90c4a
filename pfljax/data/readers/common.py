"""What readers share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pfljax.data import limits
from pfljax.data.dataset import Dataset, from_arrays

Read = Callable[[Path, int | None], Dataset | None]
"""`(path, size of images) -> data set`, None if its files are not there."""


def plain(name: Any) -> str:
    """The name of a file in a list, refused where it leads out of its folder.

    Raises:
      ValueError: if it is more than a name.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{name!r} is no plain name of a file")
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


def as_test(part: dict[str, Any], name: str) -> Dataset:
    """Arguments of `from_arrays` as the official test set of a data set."""
    return from_arrays(**part, name=f"{name} (test)")
