"""Modules of Flax's `nnx` as a `Model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from pfljax import checks
from pfljax.models.linen import standardize
from pfljax.types import Array, Model, Params, Tree

_NORMS = (nnx.GroupNorm, nnx.InstanceNorm, nnx.LayerNorm, nnx.RMSNorm)
_KEPT = (nnx.Param, nnx.RngState)


@checks.by_hints()
def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module], shape: Sequence[int], dtype: Any = jnp.float32, *, head: str | None = None
) -> Model:
    """A module of Flax's `nnx` as a `Model`.

    The features are what the head is called on. It must be called once, on one array, and give what the network gives
    as it is; otherwise the model has no features. Dropout is fed by the key of a step and is off in tests.

    Args:
      make: random numbers -> the module, such as `lambda rngs: Network(10, rngs=rngs)`; called on inputs [B, *shape].
      shape: of one example.
      dtype: what the module takes; where it is floating, bytes become numbers in [-1, 1].
      head: the block that is the head; the last one in the order of their making if None.

    Returns:
      A `Model` whose blocks are the attributes of the module that hold parameters, `layers/2` in a list.

    Raises:
      ValueError: if the module has batch norm, whose statistics would count padded rows, keeps variables other than
        parameters and random numbers, or has no such head.

    >>> network = lambda rngs: nnx.Sequential(nnx.Linear(3, 4, rngs=rngs), nnx.relu, nnx.Linear(4, 2, rngs=rngs))
    >>> model = from_nnx(network, (3,))
    >>> model.blocks, model.features_shape
    (('layers/0', 'layers/2'), (4,))
    """
    places: list[str] = []

    def build() -> nnx.Module:
        module = make(nnx.Rngs(0))
        places.extend(_places(module))
        return module

    whole = nnx.eval_shape(build)
    layers = {"/".join(map(str, path)): layer for path, layer in nnx.iter_modules(whole)}
    if any(isinstance(layer, nnx.BatchNorm) for layer in layers.values()):
        raise ValueError("batch norm of nnx counts padded rows: use nnx.GroupNorm, or a linen module with from_linen")
    graph, weights, _, others = nnx.split(whole, *_KEPT, ...)
    if kept := sorted({type(leaf).__name__ for _, leaf in nnx.to_flat_state(others)}):
        raise ValueError(f"module keeps {kept}, but a model holds parameters and random numbers only")
    paths = ["/".join(map(str, path)) for path in _flat(weights)]
    blocks = tuple(place for place in places if any(path.startswith(f"{place}/") for path in paths))
    top = blocks[-1] if head is None else checks.choice(head, blocks, "head")
    floating = jnp.issubdtype(dtype, jnp.floating)

    def module(params: Params, train: bool, key: Array | None) -> Any:
        given = traverse_util.flatten_dict(params.trainable)
        state = jax.tree.map(lambda leaf: leaf, weights)
        values = {path: given[tuple(map(str, path))] for path in _flat(weights)}
        nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(values))
        random = nnx.split(make(nnx.Rngs(jax.random.key(0) if key is None else key)), *_KEPT)[2]
        merged = nnx.merge(graph, state, random)
        merged.train() if train else merged.eval()
        return merged

    def init(key: Array) -> Params:
        drawn = _flat(nnx.split(make(nnx.Rngs(key)), *_KEPT)[1])
        return Params(traverse_util.unflatten_dict({tuple(map(str, path)): leaf for path, leaf in drawn.items()}))

    def part(take: Callable[[Any, Array], Tree]) -> Callable[..., tuple[Tree, Tree]]:
        def apply(
            params: Params, x: Array, *, train: bool = False, mask: Array | None = None, key: Array | None = None
        ) -> tuple[Tree, Tree]:
            del mask
            x = standardize(x, jax.tree.leaves(params.trainable)[0].dtype) if floating else x
            return take(module(params, train, key), x), params.stats

        return apply

    def below(network: Any, x: Array) -> Tree:
        _exchange(network, top, lambda z: z)
        return network(x)

    def watched(params: Params, x: Array) -> list[Array]:
        network, seen = module(params, False, None), []
        layer = _at(network, top)

        def watching(z: Array) -> Array:
            seen.append((z, layer(z)))
            return seen[-1][1]

        _exchange(network, top, watching)
        outputs = network(x)
        return [seen[0][0]] if len(seen) == 1 and seen[0][1] is outputs else []

    read = jax.eval_shape(watched, jax.eval_shape(init, jax.random.key(0)), jax.ShapeDtypeStruct((1, *shape), dtype))
    norms = tuple(path for path, layer in layers.items() if isinstance(layer, _NORMS))
    ordered = (*(block for block in blocks if block != top), top)
    if not read:
        return Model(init, None, part(lambda network, x: network(x)), ordered, norms)
    return Model(init, part(below), part(lambda network, z: _at(network, top)(z)), ordered, norms, read[0].shape[1:])


def _places(module: nnx.Module) -> Iterator[str]:
    """Attributes of a module, and places in its lists, in the order of their making."""
    for name, value in vars(module).items():
        yield from [f"{name}/{place}" for place in range(len(value))] if isinstance(value, nnx.List) else [name]


def _flat(state: Any) -> dict[tuple, Any]:
    return dict(traverse_util.flatten_dict(nnx.to_pure_dict(state)))


def _at(module: Any, path: str) -> Any:
    """The layer at a path."""
    for part in path.split("/"):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module


def _exchange(module: Any, path: str, layer: Callable[[Array], Tree]) -> None:
    """Puts another layer there."""
    above, _, part = path.rpartition("/")
    if above:
        _at(module, above)[int(part)] = layer
    else:
        setattr(module, part, layer)
