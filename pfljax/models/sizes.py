"""Sizes of inputs that a network cannot take: one sentence before anything is traced."""

from __future__ import annotations

from collections.abc import Sequence


def example(shape: Sequence[int], axes: str) -> tuple[int, ...]:
    """The shape of one example, which looks like `axes`.

    Raises:
      ValueError: if an axis has no place.
    """
    if min(shape, default=1) < 1:
        raise ValueError(f"shape={shape}: give the shape of one example, {axes}, without the axis of the batch")
    return tuple(shape)


def image(shape: Sequence[int], least: int = 1) -> tuple[int, ...]:
    """The shape of an image, [height, width] or [height, width, channels], of at least so many pixels a side.

    Raises:
      ValueError: if it is none, is too small, or has its channels first.
    """
    size = example(shape, "[height, width, channels]")
    if len(size) not in (2, 3):
        raise ValueError(f"shape={size}: images are [height, width] or [height, width, channels]")
    if len(size) == 3 and size[0] <= 4 < size[2] and size[1] <= 4 * size[2]:
        raise ValueError(
            f"shape={size} looks like channels first, and images are [height, width, channels]: transpose the inputs, "
            "x.transpose(0, 2, 3, 1), or make the model with from_linen if it is what it says"
        )
    if min(size[:2]) < least:
        raise ValueError(f"shape={size}: the network needs at least {least} x {least} pixels, enlarge the images")
    return size
