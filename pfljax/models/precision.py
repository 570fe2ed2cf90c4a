"""The precision that a model computes in. What is learned, sent and averaged stays as it is stored."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.types import Array, Model, Params, Tree

Precision = Literal["default", "float32", "tf32", "bfloat16"]
"""`default` is the device's own choice for float32 products: float32 on a CPU, less on an accelerator."""

_PRODUCTS = {"float32": "highest", "tf32": "tensorfloat32"}


def compute_in(model: Model, precision: Precision) -> Model:
    """`model` with matrix products in float32 or TF32, or with everything in bfloat16 from its inputs to its outputs.

    In bfloat16 the parameters are rounded inside of `apply`: gradients, optimizers, uploads and averages keep the dtype
    of the parameters, as do the outputs, in which the loss is taken, and running statistics.

    Raises:
      ValueError: if there is no such precision.
    """
    checks.each(Precision, precision=precision)
    if precision == "default":
        return model

    def in_products(
        params: Params, x: Array, *, train: bool = False, mask: Array | None = None, key: Array | None = None
    ) -> tuple[Tree, Tree]:
        with jax.default_matmul_precision(_PRODUCTS[precision]):
            return model.apply(params, x, train=train, mask=mask, key=key)

    def rounded(
        params: Params, x: Array, *, train: bool = False, mask: Array | None = None, key: Array | None = None
    ) -> tuple[Tree, Tree]:
        outputs, stats = model.apply(
            params._replace(trainable=_cast(params.trainable, jnp.bfloat16)),
            _cast(x, jnp.bfloat16),
            train=train,
            mask=mask,
            key=key,
        )
        wide = jnp.result_type(*jax.tree.leaves(params.trainable), jnp.float32)
        kept = jax.tree.map(lambda new, old: new.astype(old.dtype), stats, params.stats)
        return _cast(outputs, wide), kept

    return model._replace(apply=rounded if precision == "bfloat16" else in_products)


def _cast(values: Tree, dtype: jnp.dtype | type) -> Tree:
    """The floating leaves in another dtype."""
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, values)
