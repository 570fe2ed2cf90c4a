"""A linear layer and the layer norm after it, for the small networks that methods put beside a model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pfljax.types import Array, Tree


def linear(key: Array, inputs: int, outputs: int, dtype: Any) -> Tree:
    """`W` [inputs, outputs] drawn by LeCun and `b` of zeros, with the `scale` and `shift` of a norm after them."""
    zeros = jnp.zeros(outputs, dtype)
    W = jax.nn.initializers.lecun_normal()(key, (inputs, outputs), dtype)
    return {"W": W, "b": zeros, "scale": zeros + 1, "shift": zeros}


def layer_norm(x: Array, net: Tree, eps: float = 1e-5) -> Array:
    """`scale (x - mean) / sqrt(var + eps) + shift` over the last axis, by the leaves of `linear`.

    >>> net = linear(jax.random.key(0), 1, 3, float)
    >>> [round(float(x), 4) for x in layer_norm(jnp.array([1.0, 3.0, 0.0]), net)]
    [-0.2673, 1.3363, -1.069]
    """
    away = x - jnp.mean(x, axis=-1, keepdims=True)
    unit = away / jnp.sqrt(jnp.mean(jnp.square(away), axis=-1, keepdims=True) + eps)
    ahead = (None,) * (x.ndim - 1)
    return unit * net["scale"][ahead] + net["shift"][ahead]
