"""Convolution as matrix products, and max-pooling as a reduction: what runs fast on a CPU.

XLA's gradient of a convolution with respect to the kernel is some ten times slower on a CPU than the same numbers as
a matrix product. Here the input is unfolded into patches by shifted slices and multiplied with the kernel; every
derivative of that is again slices and products. Undifferentiated convolutions (evaluation) stay with XLA, which needs
no memory for patches.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from pfljax.types import Array


def _slices(x: Array, kernel: tuple[int, ...], strides: tuple[int, ...], pads: Any, dilation: Any, spread: Any) -> list:
    """What each place of the kernel sees: arrays [B, *output, channels], in the order of the kernel's places."""
    config = [(0, 0, 0), *((low, high, d - 1) for (low, high), d in zip(pads, spread, strict=True)), (0, 0, 0)]
    x = lax.pad(x, jnp.zeros((), x.dtype), config)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    last = [(n - r) // s * s for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    return [
        lax.slice(
            x,
            (0, *start, 0),
            (x.shape[0], *(i + end + 1 for i, end in zip(start, last, strict=True)), x.shape[-1]),
            (1, *strides, 1),
        )
        for start in itertools.product(*(range(0, k * d, d) for k, d in zip(kernel, dilation, strict=True)))
    ]


def _unfolded(x: Array, kernel: Array, precision: Any, strides: Any, pads: Any, dilation: Any, spread: Any) -> Array:
    slices = _slices(x, kernel.shape[:-2], strides, pads, dilation, spread)
    if kernel.shape[-2] == x.shape[-1]:
        patches = jnp.concatenate(slices, axis=-1)
        flat = patches.reshape(-1, patches.shape[-1])
        out = jnp.dot(flat, kernel.reshape(-1, kernel.shape[-1]), precision=precision)
        return out.reshape(*patches.shape[:-1], kernel.shape[-1])
    taps = kernel.reshape(
        len(slices), *(1,) * (x.ndim - 1), x.shape[-1], -1
    )  # depthwise: [places, ..., channels, each]
    out = functools.reduce(jnp.add, (part[..., None] * tap for part, tap in zip(slices, taps, strict=True)))
    return out.reshape(*slices[0].shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, dimensions: Any, static: tuple) -> Array:
    precision, strides, pads, dilation, spread = static
    groups = x.shape[-1] // kernel.shape[-2]
    return lax.conv_general_dilated(
        x, kernel, strides, pads, spread, dilation, dimensions, feature_group_count=groups, precision=precision
    )


@functools.partial(_convolve.defjvp, symbolic_zeros=True)
def _tangent(dimensions: Any, static: tuple, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    del dimensions
    moving = [i for i, tangent in enumerate(tangents) if not isinstance(tangent, SymbolicZero)]

    def moved(*arguments: Array) -> Array:
        x, kernel = (dict(enumerate(primals)) | dict(zip(moving, arguments, strict=True))).values()
        return _unfolded(x, kernel, *static)

    return jax.jvp(moved, [primals[i] for i in moving], [tangents[i] for i in moving])


def convolve(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
) -> Array:
    """`jax.lax.conv_general_dilated` with fast derivatives on a CPU; for `flax.linen.Conv(conv_general_dilated=...)`.

    The values and all derivatives are those of `lax.conv_general_dilated`, in forward and in reverse mode, to any
    order. Cost: a differentiated convolution holds its patches, |kernel places| times the input.

    Dense and depthwise convolutions in Flax's layout (batch, space..., channels) run as matrix products when JAX's
    default backend is a CPU at the time of tracing; all else, and every other backend, is `lax.conv_general_dilated`.
    """
    space = lhs.ndim - 2
    strides, spread, dilation = (tuple(v or (1,) * space) for v in (window_strides, lhs_dilation, rhs_dilation))
    ends = (0, lhs.ndim - 1, *range(1, lhs.ndim - 1))
    layout = lax.ConvDimensionNumbers(ends, (lhs.ndim - 1, lhs.ndim - 2, *range(space)), ends)
    if (
        jax.default_backend() != "cpu"
        or feature_group_count not in (1, lhs.shape[-1])
        or batch_group_count != 1
        or preferred_element_type is not None
        or dimension_numbers is None
        or lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) != layout
        or (isinstance(padding, str) and max(spread) > 1)
    ):
        return lax.conv_general_dilated(
            lhs,
            rhs,
            window_strides,
            padding,
            lhs_dilation,
            rhs_dilation,
            dimension_numbers,
            feature_group_count,
            batch_group_count,
            precision,
            preferred_element_type,
        )
    if isinstance(padding, str):
        reach = [(k - 1) * d + 1 for k, d in zip(rhs.shape[:space], dilation, strict=True)]
        padding = lax.padtype_to_pads(lhs.shape[1:-1], reach, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolve(lhs, rhs, layout, (precision, strides, pads, dilation, spread))


def max_pool(x: Array, window: Sequence[int]) -> Array:
    """The maximum over disjoint windows of [B, space..., channels]; what does not fill a window is left out.

    The values are those of `flax.linen.max_pool(x, window, window)`. Where several entries of a window share the
    maximum the gradient is divided equally among them (Flax's goes to the first): another subgradient.
    """
    whole = [n // w for n, w in zip(x.shape[1:-1], window, strict=True)]
    x = x[(slice(None), *(slice(n * w) for n, w in zip(whole, window, strict=True)))]
    parts = itertools.chain.from_iterable(zip(whole, window, strict=True))
    return x.reshape(x.shape[0], *parts, x.shape[-1]).max(axis=tuple(range(2, 2 * len(whole) + 1, 2)))
