"""Checks of what a model is made from: one sentence before anything is traced."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any


def counts(**values: Any) -> None:
    """Refuses numbers of classes, units or layers that are not whole numbers of at least 1.

    Raises:
      ValueError: naming the first.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name}={value!r}: it must be a whole number of at least 1")


def widths(name: str, values: Any) -> tuple[int, ...]:
    """The numbers of units of layers, which may be none.

    Raises:
      ValueError: if they are no list of whole numbers of at least 1.
    """
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name}={values!r}: give a list with the width of each layer, such as (100,)")
    for width in values:
        if isinstance(width, bool) or not isinstance(width, Integral) or width < 1:
            raise ValueError(f"{name}={values!r}: each width must be a whole number of at least 1")
    return tuple(values)


def shape(values: Any, axes: str = "...") -> tuple[int, ...]:
    """The shape of one example.

    Args:
      values: as it is given, without the axis of the batch.
      axes: what it must look like, for the message.

    Raises:
      ValueError: if it is no list of whole numbers of at least 1.
    """
    fine = isinstance(values, Sequence) and not isinstance(values, str)
    if not fine or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in values):
        raise ValueError(f"shape={values!r}: give the shape of one example, [{axes}], without the axis of the batch")
    return tuple(int(n) for n in values)


def image(values: Any, least: int = 1) -> tuple[int, ...]:
    """The shape of an image, [height, width] or [height, width, channels].

    Args:
      values: as it is given.
      least: pixels a side that the network needs.

    Raises:
      ValueError: if it is none, is too small, or has its channels first.
    """
    size = shape(values, "height, width, channels")
    if len(size) not in (2, 3):
        raise ValueError(f"shape={size}: images are [height, width] or [height, width, channels], grey ones too")
    if len(size) == 3 and size[0] <= 4 < size[2] and size[1] <= 4 * size[2]:
        raise ValueError(
            f"shape={size} looks like channels first, and images are [height, width, channels]: transpose the inputs, "
            "x.transpose(0, 2, 3, 1), or make the model with from_linen if it is what it says"
        )
    if min(size[:2]) < least:
        raise ValueError(f"shape={size}: the network needs images of at least {least} x {least} pixels, enlarge them")
    return size
