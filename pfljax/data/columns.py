"""Columns of a table as inputs of models: numbers, and categories in features that are 0 or 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pfljax import checks
from pfljax.data.scaling import Missing, Scaling

Frame = Any
"""A table of pandas, which is imported where one is made."""

Series = Any
"""A column of it."""

_MANY = 100  # different texts of a column that are still taken for categories


class Columns(NamedTuple):
    """How columns become the features of inputs [T, d]: numbers first, then one feature for each category."""

    numbers: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]  # of each column that has them
    missing: Missing

    @classmethod
    def of_plain(cls, given: Mapping[str, Any]) -> Columns:
        """What `_asdict` gave, as JSON has it."""
        categories = {name: tuple(values) for name, values in given["categories"].items()}
        return cls(tuple(given["numbers"]), categories, given["missing"])

    @property
    def features(self) -> tuple[str, ...]:
        """What each of the d features is: `age`, or `city=Rome`."""
        return (*self.numbers, *(f"{name}={value}" for name, values in self.categories.items() for value in values))

    def read(self, frame: Frame) -> np.ndarray:
        """Rows of a table as inputs [T, d]; NaN where a number is missing and is to be filled in.

        Raises:
          ValueError: if a column is not there, or holds what it should not.
        """
        frame = frame.rename(columns=str)
        there(frame, (*self.numbers, *self.categories))
        parts = [self._number(frame[name], name)[:, None] for name in self.numbers]
        return np.concatenate([*parts, *(self._one_hot(frame[name], name) for name in self.categories)], axis=1)

    def _number(self, column: Series, name: str) -> np.ndarray:
        try:
            found = column.to_numpy(float, na_value=np.nan)
        except (ValueError, TypeError) as error:
            raise ValueError(f"column {name!r} is of numbers, and one is none ({error}): give a number") from None
        self._refuse_missing(np.isnan(found), name)
        if (endless := np.isinf(found)).any():
            raise ValueError(f"column {name!r} is not finite in row {np.argmax(endless)}: give a finite number")
        if (beyond := abs(found) > np.finfo(np.float32).max).any():
            row = np.argmax(beyond)
            raise ValueError(f"column {name!r} holds {found[row]:g} in row {row}, beyond 32 bits: scale it")
        return found

    def _one_hot(self, column: Series, name: str) -> np.ndarray:
        known, gone = self.categories[name], column.isna().to_numpy()
        self._refuse_missing(gone, name)
        place = {value: number for number, value in enumerate(known)}
        values = texts(column)
        places = np.array([place.get(value, -1) for value in values])
        if (unknown := (places < 0) & ~gone).any():
            row = int(np.argmax(unknown))
            raise ValueError(
                f"column {name!r} holds {values[row]!r} in row {row}: {checks.nearest(values[row], known)}"
            )
        return (places[:, None] == np.arange(len(known))).astype(float)

    def _refuse_missing(self, gone: np.ndarray, name: str) -> None:
        if self.missing in ("error", "drop") and gone.any():
            raise ValueError(
                f"column {name!r} is missing in row {np.argmax(gone)} ({gone.sum()} of {len(gone)} rows): fill it in, "
                "or say what becomes of it, missing='drop', 'mean' or 'median'"
            )


class Inputs(NamedTuple):
    """How rows of a table become inputs of the models: columns, then what training rows said of them."""

    columns: Columns
    scaling: Scaling

    def read(self, frame: Frame, client: int = -1) -> np.ndarray:
        """Rows of a table as inputs [T, d] of one client; of nobody, scaled like all, if -1."""
        return self.scaling(self.columns.read(frame), client % len(self.scaling.mean))

    def plain(self, client: int) -> dict[str, Any]:
        """The same for one client as plain values, for programs that do not know this package."""
        learned = np.stack([self.scaling.fill, self.scaling.mean[client], self.scaling.scale[client]], axis=1).tolist()
        numbers = {
            name: {"fill": fill, "mean": mean, "scale": scale}
            for name, (fill, mean, scale) in zip(self.columns.numbers, learned, strict=False)
        }
        return {"numbers": numbers, "categories": {name: list(each) for name, each in self.columns.categories.items()}}


def found(frame: Frame, names: Iterable[str], categories: Iterable[str], missing: Missing) -> Columns:
    """The columns of a table that are inputs: what is no number is a category.

    Raises:
      ValueError: if one holds dates, nothing, or more than 100 different texts.
    """
    from pandas.api import types

    numbers, known = [], {}
    for name in names:
        column = frame[name]
        if (odd := next((value for value in column if isinstance(value, list | dict | np.ndarray)), None)) is not None:
            raise ValueError(
                f"column {name!r} holds a {type(odd).__name__} in each row: leave it out with drop=[{name!r}], or make "
                "arrays of it for from_arrays"
            )
        if column.isna().all():
            raise ValueError(f"column {name!r} is empty: leave it out with drop=[{name!r}]")
        if types.is_datetime64_any_dtype(column) or types.is_timedelta64_dtype(column):
            raise ValueError(
                f"column {name!r} holds dates: make it a number, say times={name!r} where it orders the rows, or leave "
                f"it out with drop=[{name!r}]"
            )
        if isinstance(column.dtype, types.CategoricalDtype):
            known[name] = tuple(map(_text, column.cat.categories))
        elif types.is_numeric_dtype(column) and name not in categories:
            numbers.append(name)
        else:
            values = column.dropna().unique()
            _refuse_strays(column, name, categories)
            ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
            known[name] = tuple(dict.fromkeys(map(_text, ordered)))
            if len(values) > _MANY and name not in categories:
                raise ValueError(
                    f"column {name!r} holds {len(values)} different texts, such as {str(values[0])[:40]!r}: leave it "
                    f"out with drop=[{name!r}], or say categories=[{name!r}]"
                )
    return Columns(tuple(numbers), known, missing)


def _refuse_strays(column: Series, name: str, categories: Iterable[str]) -> None:
    """Refuses texts among numbers, unless they are said to be categories."""
    from pandas import isna, to_numeric

    stray = isna(np.asarray(to_numeric(column, errors="coerce"))) & column.notna().to_numpy()
    if name not in categories and stray.any() and not stray[column.notna()].all():
        row = np.argmax(stray)
        raise ValueError(
            f"column {name!r} holds {column.iloc[row]!r} in row {row}, and numbers: give a number, or say "
            f"categories=[{name!r}]"
        )


def texts(column: Series) -> np.ndarray:
    """[T] values by name: whole numbers without a point, whatever their type."""
    names = {value: _text(value) for value in column.dropna().unique()}
    return np.array([names.get(value) for value in column], object)


def there(frame: Frame, names: Iterable[str]) -> None:
    """Refuses a table without one of these columns.

    Raises:
      ValueError: with the nearest one that it has.
    """
    for name in names:
        if name not in frame.columns:
            raise ValueError(f"there is no column {name!r}: {checks.nearest(name, frame.columns, 'it has')}")


def _text(value: Any) -> str:
    whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if whole else value)
