"""Flax modules as a `Model`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from pfljax import checks
from pfljax.models.initial import Init, drawn
from pfljax.models.kernels.rewrite import fast
from pfljax.types import Array, Model, Params, Tree

NORMS = (nn.BatchNorm, nn.GroupNorm, nn.InstanceNorm, nn.LayerNorm, nn.RMSNorm)
"""Module types that `Model.norms` lists."""


def standardize(x: Array, dtype: Any) -> Array:
    """Bytes in [0, 255] as numbers in [-1, 1]; anything else as it is."""
    return x.astype(dtype) / 127.5 - 1 if x.dtype == jnp.uint8 else x


def _trained(train: bool, mask: Array | None, end: str | None = None) -> Callable[..., Any]:
    """Tells each `BatchNorm` and `Dropout` that was not told by its module which mode this is, and which rows count.

    The block `end` hands on what it gets.
    """

    def intercept(call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        layer = context.module
        if context.method_name == "__call__" and layer.path == (end,):
            return args[0]
        if context.method_name == "__call__" and isinstance(layer, nn.BatchNorm):
            if layer.use_running_average is None:
                kwargs.setdefault("use_running_average", not train)
            if mask is not None and kwargs.get("mask") is None:
                kwargs["mask"] = mask.astype(bool).reshape(mask.shape + (1,) * (args[0].ndim - mask.ndim))
        if context.method_name == "__call__" and isinstance(layer, nn.Dropout) and layer.deterministic is None:
            kwargs.setdefault("deterministic", not train)
        return call(*args, **kwargs)

    return intercept


def _alone(block: nn.Module) -> nn.Module:
    """A block outside of its network, under the name that it has there: its parameters, its random numbers."""

    block = block.clone(parent=None, _deep_clone=True)

    class Alone(nn.Module):
        @nn.compact
        def __call__(self, *args: Any, **served: Any) -> Any:
            return block.clone(parent=self, _deep_clone=True)(*args, **served)

    return Alone()


class _Call(NamedTuple):
    """A module at work."""

    module: nn.Module
    args: tuple
    kwargs: dict
    outputs: Any


Calls = dict[tuple[str, ...], list[_Call]]
"""What the module at each path was called on."""


def _last(blocks: Sequence[str], calls: Calls, train: bool) -> _Call | None:
    """The call of the last block, if it reads one array, and what it gives is what the network gives."""
    [network], last = calls[()], calls.get(tuple(blocks[-1:]), [])
    if not blocks or len(last) != 1:
        return None
    [call] = last
    told = all(name == "train" and value is train for name, value in call.kwargs.items())
    plain = len(call.args) == 1 and hasattr(call.args[0], "shape") and told
    return call if plain and call.outputs is network.outputs else None


def _linen(
    module: Callable[[bool], nn.Module],
    dtype: Any,
    served: Collection[str],
    end: str | None = None,
) -> Callable[..., tuple[Tree, Tree]]:
    """`(params, x, *, train, mask, key) -> (outputs, new stats)` of a module.

    Args:
      module: what is called on x, by the mode.
      dtype: what it takes.
      served: which of the arguments `train` and `mask` it is given.
      end: a block whose inputs are the outputs.
    """
    floating = jnp.issubdtype(dtype, jnp.floating)

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
            given = {name: value for name, value in (("train", train), ("mask", mask)) if name in served}
            with nn.intercept_methods(_trained(train, mask, end)):
                return module(train).apply(collections, x, **given, **options, rngs=rngs)

        outputs = fast(forward)(params, x, mask, key)
        return (outputs[0], outputs[1]["batch_stats"]) if learns else (outputs, params.stats)

    return apply


@checks.by_hints()
def from_linen(
    module: nn.Module,
    shape: Sequence[int],
    dtype: Any = jnp.float32,
    *,
    blocks: Sequence[str] | None = None,
    init: Init = "flax",
) -> Model:
    """A Flax linen module as a `Model`.

    The module need not pass a mode or a mask around. In train mode its `BatchNorm` layers normalise by the unmasked
    rows of the batch and `apply` returns new running statistics; in eval mode they use the running ones, and `apply`
    returns the statistics that it got. Arguments `train` and `mask` of the module's `__call__` are served if it has
    them; a layer that was built or called with `use_running_average` or `deterministic` keeps what it was given.
    A train-mode batch without a single unmasked row has no statistics (NaN).

    The head is the last block, and the features are what it is called on. It must be a submodule that is called once,
    on one array (and `train`), and whose outputs are the network's as they are; otherwise the model has no features. A
    head of several layers is a submodule of its own.

    Args:
      module: called on inputs [B, *shape].
      shape: of one example.
      dtype: what the module takes. Where it is floating, examples stored as bytes (uint8) are mapped to [-1, 1] inside
        the model, so images stay bytes in memory; an integer dtype (tokens) leaves bytes alone.
      blocks: path prefixes of the basic blocks from input to output. Default: the module's own submodules that hold
        parameters, in the order of their calls.
      init: how layers start: `"flax"`, `"torch"`, `"glorot"`, `"he"`, or a function `(key, shape, dtype) -> kernel`,
        see `pfljax.models.initial.drawn`.

    Returns:
      A `Model` with `init(key)` and `apply(params, x, *, train=False, mask=None, key=None) -> (outputs, new stats)`.
      `key` feeds dropout. Convolutions and max-poolings are computed as `pfljax.models.fast` says: plain `nn.Conv`,
      `nn.ConvTranspose` and `nn.max_pool` profit as they are. `norms` are found by module type (see `NORMS`), at any
      depth.

    Raises:
      ValueError: if the module keeps variables other than parameters and running statistics, or if a name in `blocks`
        holds no parameters.

    >>> model = from_linen(nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), (3,))
    >>> model.blocks, model.features_shape
    (('layers_0', 'layers_2'), (4,))
    """
    served = inspect.signature(module.__call__).parameters.keys() & {"train", "mask"}

    def variables(key: Array, train: bool = False) -> Any:
        given = {name: {"train": train, "mask": None}[name] for name in served}
        with nn.intercept_methods(_trained(train, None)):
            return module.init({"params": key, "dropout": key}, jnp.zeros((1, *shape), dtype), **given)

    seen: dict[str, type[nn.Module]] = {}

    def recorded(train: bool) -> tuple[dict[str, Tree], Calls]:
        calls: Calls = {}

        def record(call: Callable[..., Any], args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
            path = context.module.path
            for depth in range(1, len(path) + 1):
                seen.setdefault("/".join(path[:depth]), nn.Module)
            seen["/".join(path)] = type(context.module)
            outputs = call(*args, **kwargs)
            if context.method_name == "__call__":
                calls.setdefault(path, []).append(_Call(context.module, args, kwargs, outputs))
            return outputs

        with nn.intercept_methods(record):
            return jax.eval_shape(lambda: variables(jax.random.key(0), train)), calls

    made, calls = recorded(train=False)
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
    layers = {path: of_path[0].module for path, of_path in calls.items()}

    def begin(key: Array) -> Params:
        made_of = variables(key)
        trainable = drawn(made_of.get("params", {}), layers, init, jax.random.fold_in(key, 1))
        return Params(trainable, made_of.get("batch_stats", {}))

    modes = {False: calls, True: recorded(train=True)[1] if "train" in served else calls}
    last = {train: call for train, made in modes.items() if (call := _last(blocks, made, train))}
    if len(last) < len(modes):
        return Model(begin, None, _linen(lambda train: module, dtype, served), tuple(blocks), norms)
    tops = {train: _alone(call.module) for train, call in last.items()}
    features = _linen(lambda train: module, dtype, served, end=blocks[-1])
    head = _linen(tops.__getitem__, dtype, last[True].kwargs.keys())
    return Model(begin, features, head, tuple(blocks), norms, last[True].args[0].shape[1:])
