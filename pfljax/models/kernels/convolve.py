"""Convolution as one trilinear form, so that each of its derivatives can be computed in the way that is fast.

With `y = conv(x, k)` and a cotangent g, the form `T(x, k, g) = <conv(x, k), g>` is linear in each argument. Its
derivative with respect to g is the convolution, to k the gradient of the kernel, to x the gradient of the input, and
the transpose of any of the three is another one of them. One primitive stands for all three, under `jax.grad` of any
order, `jax.jvp` and `jax.vmap`; only at compile time, when the platform is known, is it decided how to compute it
(`VARIANTS`). The numbers are those of `jax.lax.conv_general_dilated`.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import core, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from pfljax.types import Array

NARROW = 8
"""Channels up to which a matrix product beats XLA's convolution: those of a group in, or those of the output."""

WIDE = 32
"""Outputs that keep a matrix product busy; narrower convolutions compute neighbours together."""

X, KERNEL, OUT = range(3)
"""The arguments of the form: x [B, *space, channels], kernel [*places, channels / groups, O], out [B, *space', O]."""


class Form(NamedTuple):
    """What is fixed about a convolution."""

    shapes: tuple[tuple[int, ...], ...]  # of x, kernel, out
    strides: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]  # dilation of x
    dilation: tuple[int, ...]  # of the kernel
    groups: int
    precision: Any


def _layout(ndim: int) -> lax.ConvDimensionNumbers:
    ends = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(ends, (ndim - 1, ndim - 2, *range(ndim - 2)), ends)


def _xla(x: Array, kernel: Array, form: Form) -> Array:
    """The convolution by XLA."""
    return lax.conv_general_dilated(
        x,
        kernel,
        form.strides,
        form.pads,
        form.spread,
        form.dilation,
        _layout(x.ndim),
        feature_group_count=form.groups,
        precision=form.precision,
    )


def _slices(x: Array, form: Form) -> list[Array]:
    """What each place of the kernel sees of x: arrays [B, *space', channels] in the order of the kernel's places."""
    inner = [(low, high, d - 1) for (low, high), d in zip(form.pads, form.spread, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])
    places, space = form.shapes[KERNEL][:-2], form.shapes[OUT][1:-1]
    last = [(n - 1) * s + 1 for n, s in zip(space, form.strides, strict=True)]
    return [
        lax.slice(
            x,
            (0, *start, 0),
            (x.shape[0], *(i + end for i, end in zip(start, last, strict=True)), x.shape[-1]),
            (1, *form.strides, 1),
        )
        for start in itertools.product(*(range(0, k * d, d) for k, d in zip(places, form.dilation, strict=True)))
    ]


