"""The door: what is given as inputs, labels or keys becomes arrays that keep their values in JAX, or one sentence.

A message names the data, the array and the row as the caller calls it; see `At`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks
from pfljax.printing import brief
from pfljax.types import Tree

At = Callable[[int], str]
"""How a message calls a row."""

Classes = Annotated[int, checks.Bounds(least=1, most=np.iinfo(np.int32).max)]

_INT32, _UINT32 = np.iinfo(np.int32).max, np.iinfo(np.uint32).max
_FLOAT32 = np.finfo(np.float32)
# Inputs whose spread is less than this part of their size have lost it to rounding in float64 already; in float32
# what is left of a spread below `_BLURRED` is mostly rounding.
_NOISE, _BLURRED = 2.0**-40, 100 * 2.0**-24

_REMEDIES = {
    "b": "give numbers",
    "c": "give real and imaginary parts as two features",
    "M": "give numbers, such as days: (dates - dates.min()) / np.timedelta64(1, 'D')",
    "m": "give numbers: divide by np.timedelta64(1, 's')",
    "U": "number it first: np.unique(values, return_inverse=True)[1]",
    "V": "give one array for each field, in a dictionary",
}


def row(number: int) -> str:
    """The name of a row of arrays."""
    return f"row {number}"


def places(sizes: Mapping[str, int]) -> At:
    """Names of the rows of joined parts: `row 3 of client 7` for a part that is called `" of client 7"`."""
    ends, names = np.cumsum(list(sizes.values())), list(sizes)

    def at(number: int) -> str:
        part = int(np.searchsorted(ends, number, side="right"))
        return f"row {number - (ends[part - 1] if part else 0)}{names[part]}"

    return at


class Labels(NamedTuple):
    """Labels as they are stored."""

    y: np.ndarray  # [T, ...] int32 classes, or float targets
    num_classes: int | None  # C, None for targets
    names: tuple[str, ...] | None  # of the classes, where they came as text, categories or Booleans


def _refuse(where: str, what: str) -> NoReturn:
    raise ValueError(f"{where}: {what}")


def _leaf(value: Any) -> bool:
    """Lists are arrays that are written out; None would vanish from a tree, and JAX warns of iterators."""
    return value is None or isinstance(value, list | Iterator)


def paths(x: Tree) -> dict[str, Any]:
    """The leaves of inputs by their names in messages: `x`, or `x['image']`."""
    return {f"x{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree.leaves_with_path(x, is_leaf=_leaf)}


def inputs(x: Tree, where: str, part: str = "") -> Tree:
    """Inputs as arrays of numbers, in their storage dtype; `part` is said in messages, such as `" of client 3"`.

    Raises:
      ValueError: if there is none, or one is not an array of numbers [T, ...].
    """
    named = paths(x)
    if not named:
        _refuse(where, f"x{part} is {brief(x)} and holds no array: give inputs [T, ...]")
    told = {f"{where}: {name}{part}": leaf for name, leaf in named.items()}
    leaves = [_numeric(array(leaf, name), name) for name, leaf in told.items()]
    return jax.tree.unflatten(jax.tree.structure(x, is_leaf=_leaf), leaves)


def check_inputs(x: Tree, where: str, at: At = row) -> None:
    """Refuses inputs that are not finite, or that 32 bits cannot hold.

    Raises:
      ValueError: naming the first row.
    """
    for name, leaf in paths(x).items():
        _check(leaf, f"{where}: {name}", at)


def labels(
    parts: Mapping[str, Any], where: str, *, num_classes: int | None = None, ignore: int | None = None
) -> Labels:
    """Labels of several parts (clients, or training and test set), joined and numbered alike; see `places`.

    Integers are classes 0..C-1. Text is numbered in sorted order, categories in their own, Booleans as 0 and 1; their
    names are kept. Floats are targets, or classes if `num_classes` is given. A column [T, 1] is [T].

    Raises:
      ValueError: if parts differ in kind or shape, labels are outside 0..C-1, or values are missing or not finite.
    """
    checks.each(Classes | None, num_classes=num_classes)
    checks.each(int | None, ignore=ignore)
    given = [_labelled(y, f"{where}: y{part}") for part, y in parts.items()]
    at = places({part: len(y) for part, (y, _) in zip(parts, given, strict=True)})
    filled = [each for each in given if len(each[0])] or given[:1]
    kinds = {_kind(y) for y, _ in filled}
    shapes = {y.shape[1:] for y, _ in filled}
    if len(kinds) > 1:
        _refuse(where, f"labels are of several kinds, {' and '.join(sorted(kinds))}: give all of them alike")
    if len(shapes) > 1:
        _refuse(where, f"labels have several shapes, {sorted(map(list, shapes))}: give all of them alike")
    y, names, (kind,) = np.concatenate([y for y, _ in filled]), None, kinds
    if kind == "text":
        if ignore is not None:
            _refuse(where, f"labels have names, ignore={ignore} is for numbers: leave out the rows that do not count")
        y, names = _numbered(y, [order for _, order in filled if order is not None])
        if num_classes not in (None, len(names)):
            raise ValueError(
                f"{where}: y has {len(names)} classes by name, and num_classes={num_classes}: leave num_classes out, "
                "or give a pandas Categorical of all categories"
            )
        num_classes = len(names)
    if kind == "floats":
        check_labels(y, where, at=at)
        if num_classes is None and ignore is None:
            return Labels(y, None, None)
        if (odd := y != np.trunc(y)).any():
            raise ValueError(
                f"{where}: y holds {y[odd][0]} in {at(_first(odd))}, and classes are whole numbers: leave num_classes "
                "and ignore out for a regression"
            )
    largest = _largest(y, ignore)
    check_labels(y, where, num_classes or largest + 1, ignore, at)
    if num_classes is None and largest >= max(10_000, y.size):
        raise ValueError(
            f"{where}: labels go up to {largest}, so many classes of {len(y)} examples: number those that occur with "
            "np.unique(y, return_inverse=True)[1], or give num_classes"
        )
    return Labels(y.astype(np.int32), num_classes or largest + 1, names)


def check_labels(
    y: np.ndarray, where: str, num_classes: int | None = None, ignore: int | None = None, at: At = row
) -> None:
    """Refuses classes outside of 0..C-1, and targets that are not finite or that 32 bits cannot hold.

    Raises:
      ValueError: naming the first row.
    """
    if _floating(y):
        _check(y, f"{where}: y", at)
    if num_classes is None or not y.size:
        return
    outside = (y < 0) | (y >= num_classes)
    if ignore is not None:
        outside &= y != ignore
    if outside.any():
        counted = y if ignore is None else y[y != ignore]
        low, high = int(counted.min()), int(counted.max())
        raise ValueError(
            f"{where}: labels lie in {low}..{high} ({at(_first(outside))}), but num_classes={num_classes} allows 0 to "
            f"num_classes - 1; {_renumbered(low, high, num_classes, ignore)}"
        )


def counted(y: np.ndarray, ignore: int | None) -> np.ndarray:
    """[T] which examples have a label that counts."""
    if ignore is None:
        return np.ones(len(y), bool)
    return (y != ignore).reshape(len(y), -1).any(1) if len(y) else np.ones(0, bool)


def keys(values: Any, name: str, where: str) -> np.ndarray | None:
    """[T] groups, units or times: sortable, none missing.

    Raises:
      ValueError: if they are not, or not one for each example.
    """
    if values is None:
        return None
    found = _column(array(values, f"{where}: {name}"))
    if found.ndim != 1 or found.dtype.kind in "cV":
        _refuse(where, f"{name} are {found.dtype}{list(found.shape)}: give one number or text for each example, [T]")
    missing = np.isnat(found) if found.dtype.kind in "Mm" else found != found
    if missing.any():
        _refuse(where, f"{name} is missing in row {_first(missing)}: fill it in, or leave the row out")
    return found


def array(value: Any, name: str) -> np.ndarray:
    """`value` as an array in the machine's byte order; of text if it is text, never of objects.

    Raises:
      ValueError: if it has no such form, or values are missing.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{name} has masked values: fill them in with filled(...), or leave these rows out")
    if _is_pandas(value, "DataFrame"):
        return _frame(value, name)
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{name} is no array ({str(error).split('.')[0]}): give all rows the same shape") from error
    if isinstance(value, list) and found.dtype.kind == "U":
        found = np.asarray(value, object)  # NumPy makes text of what stands beside text
    if found.dtype.kind in "OT":
        return _text(found.astype(object), name)
    if found.dtype.kind == "S":
        return np.char.decode(found, "utf-8", "replace")
    return found.astype(found.dtype.newbyteorder("="), copy=False)


