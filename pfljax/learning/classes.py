"""What a method knows of classes: which of them a client holds, and what their features look like."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.learning.local import average
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.types import Array, Batch, ClientData, Examples, LossFn, Model, Params, Task, Tree

_NEVER = -1e9
"""A logit that is never the largest, and whose loss is finite."""


class Prototypes(NamedTuple):
    """What features of each class shall be."""

    P: Array  # [C, d]
    seen: Array  # [C] of {0., 1.}: whether there is one


class Nearest(NamedTuple):
    """A model that predicts the class whose prototype is nearest."""

    params: Params
    prototypes: Prototypes


def number(model: Model, does: str) -> int:
    """C, the number of the outputs of a model with features.

    Args:
      model: the network.
      does: the method and what it does with features, for the error, such as `"fedrod puts two heads on features"`.

    Raises:
      ValueError: if the model has no features.
    """
    if model.features is None:
        raise ValueError(f"{does}, and the model has none: see pfljax.models.from_linen")

    def outputs() -> Array:  # its key is made within, so that nothing is computed before the first simulation
        return model.head(model.init(jax.random.key(0)), jnp.zeros((1, *model.features_shape)))[0]

    return jax.eval_shape(outputs).shape[-1]


def shares(data: ClientData, classes: int, method: str) -> Array:
    """[C] the share of each class among the client's examples, zeros without any.

    Raises:
      ValueError: if labels are not one class for each example; the sentence names the `method`.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[0.0]] * 4, [0, 2, 2, 2])], num_classes=3)
    >>> shares(data.client(0), 3, "fedrod").tolist()
    [0.25, 0.0, 0.75]
    """
    checks.classes(data.examples.y, method)

    def of(batch: Batch, number: Array) -> Array:
        del number
        rows = jax.nn.one_hot(batch.y, classes, dtype=batch.mask.dtype) * batch.mask[:, None]
        return jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(batch.mask), 1)

    return average(of, data, batch_size=128)


def dtype_of(task: Task) -> Any:
    """Of the parameters of a task."""
    return jnp.result_type(*jax.tree.leaves(jax.eval_shape(lambda: task.init(jax.random.key(0)).trainable)))


def unseen(task: Task, model: Model, classes: int) -> Prototypes:
    """The prototypes before any is known: zeros, of the dtype of the parameters."""
    dtype = dtype_of(task)
    return Prototypes(jnp.zeros((classes, prod(model.features_shape)), dtype), jnp.zeros(classes, dtype))


def means(model: Model, params: Params, data: ClientData, classes: int, method: str) -> tuple[Array, Array]:
    """[C, d] the mean features of the client's examples of each class, and [C] the shares of the classes.

    A class without examples has zeros.

    Raises:
      ValueError: if labels are not one class for each example; the sentence names the `method`.
    """
    checks.classes(data.examples.y, method)

    def of(batch: Batch, number: Array) -> tuple[Array, Array]:
        del number
        z = flat_features(model, params, batch.x)
        rows = jax.nn.one_hot(batch.y, classes, dtype=z.dtype) * batch.mask.astype(z.dtype)[:, None]
        return rows.T @ z / jnp.maximum(jnp.sum(rows), 1), jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(rows), 1)

    total, held = average(of, data, batch_size=128)
    return total / jnp.where(held > 0, held, 1)[:, None], held


def flat_features(model: Model, params: Params, x: Tree) -> Array:
    """[B, d] the features of a model, as in prediction."""
    z = model.features(params, x)[0]  # pyright: ignore[reportOptionalCall]
    return z.reshape(z.shape[0], -1)


def aligned(model: Model, lam: Array | float, prototypes: Prototypes) -> LossFn:
    """`CE(h(z), y) + lam mean_d (z - P_y)^2` with z the features, the second of classes that have a prototype."""
    P, seen = prototypes

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        z, logits, stats = model.apply_in_parts(params, batch.x, train=True, mask=batch.mask, key=key)
        y = batch.y.astype(int)
        gaps = jnp.mean(jnp.square(z.reshape(len(y), -1) - P[y]), axis=1)
        return masked_mean(cross_entropy(logits, y) + jnp.where(seen[y] > 0, lam * gaps, 0), batch.mask), stats

    return loss


def nearest(model: Model) -> Callable[[Nearest, Tree], Array]:
    """`-||z - P_k||^2` [B, C] as logits; a class without a prototype gets next to none."""

    def predict(own: Nearest, x: Tree) -> Array:
        z = flat_features(model, own.params, x)
        P, seen = own.prototypes
        return jnp.where(seen[None] > 0, -jnp.sum(jnp.square(z[:, None] - P[None]), axis=-1), _NEVER)

    return predict


def as_examples(prototypes: Array, held: Array) -> ClientData:
    """Prototypes [M, C, d] with their classes as the examples of one client, those that are `held` [M, C]."""
    clients, classes, d = prototypes.shape
    order = jnp.argsort(held.reshape(-1) <= 0, stable=True)
    x, y = prototypes.reshape(-1, d)[order], jnp.tile(jnp.arange(classes), clients)[order]
    zero = jnp.zeros((), jnp.int32)
    return ClientData(Examples(x, y), zero, jnp.sum(held > 0, dtype=jnp.int32), zero)
