"""What is known of a client beside the features of its examples."""

from __future__ import annotations

from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model, Params, Tree


@checks.by_hints()
def contextual(model: Model, outputs: checks.Count, context: checks.Count, *, init: Init = "flax") -> Model:
    """A network that reads an example without its context, and a linear layer on its features and the context.

    `outputs = W (z, c) + b`, with z the features of the first part of an input, and c the last numbers of it, or of its
    channels, as `data.featurized` puts them there. What is known of a client then need not find its way through the
    network; without hidden layers it is context beside the inputs.

    Args:
      model: the network, whose last block is replaced.
      outputs: of the layer.
      context: how many numbers are known of a client.
      init: how the layer begins, see `from_linen`.

    Raises:
      ValueError: if the model has no features.

    >>> from pfljax.models.dense import mlp
    >>> model = contextual(mlp((5,), 2, (8,)), 2, context=3)
    >>> model.blocks, model.features_shape, model.apply(model.init(jax.random.key(0)), jnp.ones((4, 5 + 3)))[0].shape
    (('Dense_0', 'classifier'), (11,), (4, 2))
    """
    if model.features is None:
        raise ValueError("context goes beside features, and the model has none: see pfljax.models.from_linen")
    inner, last, size = model.features, model.blocks[-1], prod(model.features_shape) + context
    top = from_linen(Classifier(outputs), (size,), init=init)

    def start(key: Array) -> Params:
        w = model.init(key)
        return w._replace(trainable=w.trainable | {last: top.init(jax.random.fold_in(key, 1)).trainable})

    def features(params: Params, x: Array, **mode: Any) -> tuple[Array, Tree]:
        z, stats = inner(params, x[..., :-context], **mode)
        known = x.reshape(len(x), -1, x.shape[-1])[:, 0, -context:]
        return jnp.concatenate([z.reshape(len(z), -1), known.astype(z.dtype)], axis=1), stats

    def head(params: Params, z: Array, **mode: Any) -> tuple[Array, Tree]:
        return top.head(Params(params.trainable[last]), z, **mode)[0], params.stats

    norms = tuple(norm for norm in model.norms if norm.split("/")[0] != last)
    return Model(start, features, head, model.blocks, norms, (size,))
