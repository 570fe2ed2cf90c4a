"""Flax modules as the `Model` pair of functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from pfljax import checks
from pfljax.models.kernels.rewrite import fast
from pfljax.types import Array, Model, Params, Tree

NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm)
"""Module types that `Model.norms` lists."""


def standardize(x: Array, dtype: Any) -> Array:
    """Bytes in [0, 255] as numbers in [-1, 1]; anything else as it is."""
    return x.astype(dtype) / 127.5 - 1 if x.dtype == jnp.uint8 else x


def _trained(train: bool, mask: Array | None) -> Callable[..., Any]:
    """Tells each `BatchNorm` and `Dropout` that was not told by its module which mode this is, and which rows count."""

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if context.method_name == "__call__" and isinstance(layer, nn.BatchNorm):
            if layer.use_running_average is None:
                kwargs.setdefault("use_running_average", not train)
            if mask is not None and kwargs.get("mask") is None:
                kwargs["mask"] = mask.astype(bool).reshape(mask.shape + (1,) * (args[0].ndim - mask.ndim))
        if context.method_name == "__call__" and isinstance(layer, nn.Dropout) and layer.deterministic is None:
            kwargs.setdefault("deterministic", not train)
        return call(*args, **kwargs)

    return intercept


@checks.by_hints()
def from_linen(
    module: nn.Module, shape: Sequence[int], dtype: Any = jnp.float32, *, blocks: Sequence[str] | None = None
) -> Model:
    """A Flax linen module as a `Model`.

    The module need not pass a mode or a mask around. In train mode its `BatchNorm` layers normalise by the unmasked
    rows of the batch and `apply` returns new running statistics; in eval mode they use the running ones, and `apply`
    returns the statistics that it got. Arguments `train` and `mask` of the module's `__call__` are served if it has
    them; a layer that was built or called with `use_running_average` or `deterministic` keeps what it was given.
    A train-mode batch without a single unmasked row has no statistics (NaN).

    Args:
      module: called on inputs [B, *shape].
      shape: of one example.
      dtype: what the module takes. Where it is floating, examples stored as bytes (uint8) are mapped to [-1, 1] inside
        `apply`, so images stay bytes in memory; an integer dtype (tokens) leaves bytes alone.
      blocks: path prefixes of the basic blocks from input to output. Default: the module's own submodules that hold
        parameters, in the order of their calls.

    Returns:
      A `Model` with `init(key)` and `apply(params, x, *, train=False, mask=None, key=None) -> (outputs, new stats)`.
      `key` feeds dropout. Convolutions and max-poolings are computed as `pfljax.models.fast` says: plain `nn.Conv`,
      `nn.ConvTranspose` and `nn.max_pool` profit as they are. `norms` are found by module type (see `NORMS`), at any
      depth.

    Raises:
      ValueError: if the module keeps variables other than parameters and running statistics, or if a name in `blocks`
        holds no parameters.
    """
    accepted = inspect.signature(module.__call__).parameters
    floating = jnp.issubdtype(dtype, jnp.floating)

    def call(function: Callable[..., Any], x: Array, train: bool, mask: Array | None) -> Any:
        served = {name: value for name, value in (("train", train), ("mask", mask)) if name in accepted}
        with nn.intercept_methods(_trained(train, mask)):
            return function(x, **served)

    def variables(key: Array) -> dict[str, Tree]:
        return call(lambda *x, **served: module.init(key, *x, **served), jnp.zeros((1, *shape), dtype), False, None)

    def init(key: Array) -> Params:
        made = variables(key)
        return Params(made.get("params", {}), made.get("batch_stats", {}))

    def apply(
        params: Params, x: Array, *, train: bool = False, mask: Array | None = None, key: Array | None = None
    ) -> tuple[Tree, Tree]:
        if floating:
            leaves = jax.tree.leaves(params.trainable)
            x = standardize(x, leaves[0].dtype if leaves else dtype)
        learns = train and bool(params.stats)
        options: dict[str, Any] = {"mutable": ["batch_stats"]} if learns else {}

        def forward(params: Params, x: Array, mask: Array | None, key: Array | None) -> Any:
            collections = {"params": params.trainable, "batch_stats": params.stats}
            rngs = None if key is None else {"dropout": key}
            return call(lambda *a, **k: module.apply(collections, *a, **k, **options, rngs=rngs), x, train, mask)

        outputs = fast(forward)(params, x, mask, key)
        return (outputs[0], outputs[1]["batch_stats"]) if learns else (outputs, params.stats)

    seen: dict[str, type[nn.Module]] = {}

    def record(call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        for depth in range(1, len(context.module.path) + 1):
            seen.setdefault("/".join(context.module.path[:depth]), nn.Module)
        seen["/".join(context.module.path)] = type(context.module)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        made = jax.eval_shape(lambda: variables(jax.random.key(0)))
    if unknown := set(made) - {"params", "batch_stats"}:
        raise ValueError(f"module keeps {sorted(unknown)}, but a model holds parameters and running statistics only")
    held = {
        "/".join(str(part.key) for part in path[:depth])
        for collection in made.values()
        for path, _ in jax.tree_util.tree_leaves_with_path(collection)
        for depth in range(1, len(path))
    }
    if missing := [block for block in blocks or () if block not in held]:
        raise ValueError(f"blocks {missing} hold no parameters; these do: {sorted(held)}")
    if blocks is None:
        blocks = [path for path in seen if path in held and "/" not in path]
    norms = tuple(path for path, kind in seen.items() if issubclass(kind, NORMS) and path in held)
    return Model(init, apply, tuple(blocks), norms)
