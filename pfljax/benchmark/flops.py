"""Floating-point operations of a function: its matrix products and convolutions, counted in its jaxpr.

The count is mathematical: what the compiler makes of the program does not matter. Left out are a convolution's products
with padding, and those of two vectors or with a scalar. Loops are counted as often as they run where that follows from
numbers that are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from pfljax.types import Tree


class Unknown(Exception):
    """A loop whose length depends on values that are not known."""


def count(function: Callable[..., Tree], *args: Tree, known: Mapping[int, int] | None = None) -> float:
    """Multiplications and additions in the matrix products of `function(*args)`.

    Args:
      function: anything that JAX can trace.
      *args: arrays or their shapes.
      known: values of scalar arguments, by their place.

    Raises:
      Unknown: if a loop's length does not follow from the known values.

    >>> count(lambda x, n: jax.lax.fori_loop(0, n, lambda i, x: x @ x, x), np.ones((2, 2)), 0, known={1: 3})
    48.0
    """
    closed = jax.make_jaxpr(function)(*args)
    places = [place for place, arg in enumerate(args) for _ in jax.tree.leaves(arg)]
    values = [(known or {}).get(place) for place in places]
    return _count(closed, [None if value is None else np.asarray(value) for value in values])[0]


def _count(closed: ClosedJaxpr | Jaxpr, values: list[np.ndarray | None]) -> tuple[float, list[np.ndarray | None]]:
    """The operations of a program, and its results where they are known scalars."""
    jaxpr, consts = (closed.jaxpr, closed.consts) if isinstance(closed, ClosedJaxpr) else (closed, [])
    scalars = [np.asarray(value) if np.size(value) == 1 and _plain(value) else None for value in consts]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*scalars, *values], strict=True))

    def read(atom: Any) -> np.ndarray | None:
        return np.asarray(atom.val) if isinstance(atom, Literal) else known.get(atom)

    total = 0.0
    for equation in jaxpr.eqns:
        inputs = [read(atom) for atom in equation.invars]
        flops, outputs = _equation(equation, inputs)
        total += flops
        known |= dict(zip(equation.outvars, outputs, strict=True))
    return total, [read(atom) for atom in jaxpr.outvars]


def _plain(value: Any) -> bool:
    return not jnp.issubdtype(getattr(value, "dtype", np.float32), jax.dtypes.extended)


def _equation(equation: Any, inputs: list[np.ndarray | None]) -> tuple[float, list[np.ndarray | None]]:
    name, params = equation.primitive.name, equation.params
    nothing: list[np.ndarray | None] = [None] * len(equation.outvars)
    if name in _PRODUCTS:
        return _PRODUCTS[name](equation), nothing
    if name == "while":
        return _while(params, inputs), nothing
    if name == "scan":
        consts = params["num_consts"]
        values = [*inputs[:consts], *[None] * (len(inputs) - consts)]
        return params["length"] * _count(params["jaxpr"], values)[0], nothing
    if name == "cond":
        branches = [_count(branch, inputs[1:])[0] for branch in params["branches"]]
        if inputs[0] is None:
            return max(branches), nothing
        return branches[int(np.clip(inputs[0], 0, len(branches) - 1))], nothing
    for inner in params.values():
        jaxpr = getattr(inner, "jaxpr", inner)
        if isinstance(jaxpr, Jaxpr) and len(jaxpr.invars) == len(inputs):
            return _count(inner, inputs)
    scalar = all(value is not None for value in inputs) and all(
        math.prod(var.aval.shape) == 1 and _plain(var.aval) for var in equation.outvars
    )
    if not scalar:
        return 0.0, nothing
    out = equation.primitive.bind(*inputs, **params)
    return 0.0, [np.asarray(value) for value in (out if equation.primitive.multiple_results else [out])]


def _while(params: Mapping[str, Any], inputs: list[np.ndarray | None]) -> float:
    """The body of a loop `while i < n: i += 1`, n - i times."""
    conditions, constants = params["cond_nconsts"], params["body_nconsts"]
    state = inputs[conditions + constants :]
    body = params["body_jaxpr"]
    once = _count(body, [*inputs[conditions : conditions + constants], *[None] * len(state)])[0]
    if not once:
        return 0.0
    test = params["cond_jaxpr"].jaxpr
    known = dict(zip(test.invars, [*inputs[:conditions], *state], strict=True))
    if len(test.eqns) != 1 or test.eqns[0].primitive.name != "lt":
        raise Unknown("a loop that is no count")
    low, high = (atom.val if isinstance(atom, Literal) else known[atom] for atom in test.eqns[0].invars)
    if low is None or high is None:
        raise Unknown("a loop of unknown length")
    return max(0, int(high) - int(low)) * once


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, math.prod(equation.outvars[0].aval.shape)
    return 0.0 if out == 1 or not contracted else 2.0 * out * math.prod(left[axis] for axis in contracted)


def _convolution(equation: Any) -> float:
    params, (x, kernel) = equation.params, (atom.aval.shape for atom in equation.invars)
    out, numbers = equation.outvars[0].aval.shape, params["dimension_numbers"]
    batch, channels, *space = numbers.out_spec
    pairs = math.prod(
        _pairs(*sides)
        for sides in zip(
            (x[axis] for axis in numbers.lhs_spec[2:]),
            (kernel[axis] for axis in numbers.rhs_spec[2:]),
            (out[axis] for axis in space),
            params["window_strides"],
            (low for low, _ in params["padding"]),
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    )
    return 2.0 * pairs * out[batch] * out[channels] * kernel[numbers.rhs_spec[1]]


def _form(equation: Any) -> float:
    """`pfljax.models.kernels.convolve`: the convolution and its two derivatives multiply the same pairs."""
    form = equation.params["form"]
    x, kernel, out = form.shapes
    lows = (low for low, _ in form.pads)
    sides = zip(x[1:-1], kernel[:-2], out[1:-1], form.strides, lows, form.spread, form.dilation, strict=True)
    clients = equation.outvars[0].aval.shape[0] if equation.params["clients"] else 1
    return 2.0 * clients * math.prod(_pairs(*side) for side in sides) * x[0] * kernel[-2] * kernel[-1]


def _pairs(x: int, kernel: int, out: int, stride: int, low: int, spread: int, dilation: int) -> int:
    """Pairs of an output and a place of the kernel that meet an element of the input, along one axis."""
    places = np.arange(out)[:, None] * stride - low + np.arange(kernel) * dilation
    return int(np.sum((places >= 0) & (places <= (x - 1) * spread) & (places % spread == 0)))


_PRODUCTS = {"dot_general": _dot, "conv_general_dilated": _convolution, "convolve": _form}
