"""Examples before they are dealt to clients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b

import jax
import numpy as np

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

    def __post_init__(self) -> None:
        leaves = {f"x{jax.tree_util.keystr(path)}": leaf for path, leaf in jax.tree.leaves_with_path(self.x)}
        for name, leaf in (leaves | {"groups": self.groups, "units": self.units}).items():
            if leaf is not None and len(leaf) != len(self.y):
                raise ValueError(f"{self.name}: {name} has {len(leaf)} rows and y has {len(self.y)}; they must agree")
        for name, leaf in (leaves | {"y": self.y}).items():
            if leaf.dtype.kind == "f" and not (finite := np.isfinite(leaf)).all():
                row = int(np.argwhere(~finite)[0, 0])
                raise ValueError(
                    f"{self.name}: {name} is not finite in row {row}; fill in or drop missing values first"
                )
        if self.num_classes is not None and len(self.y) and not 0 <= self.y.min() <= self.y.max() < self.num_classes:
            raise ValueError(
                f"{self.name}: labels lie in {self.y.min()}..{self.y.max()}, but num_classes={self.num_classes} "
                "allows 0 to num_classes - 1; renumber them"
            )

    def __repr__(self) -> str:
        kind = "real targets" if self.num_classes is None else f"{self.num_classes} classes"
        known = [name for name in ("groups", "units", "test") if getattr(self, name) is not None]
        return f"Dataset({', '.join([f'{self.name!r}: {len(self):,} examples', kind, f'x={brief(self.x)}', *known])})"

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Dataset:
        """The examples `rows`, in that order; the official test set stays as it is."""
        x = jax.tree.map(lambda leaf: leaf[rows], self.x)
        groups, units = (None if leaf is None else leaf[rows] for leaf in (self.groups, self.units))
        return replace(self, x=x, y=self.y[rows], groups=groups, units=units)

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
        return replace(self, x=x, y=y, groups=join("groups"), units=join("units"), test=None)

    def canonical(self) -> Dataset:
        """The same examples in the order of a hash of their bytes, whatever the order of the source."""
        test = None if self.test is None else self.test.canonical()
        return replace(self.take(np.argsort(_digests(self.x, self.y), kind="stable")), test=test)


def from_arrays(
    x: Tree,
    y: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    units: np.ndarray | None = None,
    test: Dataset | tuple[Tree, np.ndarray] | None = None,
    num_classes: int | None = None,
    name: str = "arrays",
) -> Dataset:
    """Arrays in memory as a data set, in canonical order. See `Dataset` for the arguments.

    Integer labels become int32; C is the largest label + 1 unless given.

    >>> from_arrays(np.zeros((3, 2), np.uint8), np.array([0, 2, 1])).num_classes
    3
    """
    y = labels(y)
    if isinstance(test, tuple):
        test = Dataset(f"{name} (test)", jax.tree.map(np.asarray, test[0]), labels(test[1]))
    if num_classes is None:
        num_classes = count_classes(y if test is None else np.concatenate([y, test.y]))
    if test is not None:
        test = replace(test, num_classes=num_classes)
    x = jax.tree.map(np.asarray, x)
    groups, units = (None if leaf is None else np.asarray(leaf) for leaf in (groups, units))
    return Dataset(name, x, y, num_classes, groups, units, test).canonical()


def labels(y: np.ndarray) -> np.ndarray:
    """`y` as stored: int32 for integers and Booleans, else as it is."""
    y = np.asarray(y)
    return y.astype(np.int32) if y.dtype.kind in "iub" else y


def count_classes(y: np.ndarray) -> int | None:
    """The largest label + 1, or None where `y` is not integer or empty."""
    return int(y.max()) + 1 if y.dtype.kind in "iu" and y.size else None


def _digests(x: Tree, y: np.ndarray) -> np.ndarray:
    """[T] hashes of the bytes of each example and its label, whatever the label's integer type."""
    y = y.astype("<i8" if y.dtype.kind in "iub" else "<f8")
    rows = [np.ascontiguousarray(leaf).reshape(len(y), -1) for leaf in (*jax.tree.leaves(x), y)] if len(y) else []
    digests = [blake2b(b"".join(parts), digest_size=8).digest() for parts in zip(*rows, strict=True)]
    return np.frombuffer(b"".join(digests), ">u8")