def _patches(x: Array, kernel: Array, form: Form) -> Array:
    """The convolution as one matrix product of the unfolded input and the kernel, for each group."""
    places, groups, outputs = math.prod(kernel.shape[:-2]), form.groups, kernel.shape[-1]
    if kernel.shape[-2] == 1 < groups:
        taps = kernel.reshape(places, *(1,) * (x.ndim - 1), groups, -1)
        terms = (part[..., None] * tap for part, tap in zip(_slices(x, form), taps, strict=True))
        return functools.reduce(jnp.add, terms).reshape(form.shapes[OUT])
    if groups == 1:
        unfolded = jnp.concatenate(_slices(x, form), axis=-1).reshape(-1, places * x.shape[-1])
        return jnp.dot(unfolded, kernel.reshape(-1, outputs), precision=form.precision).reshape(form.shapes[OUT])
    unfolded = jnp.stack(_slices(x, form)).reshape(places, -1, groups, kernel.shape[-2])
    kernel = kernel.reshape(places, -1, groups, outputs // groups)
    return jnp.einsum("pngc,pcgo->ngo", unfolded, kernel, precision=form.precision).reshape(form.shapes[OUT])


def _transposed(forward: Callable[..., Array], missing: int, form: Form, a: Array, b: Array) -> Array:
    """The derivative of the form with respect to `missing`, by transposing the convolution `forward`."""
    if missing == OUT:
        return forward(a, b, form)
    wanted = jax.ShapeDtypeStruct(form.shapes[missing], b.dtype)
    if missing == KERNEL:
        return jax.linear_transpose(lambda kernel: forward(a, kernel, form), wanted)(b)[0]
    return jax.linear_transpose(lambda x: forward(x, a, form), wanted)(b)[0]


def _extent(form: Form) -> list[int]:
    """The size of x once dilated."""
    return [(n - 1) * d + 1 for n, d in zip(form.shapes[X][1:-1], form.spread, strict=True)]


def _kernel_gradient(x: Array, g: Array, form: Form) -> Array:
    """A convolution whose batch axis is the channels: x [channels, *space, B] with g [*space', B, O]."""
    ends, space = x.ndim - 1, range(1, x.ndim - 1)
    places = form.shapes[KERNEL][:-2]
    geometry = zip(_extent(form), g.shape[1:-1], places, form.strides, form.dilation, form.pads, strict=True)
    pads = [(low, (n - 1) * s + 1 + (k - 1) * d - low - size) for size, n, k, s, d, (low, _) in geometry]
    swapped = lax.conv_general_dilated(
        x.transpose(ends, *space, 0),
        g.transpose(*space, 0, ends),
        form.dilation,
        pads,
        form.spread,
        form.strides,
        _layout(x.ndim),
        precision=form.precision,
    )
    return swapped.transpose(*space, 0, ends)


def _input_gradient(kernel: Array, g: Array, form: Form) -> Array:
    """A convolution of g with the flipped kernel; or, where that is more work, products folded axis by axis."""
    places, space = kernel.shape[:-2], range(kernel.ndim - 2)
    reach = [(k - 1) * d for k, d in zip(places, form.dilation, strict=True)]
    inputs = form.shapes[X][1:-1]
    if math.prod(inputs) <= 1.2 * math.prod(g.shape[1:-1]) and set(form.strides) == {1}:
        pads = [
            (r - low, size + low - n)
            for r, (low, _), size, n in zip(reach, form.pads, _extent(form), g.shape[1:-1], strict=True)
        ]
        return lax.conv_general_dilated(
            g,
            lax.rev(kernel, tuple(space)).swapaxes(-1, -2),
            form.spread,
            pads,
            None,
            form.dilation,
            _layout(g.ndim),
            precision=form.precision,
        )
    columns = jnp.dot(g.reshape(-1, g.shape[-1]), kernel.reshape(-1, g.shape[-1]).T, precision=form.precision)
    columns = columns.reshape(*g.shape[:-1], *places, -1)
    zero = jnp.zeros((), columns.dtype)
    steps = zip(form.strides, form.dilation, form.spread, strict=True)
    geometry = zip(_extent(form), g.shape[1:-1], places, steps, form.pads, strict=True)
    for axis, (size, n, k, (s, d, spread), (low, _)) in enumerate(geometry, 1):
        terms = []
        for place in range(k):
            part = lax.index_in_dim(columns, place, g.ndim - 1, keepdims=False)
            first = place * d - low
            config = [(0, 0, 0)] * part.ndim
            config[axis] = (first, size - first - (n - 1) * s - 1, s - 1)
            terms.append(lax.pad(part, zero, config))
        columns = lax.slice_in_dim(functools.reduce(jnp.add, terms), 0, size, spread, axis)
    return columns


def _neighbours(form: Form) -> int:
    """How many neighbours on the last axis of space to compute together: a divisor of its size."""
    if form.shapes[KERNEL][-3] == 1 or form.dilation[-1] > 1:
        return 1
    most = max(1, WIDE // form.shapes[KERNEL][-1])
    return max(times for times in range(1, most + 1) if form.shapes[OUT][-2] % times == 0)


def _together(
    compute: Callable[[Array, Array, Form], Array], times: int, missing: int, form: Form, a: Array, b: Array
) -> Array:
    """`compute` of a convolution with `times` as many outputs and as many times the stride.

    Its kernel has a copy of the kernel for each neighbour, shifted by the stride, and zeros elsewhere; its output is
    the same array in another shape.
    """
    x, kernel, out = form.shapes
    stride = form.strides[-1]
    reach = (times - 1) * stride

    def shifted(kernel: Array) -> Array:
        still = [(0, 0)] * (kernel.ndim - 3)
        shifts = (((start, reach - start), (0, 0), (0, 0)) for start in range(0, reach + 1, stride))
        return jnp.concatenate([jnp.pad(kernel, [*still, *shift]) for shift in shifts], axis=-1)

    wide = (*kernel[:-3], kernel[-3] + reach, kernel[-2], times * kernel[-1])
    shapes = (x, wide, (*out[:-2], out[-2] // times, times * out[-1]))
    form = form._replace(shapes=shapes, strides=(*form.strides[:-1], times * stride))
    if missing == OUT:
        return compute(a, shifted(b), form).reshape(out)
    b = b.reshape(form.shapes[OUT])
    if missing == X:
        return compute(shifted(a), b, form)
    return jax.linear_transpose(shifted, jax.ShapeDtypeStruct(kernel, a.dtype))(compute(a, b, form))[0]


def _single(missing: int, form: Form, a: Array, b: Array) -> Array:
    """One group. XLA is slow where outputs are few, or inputs odd in number, as colours are; a product is not."""
    channels, outputs = form.shapes[KERNEL][-2:]
    compute, times = (_input_gradient, _kernel_gradient, _xla)[missing], _neighbours(form)
    if missing == OUT and channels > 1 and channels % 2 == 1 and outputs <= WIDE:
        compute = _patches
    if outputs % NARROW == 0 and (channels > NARROW, channels <= NARROW, False)[missing]:
        times = 1
    return _together(compute, times, missing, form, a, b)


def _direct(missing: int, form: Form, a: Array, b: Array) -> Array:
    """What runs fast on a CPU for one client: convolutions in XLA's native layout, products; one group at a time."""
    if form.groups == 1:
        return _single(missing, form, a, b)
    if form.shapes[KERNEL][-2] <= NARROW:
        return _transposed(_patches, missing, form, a, b)
    groups = form.groups

    def cut(value: Array) -> Array:
        """The groups of the last axis first."""
        return jnp.moveaxis(value.reshape(*value.shape[:-1], groups, -1), -2, 0)

    x, kernel, out = form.shapes
    kernel = (*kernel[:-1], kernel[-1] // groups)
    shapes = ((*x[:-1], x[-1] // groups), kernel, (*out[:-1], kernel[-1]))
    one = form._replace(shapes=shapes, groups=1)
    parts = lax.map(lambda pair: _direct(missing, one, *pair), (cut(a), cut(b)))
    return jnp.moveaxis(parts, 0, -2).reshape(form.shapes[missing])


VARIANTS: dict[str, Callable[..., Array]] = {
    "direct": _direct,
    "patches": functools.partial(_transposed, _patches),
    "xla": functools.partial(_transposed, _xla),
}
"""Ways to compute a derivative of the form. `"direct"` takes clients one after another, the others all at once."""

FASTEST = {"cpu": "direct"}
"""The variant of each platform, `"xla"` where none is named. What `python -m experiments.layers` measures."""


def _compute(a: Array, b: Array, *, missing: int, form: Form, clients: bool, platform: str | None) -> Array:
    name = os.environ.get("PFLJAX_CONVOLUTION") or FASTEST.get(platform or "", "xla")
    if name not in VARIANTS:
        raise ValueError(f"PFLJAX_CONVOLUTION={name!r} is not one of {sorted(VARIANTS)}")
    if clients and name == "direct":
        return lax.map(lambda pair: _direct(missing, form, *pair), (a, b))
    one = functools.partial(VARIANTS[name], missing, form)
    return jax.vmap(one)(a, b) if clients else one(a, b)


_form = Primitive("convolve")


@functools.cache
def _compiled(**params: Any) -> Callable[..., Array]:
    return jax.jit(functools.partial(_form.bind, **params))


@_form.def_impl
def _(a: Array, b: Array, **params: Any) -> Array:
    return _compiled(**params)(a, b)


@_form.def_abstract_eval
def _(a: Any, b: Any, *, missing: int, form: Form, clients: bool) -> Any:
    del b
    return core.ShapedArray((*a.shape[:clients], *form.shapes[missing]), a.dtype)


def _transpose(moving: int, cotangent: Any, *operands: Any, missing: int, form: Form, clients: bool) -> Any:
    """The operand in place `moving` becomes what is missing."""
    roles = [role for role in (X, KERNEL, OUT) if role != missing]
    known = {roles[1 - moving]: operands[1 - moving], missing: cotangent}
    a, b = (known[role] for role in sorted(known))
    return _form.bind(a, b, missing=roles[moving], form=form, clients=clients)


ad.defbilinear(
    _form,
    lambda cotangent, a, b, **params: _transpose(0, cotangent, a, b, **params),
    lambda cotangent, a, b, **params: _transpose(1, cotangent, a, b, **params),
)


def _batched(operands: Sequence[Array], axes: Sequence[Any], *, missing: int, form: Form, clients: bool) -> Any:
    """More clients; or a larger batch, where the kernel is one and the same."""
    (size,) = {a.shape[axis] for a, axis in zip(operands, axes, strict=True) if axis is not None}
    roles = [role for role in (X, KERNEL, OUT) if role != missing]
    fold = not clients and missing != KERNEL and axes[roles.index(KERNEL)] is None
    a, b = (
        a
        if fold and role == KERNEL
        else jnp.broadcast_to(a, (size, *a.shape))
        if axis is None
        else jnp.moveaxis(a, axis, 0)
        for a, axis, role in zip(operands, axes, roles, strict=True)
    )
    if fold:
        x, kernel, out = form.shapes
        wide = form._replace(shapes=((size * x[0], *x[1:]), kernel, (size * out[0], *out[1:])))
        a, b = (v if role == KERNEL else v.reshape(wide.shapes[role]) for v, role in zip((a, b), roles, strict=True))
        result = _form.bind(a, b, missing=missing, form=wide, clients=False)
        return result.reshape(size, *form.shapes[missing]), 0
    if clients:
        a, b = (v.reshape(-1, *v.shape[2:]) for v in (a, b))
        result = _form.bind(a, b, missing=missing, form=form, clients=True)
        return result.reshape(size, -1, *result.shape[1:]), 0
    return _form.bind(a, b, missing=missing, form=form, clients=True), 0


batching.primitive_batchers[_form] = _batched
for _platform in (None, *FASTEST):
    _lowering = mlir.lower_fun(functools.partial(_compute, platform=_platform), multiple_results=False)
    mlir.register_lowering(_form, _lowering, platform=_platform)


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
    """`jax.lax.conv_general_dilated` with fast derivatives; for `flax.linen.Conv(conv_general_dilated=...)`.

    The values and all derivatives are those of `lax.conv_general_dilated`, in forward and in reverse mode, to any
    order; where an input is not finite, outputs beside those that see it may be NaN as well. Convolutions in Flax's
    layout (batch, space..., channels) are computed by the variant that `FASTEST` names for the platform, or by the one
    in the environment variable `PFLJAX_CONVOLUTION` (`"direct"`, `"patches"` or `"xla"`), which is read when a program
    is compiled; all else is `lax.conv_general_dilated`.

    Raises:
      ValueError: if `PFLJAX_CONVOLUTION` names no variant, when the program is compiled.
    """
    space = lhs.ndim - 2
    strides, spread, dilation = (tuple(v or (1,) * space) for v in (window_strides, lhs_dilation, rhs_dilation))
    if (
        batch_group_count != 1
        or preferred_element_type not in (None, lhs.dtype)
        or lhs.dtype != rhs.dtype
        or not jnp.issubdtype(lhs.dtype, jnp.floating)
        or space < 1
        or 0 in lhs.shape
        or lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers) != _layout(lhs.ndim)
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
    form = Form((lhs.shape, rhs.shape, ()), strides, pads, spread, dilation, feature_group_count, precision)
    out = jax.eval_shape(functools.partial(_xla, form=form), lhs, rhs).shape
    if 0 in out:
        return _xla(lhs, rhs, form)
    return _form.bind(lhs, rhs, missing=OUT, form=form._replace(shapes=(lhs.shape, rhs.shape, out)), clients=False)
