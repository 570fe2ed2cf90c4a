"""Examples before they are dealt to clients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import jax
import numpy as np

from pfljax import checks
from pfljax.data import door
from pfljax.data.columns import Columns
from pfljax.printing import brief
from pfljax.types import Tree


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pooled examples with what is known about them.

    Args:
      name: how reports call it.
      x: inputs, leaves [T, ...] in their storage dtype.
      y: [T, ...] labels; integers are classes, floats are targets.
      num_classes: C, or None for regression. Taken from `y` by `from_arrays`.
      groups: [T] natural client of each example (writer, hospital, role), of any sortable dtype.
      units: [T] examples of one unit (windows of one recording) are never torn apart by a train/test split.
      test: the official test examples, where there are any.
      times: [T] when each example was made, of any sortable dtype; the order given if None.
      order: [T] the rows as partitioners of `pfljax.data.partition` number them; as they are if None.
      ignore: a label that marks what does not count.
      class_names: of classes 0..C-1, where labels came as text, categories or Booleans.
      split: [T] `train`, `validation` or `test` of each example, where that is given; see `federate`.
      columns: of the table that the inputs come from; its missing numbers are NaN until `federate` fills them in.

    Raises:
      ValueError: if lengths differ, a label is outside 0..C-1, or a float is not finite.
    """

    name: str
    x: Tree
    y: np.ndarray
    num_classes: int | None = None
    groups: np.ndarray | None = None
    units: np.ndarray | None = None
    test: Dataset | None = None
    times: np.ndarray | None = None
    order: np.ndarray | None = None
    ignore: int | None = None
    class_names: tuple[str, ...] | None = None
    split: np.ndarray | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        for name, leaf in (door.paths(self.x) | {key: getattr(self, key) for key in _KEYS}).items():
            if leaf is not None and len(leaf) != len(self.y):
                raise ValueError(f"{self.name}: {name} has {len(leaf)} rows and y has {len(self.y)}; they must agree")
        if self.columns is None:
            door.check_inputs(self.x, self.name)
        door.check_labels(self.y, self.name, self.num_classes, self.ignore)
        if self.test is not None:
            door.same_rows(self.test.x, self.x, f"the official test set of {self.name}", "the training set")

    def __repr__(self) -> str:
        kind = "real targets" if self.num_classes is None else f"{self.num_classes} classes"
        known = [name for name in ("groups", "units", "test") if getattr(self, name) is not None]
        return f"Dataset({', '.join([f'{self.name!r}: {len(self):,} examples', kind, f'x={brief(self.x)}', *known])})"

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Dataset:
        """The examples `rows`, in that order; the official test set stays as it is."""
        x = jax.tree.map(lambda leaf: leaf[rows], self.x)
        keys = {key: None if (leaf := getattr(self, key)) is None else leaf[rows] for key in _KEYS}
        order = None if self.order is None else np.argsort(np.argsort(self.order)[rows], kind="stable")
        return replace(self, x=x, y=self.y[rows], order=order, **keys)

    def merged(self) -> Dataset:
        """Training and official test examples as one set."""
        if self.test is None:
            raise ValueError(
                f"{self.name} has no official test set: split off a share of each client, as test=0.25 does"
            )
        parts = (self, self.test)

        def join(name: str) -> np.ndarray | None:
            found = [leaf for part in parts if (leaf := getattr(part, name)) is not None]
            return np.concatenate(found) if len(found) == len(parts) else None

        x = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part.x for part in parts))
        y = np.concatenate([part.y for part in parts])
        orders = [np.arange(len(part)) if part.order is None else part.order for part in parts]
        order = np.concatenate([orders[0], len(self) + orders[1]])
        return replace(self, x=x, y=y, test=None, order=order, **{key: join(key) for key in _KEYS})


_KEYS = ("groups", "units", "times", "split")


def from_arrays(
    x: Tree,
    y: Any,
    *,
    groups: Any = None,
    units: Any = None,
    times: Any = None,
    split: Any = None,
    columns: Columns | None = None,
    test: Dataset | tuple[Tree, Any] | None = None,
    num_classes: int | None = None,
    ignore: int | None = None,
    name: str = "arrays",
) -> Dataset:
    """Arrays in memory as a data set, in the order given; our own partitions do not depend on it.

    Whatever NumPy reads is an array: lists, pandas columns and tables, memory maps, arrays of other byte orders. Inputs
    keep their dtype. Integer labels become int32. Text, pandas categories and Booleans are numbered, in sorted order,
    in the categories' own, as 0 and 1; `class_names` keeps their names. Float labels are targets of a regression, or
    classes if `num_classes` is given. Labels [T, 1] are [T].

    Args:
      x: inputs, an array [T, ...] or a tree of such.
      y: labels [T], or [T, ...] for one label at each place of an example.
      groups, units, times, split, columns: see `Dataset`.
      test: the official test examples, as `(x, y)` or as a data set of their own, which may have groups too.
      num_classes: C; the largest label + 1 if None.
      ignore: a label that marks what does not count, such as 255 in masks of images. It is no class. Examples without
        any label that counts are dealt to nobody.
      name: how reports call it.

    Raises:
      ValueError: if something is no array of numbers, is missing or not finite, changes its value in the 32 bits that
        JAX computes with, or does not fit the rest; in one sentence with the row.

    >>> from_arrays(np.zeros((3, 2), np.uint8), ["ant", "cat", "bee"]).class_names
    ('ant', 'bee', 'cat')
    """
    checks.each(str, name=name)
    x, parts = door.inputs(x, name), {"": y}
    if test is not None:
        official, test_y = _official(test, f"{name} (test)")
        parts[" of the official test set"] = test_y
    found = door.labels(parts, name, num_classes=num_classes, ignore=ignore)
    shared = {"num_classes": found.num_classes, "ignore": ignore, "class_names": found.names}
    train_y, test_y = np.split(found.y, [len(y.y if isinstance(y, door.Labels) else y)])
    if not len(train_y) or not (test is None or len(test_y)):
        raise ValueError(
            f"{name}: the {'test' if len(train_y) else 'training'} set is empty: give at least one example"
        )
    given = {"groups": groups, "units": units, "times": times, "split": split}
    known = {key: door.keys(values, key, name) for key, values in given.items()}
    test = None if test is None else _ordered(replace(official, y=test_y, **shared))
    return _ordered(Dataset(name, x, train_y, test=test, columns=columns, **known, **shared))


def _official(test: Dataset | tuple[Tree, Any], name: str) -> tuple[Dataset, Any]:
    """A test set without its labels, and its labels."""
    if isinstance(test, Dataset):
        return test, door.Labels(test.y, test.num_classes, test.class_names)
    x, y = door.pair(test, name)
    x = door.inputs(x, name)
    return Dataset(name, x, np.zeros(len(jax.tree.leaves(x)[0]))), y


def _ordered(dataset: Dataset) -> Dataset:
    """With the order of a hash of each example's bytes and label, whatever the label's integer type."""
    y = dataset.y.astype("<i8" if dataset.y.dtype.kind == "i" else "<f8")
    leaves = [np.ascontiguousarray(leaf).reshape(len(y), -1) for leaf in (*jax.tree.leaves(dataset.x), y)]
    rows = zip(*(leaf.view(np.uint8) for leaf in leaves), strict=True)
    digests = [blake2b(b"".join(parts), digest_size=8).digest() for parts in rows]
    return replace(dataset, order=np.argsort(np.frombuffer(b"".join(digests), ">u8"), kind="stable"))