def pair(given: Any, who: str) -> tuple[Tree, Any]:
    """`(x, y)` as it is given.

    Raises:
      ValueError: if it is something else.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise ValueError(f"{who} is {brief(given)}: give a pair (x, y)")
    return given[0], given[1]


def same_rows(part: Tree, model: Tree, who: str, other: str) -> None:
    """Refuses a part whose structure, row shapes or dtypes are not those of `model`; a part without rows fits.

    Raises:
      ValueError: naming both.
    """
    if jax.tree.structure(part) != jax.tree.structure(model):
        raise ValueError(
            f"{who} has {jax.tree.structure(part)}, but {other} has {jax.tree.structure(model)}: give all the same tree"
        )
    for mine, theirs in zip(jax.tree.leaves(part), jax.tree.leaves(model), strict=True):
        if len(mine) and (mine.shape[1:], mine.dtype) != (theirs.shape[1:], theirs.dtype):
            raise ValueError(
                f"{who} has rows {mine.dtype}{list(mine.shape[1:])}, but {other} has rows "
                f"{theirs.dtype}{list(theirs.shape[1:])}: give all the same shape and dtype"
            )


def _is_pandas(value: Any, *kinds: str) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and any(isinstance(value, getattr(pandas, kind)) for kind in kinds)


def _frame(frame: Any, name: str) -> np.ndarray:
    """The columns of a pandas DataFrame as one array [T, columns]."""
    columns = [array(frame.iloc[:, n], f"{name}, column {label!r},") for n, label in enumerate(frame.columns)]
    if not columns:
        raise ValueError(f"{name} is a table without columns: give at least one")
    odd = [str(label) for label, column in zip(frame.columns, columns, strict=True) if column.dtype.kind not in "biuf"]
    if odd and len(columns) > 1:
        raise ValueError(f"{name} has columns that are no numbers, {', '.join(odd)}: number them, or leave them out")
    return np.stack(columns, axis=1)


def _text(found: np.ndarray, name: str) -> np.ndarray:
    """Objects, if all of them are text."""
    if not found.ndim:
        raise ValueError(f"{name} is one {type(found.item()).__name__}: give an array, one row for each example")
    for n, value in enumerate(found.ravel()):
        if isinstance(value, str):
            continue
        place, kind = f"row {n // (found.size // len(found))}", type(value).__name__
        if value is None or kind in ("NAType", "NaTType") or (isinstance(value, float) and np.isnan(value)):
            raise ValueError(f"{name} is missing in {place}: fill it in, or leave the row out")
        raise ValueError(
            f"{name} is an array of objects, with {kind} in {place}: make it numbers with astype(float) or "
            "astype(int), or text with astype(str)"
        )
    return np.asarray(found, str)


def _numeric(found: np.ndarray, name: str) -> np.ndarray:
    """An array [T, ...] of numbers that JAX knows."""
    if not found.ndim:
        raise ValueError(f"{name} is a single value: give an array, one row for each example")
    if 0 in found.shape[1:]:
        raise ValueError(f"{name} has the shape {list(found.shape)}, rows without numbers: give at least one feature")
    if _floating(found) or found.dtype.kind in "biu":
        return found.astype(float) if found.dtype.itemsize > 8 else found
    kind = {"U": "text", "M": "dates", "m": "durations", "c": "complex numbers"}.get(found.dtype.kind, str(found.dtype))
    raise ValueError(f"{name} holds {kind}: {_REMEDIES.get(found.dtype.kind, 'give numbers')}")


def _check(values: np.ndarray, name: str, at: At) -> None:
    """Refuses values that are not finite, and those that change where JAX holds them in 32 bits."""
    floating = _floating(values)
    if floating and not (finite := np.isfinite(values)).all():
        raise ValueError(f"{name} is not finite in {at(_first(~finite))}; fill in or drop missing values first")
    narrow = jax.config.read("jax_enable_x64") or values.dtype.itemsize < 4 or values.dtype == np.float32
    if narrow or not values.size:
        return
    low, high = values.min(0).astype(float), values.max(0).astype(float)
    reach, spread = np.maximum(abs(low), abs(high)), high - low
    limit = _FLOAT32.max if floating else _UINT32 if values.dtype.kind == "u" else _INT32
    if (reach > limit).any():
        beyond = abs(values.astype(float)) > limit
        raise ValueError(
            f"{name} reaches {values[beyond][0]:g} in {at(_first(beyond))}, beyond the 32 bits that JAX computes with: "
            "scale it"
        )
    blurred = (spread > _NOISE * reach) & (spread < _BLURRED * reach) & (floating or (reach > 2**24))
    vanishing = floating & (spread > 0) & (reach < _FLOAT32.tiny)
    if (lost := blurred | vanishing).any():
        low, high = low[lost].flat[0], high[lost].flat[0]
        raise ValueError(
            f"{name} has a feature that lies in {low:.12g}..{high:.12g}, where the 32 bits that JAX computes with tell "
            "hardly anything apart: subtract its mean and scale it"
        )


def _floating(values: np.ndarray) -> bool:
    return jnp.issubdtype(values.dtype, jnp.floating)


def _first(bad: np.ndarray) -> int:
    """The first row where something is."""
    return int(np.argwhere(bad)[0, 0])


def _kind(y: np.ndarray) -> str:
    kinds = {"U": "text", "i": "whole numbers", "u": "whole numbers"}
    return kinds.get(y.dtype.kind, "floats")


def _column(found: np.ndarray) -> np.ndarray:
    """A column [T, 1] as [T]."""
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _labelled(y: Any, name: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Labels as numbers or text, and the order of their categories, if they have one."""
    if _is_pandas(y, "DataFrame") and y.shape[1] == 1:
        y = y.iloc[:, 0]
    if _is_pandas(y, "Series", "CategoricalIndex"):
        y = y.array
    if _is_pandas(y, "Categorical"):
        if (missing := np.asarray(y.codes) < 0).any():
            raise ValueError(f"{name} is missing in row {_first(missing)}: fill it in, or leave the row out")
        names = tuple(map(str, y.categories))
        return np.array([names[code] for code in y.codes], str), names
    if isinstance(y, Labels):
        return (y.y, None) if y.names is None else (np.array(y.names)[y.y], y.names)
    found = _column(array(y, name))
    if not found.ndim:
        raise ValueError(f"{name} is a single value: give one label for each example")
    if found.dtype.kind == "b":
        return np.where(found, "True", "False"), ("False", "True")
    return found if found.dtype.kind == "U" else _numeric(found, name), None


def _numbered(y: np.ndarray, orders: Sequence[tuple[str, ...]]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Text as numbers: in the order of the categories that have all that occurs, else sorted."""
    present, places = np.unique(y, return_inverse=True)
    found = set(present.tolist()).union(*orders)
    names = next((order for order in orders if set(order) == found), tuple(sorted(found)))
    numbers = np.array([names.index(name) for name in present.tolist()], np.int32)
    return numbers[places].reshape(y.shape), names


def _largest(y: np.ndarray, ignore: int | None) -> int:
    """The largest label that counts."""
    counted = y if ignore is None else y[y != ignore]
    return int(counted.max()) if counted.size else 0


def _renumbered(low: int, high: int, num_classes: int, ignore: int | None) -> str:
    """The advice for labels outside of 0..C-1."""
    if low == 1 and high == num_classes:
        return "subtract 1 from all of them"
    mark = low if low < 0 else high
    number = "renumber them with np.unique(y, return_inverse=True)[1], or give floats for a regression"
    return number if ignore is not None else f"{number}; if {mark} marks what does not count, say ignore={mark}"
