"""Pooling whose gradient is fast on a CPU: shifted slices in place of a window operation."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from pfljax.types import Array


def reduce_window_max(
    x: Array, window: Sequence[int], strides: Sequence[int], pads: Sequence[tuple[int, int]]
) -> Array:
    """The maximum over each window of x, whose axes are all named; padding is minus infinity.

    The values are those of `jax.lax.reduce_window`, NaN included, and so are the gradients: the first maximum of a
    window gets it. Derivatives exist to any order, in both modes.
    """
    low = jnp.array(-jnp.inf, x.dtype)
    if any(pad != (0, 0) for pad in pads):
        x = lax.pad(x, low, [(*pad, 0) for pad in pads])
    last = [(n - w) // s * s + 1 for n, w, s in zip(x.shape, window, strides, strict=True)]

    def larger(a: Array, b: Array) -> Array:
        return jnp.where((a >= b) | jnp.isnan(a), a, b)

    parts = (
        lax.slice(x, start, [i + end for i, end in zip(start, last, strict=True)], strides)
        for start in itertools.product(*map(range, window))
    )
    return functools.reduce(larger, parts)


def max_pool(
    x: Array,
    window: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: str | Sequence[tuple[int, int]] = "VALID",
) -> Array:
    """`flax.linen.max_pool`: the maximum over windows of [B, space..., channels].

    Args:
      x: floating.
      window: one size for each axis of space.
      strides: the same; the window's own sizes by default (Flax's default is 1), so that windows are disjoint.
      padding: `"VALID"`, `"SAME"`, or (low, high) for each axis of space.
    """
    sizes, steps = (1, *window, 1), (1, *(strides or window), 1)
    if isinstance(padding, str):
        pads = lax.padtype_to_pads(x.shape, sizes, steps, padding)
    else:
        pads = [(0, 0), *padding, (0, 0)]
    return reduce_window_max(x, sizes, steps, [(int(low), int(high)) for low, high in pads])
