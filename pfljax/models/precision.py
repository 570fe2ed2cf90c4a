"""The precision that a model computes in. What is learned, sent and averaged stays as it is stored."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.types import Model, Params, Tree

Precision = Literal["default", "float32", "tf32", "bfloat16"]
"""`default` is the device's own choice for float32 products: float32 on a CPU, less on an accelerator."""

_PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32"}

Part = Callable[..., tuple[Tree, Tree]]
"""Features or head of a model."""


def compute_in(model: Model, precision: Precision) -> Model:
    """`model` with matrix products in float32 or TF32, or with everything in bfloat16 from its inputs to its outputs.

    In bfloat16 the parameters are rounded inside of the model: gradients, optimizers, uploads and averages keep the
    dtype of the parameters, as do features, outputs, in which the loss is taken, and running statistics.

    Raises:
      ValueError: if there is no such precision.
    """
    checks.each(Precision, precision=precision)
    if precision == "default":
        return model

    convert = _rounded if precision == "bfloat16" else functools.partial(_in_products, _PRODUCTS[precision])
    features = None if model.features is None else functools.partial(convert, model.features)
    return model._replace(features=features, head=functools.partial(convert, model.head))


def _in_products(products: str, part: Part, params: Params, x: Tree, **mode: Any) -> tuple[Tree, Tree]:
    with jax.default_matmul_precision(products):
        return part(params, x, **mode)


def _rounded(part: Part, params: Params, x: Tree, **mode: Any) -> tuple[Tree, Tree]:
    halved = params._replace(trainable=_cast(params.trainable, jnp.bfloat16))
    outputs, stats = part(halved, _cast(x, jnp.bfloat16), **mode)
    wide = jnp.result_type(*jax.tree.leaves(params.trainable), jnp.float32)
    kept = jax.tree.map(lambda new, old: new.astype(old.dtype), stats, params.stats)
    return _cast(outputs, wide), kept


def _cast(values: Tree, dtype: jnp.dtype | type) -> Tree:
    """The floating leaves in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, values)
