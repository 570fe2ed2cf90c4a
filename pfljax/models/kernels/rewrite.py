"""Fast convolution and pooling in place of XLA's, in a function that knows nothing of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import core
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from pfljax.models.kernels.convolve import convolve
from pfljax.models.kernels.pool import reduce_window_max
from pfljax.types import Array

LARGEST = 25
"""Entries of the largest window whose pooling is written as slices."""

_INSIDE = ("jit", "pjit", "closed_call", "scan", "while", "cond", "core_call")
"""Primitives whose functions are rewritten too. Functions with derivatives of their own stay as they are."""


def _convolution(lhs: Array, rhs: Array, **params: Any) -> Array:
    params.pop("out_sharding", None)
    return convolve(lhs, rhs, **params)


def _max_pool(x: Array, *, window_dimensions: Any, window_strides: Any, padding: Any, **dilations: Any) -> Array | None:
    dilated = any(max(dilations[name]) > 1 for name in ("base_dilation", "window_dilation"))
    if dilated or math.prod(window_dimensions) > LARGEST or not jnp.issubdtype(x.dtype, jnp.floating):
        return None
    return reduce_window_max(x, window_dimensions, window_strides, padding)


_RULES: dict[str, Callable[..., Array | None]] = {
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
}


def _concerned(jaxpr: Any) -> bool:
    return any(
        eqn.primitive.name in _RULES
        or (eqn.primitive.name in _INSIDE and any(_concerned(inner.jaxpr) for inner in _functions(eqn)))
        for eqn in jaxpr.eqns
    )


def _functions(eqn: Any) -> list[ClosedJaxpr]:
    return [leaf for leaf in jax.tree.leaves(eqn.params, is_leaf=_closed) if _closed(leaf)]


def _closed(value: Any) -> bool:
    return isinstance(value, ClosedJaxpr)


def _inside(value: Any) -> Any:
    if not _closed(value) or not _concerned(value.jaxpr):
        return value
    arguments = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in value.in_avals]
    return jax.make_jaxpr(lambda *operands: _run(value, operands))(*arguments)


def _run(closed: ClosedJaxpr, operands: Any) -> list[Any]:
    """The values of a traced function, one operation after another, those with a rule by their rule."""
    values = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(closed.jaxpr.invars, operands, strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, Literal) else values[var]

    for eqn in closed.jaxpr.eqns:
        name, inputs = eqn.primitive.name, [read(var) for var in eqn.invars]
        outputs = _RULES[name](*inputs, **eqn.params) if name in _RULES else None
        if outputs is None:
            if name in _INSIDE:
                inner = {key: jax.tree.map(_inside, value, is_leaf=_closed) for key, value in eqn.params.items()}
            else:
                inner = eqn.params
            free = [var for var in eqn.invars if not isinstance(var, Literal)]
            alone = closed.jaxpr.replace(
                constvars=[], invars=free, outvars=eqn.outvars, eqns=[eqn.replace(params=inner)], effects=eqn.effects
            )
            outputs = core.eval_jaxpr(alone, (), *(values[var] for var in free))
        else:
            outputs = [outputs]
        values |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(var) for var in closed.jaxpr.outvars]


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays with each of its convolutions and max-poolings replaced by a faster one.

    Values and derivatives are the same; see `convolve` and `max_pool`. It does not matter which library wrote the
    function, nor whether it calls them inside of `jit`, `scan`, `cond` or `while_loop`. What stays as it is: functions
    with a derivative of their own (`custom_jvp`, `custom_vjp`), rematerialised ones (`jax.checkpoint`), layouts other
    than (batch, space..., channels), windows of more than `LARGEST` entries.
    """

    def call(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        leaves = jax.tree.leaves(args)
        outputs = _run(closed, leaves) if _concerned(closed.jaxpr) else jaxpr_as_fun(closed)(*leaves)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return call
