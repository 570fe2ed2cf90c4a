"""Tasks: a model with its loss and its scores.

Contract: the leaves of `batch.x` and `batch.y` are rows gathered from `Examples`, in their storage dtype (bytes for
images and labels are fine); `batch.mask` says which rows count. What a masked row holds, as long as it is finite,
changes neither the loss nor a gradient nor a statistic.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from pfljax import checks
from pfljax.types import Array, Batch, Model, Params, Task, Tree


def masked_mean(values: Array, mask: Array) -> Array:
    """`sum(mask * values) / max(sum(mask), 1)` of values [B]: 0 if no row counts."""
    mask = mask.astype(values.dtype)
    return jnp.sum(jnp.where(mask > 0, mask * values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def _rows(values: Array) -> Array:
    """The mean over all axes but the first: [B, ...] to [B]."""
    return values.reshape(values.shape[0], -1).mean(axis=1)


def _task(model: Model, losses: Callable[[Tree, Array], Array], measure: Callable[..., dict[str, Array]]) -> Task:
    checks.each(Model, model=model)

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        outputs, stats = model.apply(params, batch.x, train=True, mask=batch.mask, key=key)
        return masked_mean(losses(outputs, batch.y), batch.mask), stats

    def predict(params: Params, x: Tree) -> Tree:
        return model.apply(params, x)[0]

    return Task(model.init, loss, predict, measure)


def classification(model: Model, label_smoothing: Array | float = 0.0) -> Task:
    """Softmax cross-entropy: `mean over unmasked rows of -<t, log softmax(logits)>`.

    The target is `t = (1 - s) onehot(y) + s / C` with s the label smoothing. Scores are of the hard labels.

    Args:
      model: outputs logits [B, C], or [B, L, C] with labels [B, L] (a sequence counts as one example).
      label_smoothing: s in [0, 1], may be traced.

    Returns:
      A task that measures `accuracy` and `loss`, each [B].
    """

    def cross_entropy(logits: Array, y: Array, smoothing: Array | float = 0.0) -> Array:
        targets = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
        if not (isinstance(smoothing, float) and smoothing == 0.0):
            targets = optax.smooth_labels(targets, smoothing)
        return _rows(optax.softmax_cross_entropy(logits, targets))

    def measure(logits: Array, y: Array) -> dict[str, Array]:
        return {
            "accuracy": _rows((jnp.argmax(logits, axis=-1) == y.astype(int)).astype(logits.dtype)),
            "loss": cross_entropy(logits, y),
        }

    return _task(model, lambda logits, y: cross_entropy(logits, y, label_smoothing), measure)


def regression(model: Model) -> Task:
    """Least squares: `mean over unmasked rows of 1/2 ||output - y||^2`.

    Args:
      model: outputs of as many numbers an example as y has: [B, 1] serves y [B].

    Returns:
      A task that measures `loss` (the half) and `squared_error`, each [B].
    """

    def squared_error(outputs: Array, y: Array) -> Array:
        residual = outputs.reshape(y.shape) - y.astype(outputs.dtype)
        return jnp.sum(jnp.square(residual.reshape(y.shape[0], -1)), axis=1)

    def measure(outputs: Array, y: Array) -> dict[str, Array]:
        error = squared_error(outputs, y)
        return {"loss": error / 2, "squared_error": error}

    return _task(model, lambda outputs, y: squared_error(outputs, y) / 2, measure)
