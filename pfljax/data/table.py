"""Tables: a row is an example, columns say whose it is, what is to be learned, and from what."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pfljax import checks
from pfljax.data import limits
from pfljax.data.columns import Frame, Series, found, texts, there
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.scaling import Missing

Kind = Literal["auto", "classification", "regression"]

ENDINGS = (".csv", ".tsv", ".csv.gz", ".csv.bz2", ".csv.xz", ".tsv.gz", ".parquet", ".arrow")
"""What names of tables end in."""

_CLASSES = 50  # different whole numbers that are still taken for classes
_WORDS = {"train": "train training", "validation": "validation valid val dev", "test": "test testing"}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words.split()}


@checks.spelled()
def from_frame(
    frame: Any,
    target: str,
    client: str | None = None,
    *,
    split: str | None = None,
    units: str | None = None,
    times: str | None = None,
    drop: Sequence[str] = (),
    categories: Sequence[str] = (),
    task: Kind = "auto",
    missing: Missing = "error",
    name: str = "table",
) -> Dataset:
    """A table as a data set: each row is an example, and every column that has no other part is an input.

    Columns of numbers and Booleans are features as they are; `federate` standardizes them by the training rows. Columns
    of text or of pandas categories are one feature for each category, 0 or 1. Classes and clients keep their names, and
    the models of a run read rows of such a table: `result.models["anna"].predict(frame)`.

    Args:
      frame: a pandas table.
      target: what is learned. Text, categories, Booleans and whole numbers are classes, other numbers real targets.
      client: whose each row is; the groups of `natural`.
      split: says `train`, `validation` or `test` of each row; federate it with `test="given"`.
      units: rows of one unit are never torn apart by a split.
      times: when each row was made, for `chronological`.
      drop: columns that are no inputs.
      categories: columns of numbers that are codes.
      task: `classification` or `regression` where the type of the target does not say it.
      missing: what becomes of missing inputs: a message; `drop` leaves out rows in which anything is missing; the
        `mean` or `median` of the training rows fills numbers in, and a missing category is none of them.
      name: how reports call it.

    Raises:
      ValueError: if a column is not there, something is missing or not finite, dates are to be inputs, a column has
        more than 100 different texts, or a target of more than 50 whole numbers could be either.

    >>> import pandas as pd
    >>> frame = pd.DataFrame({"who": ["eva", "tom"], "km": [3.0, 5.5], "by": ["bus", "tram"], "late": ["no", "yes"]})
    >>> table = from_frame(frame, client="who", target="late")
    >>> table.columns.features, table.class_names, table.x.tolist()
    (('km', 'by=bus', 'by=tram'), ('no', 'yes'), [[3.0, 1.0, 0.0], [5.5, 0.0, 1.0]])
    """
    if not (hasattr(frame, "columns") and hasattr(frame, "iloc")):
        raise ValueError(f"from_frame reads a pandas table, not a {type(frame).__name__}: use from_arrays for arrays")
    roles = {"client": client, "split": split, "units": units, "times": times}
    checks.each(str, target=target, name=name)
    checks.each(str | None, **roles)
    checks.each(tuple[str, ...], drop=drop, categories=categories)
    checks.each(Kind, task=task)
    checks.each(Missing, missing=missing)
    with checks.within(name, ": "):
        arrays = _arrays(frame, {"target": target, **roles}, set(drop), categories, task, missing)
    return from_arrays(**arrays, name=name)


def read_table(path: str | Path, also: Collection[str] = ()) -> Frame:
    """The table of a CSV, Parquet or Arrow file, or of all such files in a folder and below it, one after the other.

    What HuggingFace's `save_to_disk` writes is a folder of Arrow files; its labels keep their names.

    Text files may be packed (.gz, .bz2, .xz); `?` and what pandas takes for it is missing.

    Args:
      path: a file, or a folder of files with the same columns.
      also: `file` or `folder`, columns with the name of the file that a row is from (without its endings) and of its
        folder, unless the files have columns of that name.

    Raises:
      ValueError: if a file is damaged, empty, or has other columns than the first.
      FileNotFoundError: if there is none.
      ImportError: if pandas is missing, or pyarrow for Parquet and Arrow.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("tables are read by pandas: pip install 'pfljax[results]'") from error
    path = Path(path)
    files = tables(path)
    if not files:
        raise FileNotFoundError(f"{path} has no table: give a file, or a folder of files, {', '.join(ENDINGS)}")
    parts = []
    for file in files:
        part = _table(file)
        if parts and set(part.columns) != set(parts[0].columns):
            odd = sorted(map(str, set(part.columns) ^ set(parts[0].columns)))
            raise ValueError(f"{file} and {files[0]} differ in the column {odd[0]!r}: give all the same columns")
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    places = {"file": [file.name.split(".")[0] for file in files], "folder": [_folder(file, path) for file in files]}
    for column in [name for name in also if name in places and name not in frame.columns]:
        frame[column] = np.repeat(np.array(places[column], object), [len(part) for part in parts])
    return frame


def tables(path: Path) -> list[Path]:
    """The tables at a path: itself, or those in a folder and below it, in sorted order."""
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    return [each for each in found if each.is_file() and each.name.lower().endswith(ENDINGS) and each.name[0] != "."]


