"""How the parameters of a network start."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from pfljax.models.layers import Classifier, Recurrent
from pfljax.types import Array, Tree

Init = Literal["flax", "torch", "glorot", "he"] | Callable[[Array, tuple[int, ...], Any], Array]
"""How the layers of a network start, see `drawn`."""

_KERNELS = {"glorot": nn.initializers.glorot_uniform(), "he": nn.initializers.he_normal()}
_LAYERS = (nn.Dense, nn.DenseGeneral, nn.Conv, nn.ConvTranspose, nn.Embed, Classifier)


def drawn(trainable: Tree, layers: Mapping[tuple[str, ...], nn.Module], init: Init, key: Array) -> Tree:
    """The parameters of a network whose layers start in another way; norm layers start as they do.

    - `"flax"`: as the module has it;
    - `"torch"`: kernels and biases uniform within `1 / sqrt(fan_in)`, embeddings normal, all of a recurrent layer
      uniform within `1 / sqrt(hidden)`; ours have one bias where PyTorch's add two;
    - `"glorot"`: kernels uniform within `sqrt(6 / (fan_in + fan_out))`;
    - `"he"`: kernels normal, cut off at two standard deviations, with variance `2 / fan_in`;
    - a function `(key, shape, dtype) -> kernel` [*window, inputs, outputs], such as those of `jax.nn.initializers`.

    A layer that was built with an initializer of its own keeps what it has.

    Args:
      trainable: as the module has them.
      layers: by their paths.
      init: how.
      key: of the draws.

    Raises:
      ValueError: if a function gives a kernel of another shape.

    Source: `reset_parameters` of `torch.nn.Linear`, `torch.nn.Conv2d` and `torch.nn.LSTM`; Glorot and Bengio, AISTATS
    2010; He et al., ICCV 2015.
    """
    if init == "flax":
        return trainable
    leaves: dict[Any, Any] = traverse_util.flatten_dict(trainable)
    for number, path in enumerate(sorted(leaves)):
        own, leaf = jax.random.fold_in(key, number), leaves[path]
        layer, within = layers.get(path[:-1]), [layers.get(path[:depth]) for depth in range(1, len(path))]
        recurrent = [each for each in within if isinstance(each, Recurrent | nn.RNNCellBase)]
        if recurrent:
            leaves[path] = _uniform(own, leaf, recurrent[0].features) if init == "torch" else leaf  # pyright: ignore
        elif isinstance(layer, _LAYERS) and not _chosen(layer):
            leaves[path] = _redrawn(own, leaf, path[-1], layer, init, leaves.get((*path[:-1], "kernel")))
    return traverse_util.unflatten_dict(leaves)


def _redrawn(key: Array, leaf: Array, name: str, layer: Any, init: Init, kernel: Array | None) -> Array:
    """A kernel, a bias or an embedding."""
    outputs = int(np.prod(layer.features))
    if init == "torch":
        normal = jax.random.normal(key, leaf.shape, leaf.dtype)
        return normal if kernel is None else _uniform(key, leaf, kernel.size // outputs)
    if name != "kernel":
        return leaf
    draw = _KERNELS[init] if isinstance(init, str) else init
    shape = leaf.shape if isinstance(layer, nn.Conv | nn.ConvTranspose) else (leaf.size // outputs, outputs)
    made = draw(key, shape, leaf.dtype)
    if made.shape != shape:
        raise ValueError(f"init gives {list(made.shape)} for a kernel {list(shape)}: return an array of the shape")
    return made.T if isinstance(layer, Classifier) else made.reshape(leaf.shape)


def _uniform(key: Array, leaf: Array, fan_in: int) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, leaf.shape, leaf.dtype, -bound, bound)


def _chosen(layer: nn.Module) -> bool:
    """Whether somebody chose how the layer starts."""
    given = [field for field in dataclasses.fields(layer) if field.name.endswith("_init")]
    return any(getattr(layer, field.name) is not field.default for field in given)