def _folder(file: Path, root: Path) -> str:
    """The folder of a file as its name from the root on; the root's own name where that is nothing."""
    below = file.parent.relative_to(root).as_posix() if root.is_dir() else "."
    return file.parent.name if below == "." else below


def _table(path: Path) -> Frame:
    import pandas as pd

    if path.suffix in (".parquet", ".arrow"):
        return _arrow(path)
    text = limits.content(path)
    try:
        head = text[: text.find(b"\n") + 1 or None].decode("utf-8-sig")
        separator = max(",;\t|", key=head.count)
        frame = pd.read_csv(
            io.BytesIO(text), sep=separator, encoding="utf-8-sig", na_values=["?"], skipinitialspace=True
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text in UTF-8 ({error.reason}): save it as one") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"{path} is no sound table ({str(error).strip()}): write a line of names, then a line a row"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"{path} has more fields in a row than names in its first line: give each column a name")
    return frame


def _arrow(path: Path) -> Frame:
    """Of a Parquet file, or of a stream of Arrow's as HuggingFace keeps it."""
    try:
        from pyarrow import ArrowException, ipc, parquet
    except ImportError as error:
        raise ImportError(f"{path.suffix} files are read by pyarrow: pip install pyarrow") from error
    try:
        if path.suffix == ".arrow":
            limits.check(path, path.stat().st_size)
            with open(path, "rb") as file, ipc.open_stream(file) as stream:
                return _labelled(stream.read_all())
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            limits.check(path, sum(group.total_byte_size for group in groups))
            return file.read().to_pandas()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is no sound {path.suffix} file ({error}): write it again") from error


def _labelled(table: Any) -> Frame:
    """A table whose labels have the names that HuggingFace writes beside its columns."""
    import pandas as pd

    frame = table.to_pandas()
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    for column, feature in about.get("info", {}).get("features", {}).items():
        if feature.get("_type") == "ClassLabel" and column in frame:
            frame[column] = pd.Categorical.from_codes(frame[column], categories=feature["names"])
    return frame


def _arrays(
    frame: Frame,
    roles: dict[str, str | None],
    drop: set[str],
    categories: Sequence[str],
    task: Kind,
    missing: Missing,
) -> dict[str, Any]:
    """The columns by their parts, as `from_arrays` takes them."""
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        raise ValueError(f"two columns are called {frame.columns[frame.columns.duplicated()][0]!r}: rename one of them")
    named = [column for column in roles.values() if column is not None]
    there(frame, (*named, *drop, *categories))
    inputs = [column for column in frame.columns if column not in {*named, *drop}]
    if not inputs:
        raise ValueError("no column is left to learn from: leave fewer out")
    if missing == "drop":
        frame = frame.dropna(subset=[*inputs, *named])
    if not len(frame):
        raise ValueError("there is no row: give at least one")
    for role, column in roles.items():
        if column is not None and (gone := frame[column].isna().to_numpy()).any():
            raise ValueError(
                f"{role} column {column!r} is missing in row {np.argmax(gone)}: fill it in, or leave it out"
            )
    columns = found(frame, inputs, categories, missing)
    keys = {role: None if column is None else _key(frame[column]) for role, column in roles.items()}
    return {
        "x": columns.read(frame),
        "y": _targets(frame[roles["target"]], task),
        "groups": keys["client"],
        "units": keys["units"],
        "times": keys["times"],
        "split": None if keys["split"] is None else _splits(keys["split"], roles["split"]),
        "columns": columns,
    }


def _key(column: Series) -> np.ndarray:
    """Values that name or order; whole numbers stay such where a gap elsewhere made them floats."""
    found = column.to_numpy()
    whole = found.dtype.kind == "f" and (found == np.trunc(found)).all() and abs(found).max() < 2**53
    return found.astype(np.int64) if whole else found


def _targets(column: Series, task: Kind) -> Any:
    """Labels for `from_arrays`: categories, or real numbers."""
    import pandas as pd
    from pandas.api import types

    numeric = types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
    if task == "regression":
        if not numeric:
            raise ValueError(
                f"target {column.name!r} is {column.dtype}, and a regression needs numbers: leave task out"
            )
        return column.to_numpy(float)
    if not numeric or isinstance(column.dtype, types.CategoricalDtype):
        return column
    if task == "auto" and types.is_float_dtype(column):
        return column.to_numpy(float)
    values = np.sort(column.unique())
    if task == "auto" and len(values) > _CLASSES:
        raise ValueError(
            f"target {column.name!r} has {len(values)} different whole numbers: say task='regression', or "
            "task='classification' if each is a class"
        )
    return pd.Categorical(texts(column), categories=[*dict.fromkeys(texts(pd.Series(values)))])


def _splits(given: np.ndarray, column: str | None) -> np.ndarray:
    """`train`, `validation` or `test` of each row, however it is spelled."""
    words = [str(value).lower() for value in given]
    if unknown := sorted(set(words) - _SPLIT_OF.keys()):
        raise ValueError(
            f"split column {column!r} holds {unknown[0]!r}: say 'train', 'validation' or 'test' of each row, or leave "
            "split out for a share of each client"
        )
    return np.array([_SPLIT_OF[word] for word in words])
