"""Tasks: a model with its loss and its scores.

Contract: the leaves of `batch.x` and `batch.y` are rows gathered from `Examples`, in their storage dtype (bytes for
images and labels are fine); `batch.mask` says which rows count. What a masked row holds, as long as it is finite,
changes neither the loss nor a gradient nor a statistic.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.types import Array, Batch, Model, Params, Task, Tree

_PROBE = 7919
"""Rows of the batch that `check` traces: a prime, so that no other axis is taken for it."""


def masked_mean(values: Array, mask: Array) -> Array:
    """`sum(mask * values) / max(sum(mask), 1)` of values [B]: 0 if no row counts."""
    mask = mask.astype(values.dtype)
    return jnp.sum(jnp.where(mask > 0, mask * values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def check(task: Task, data: FederatedData) -> None:
    """Refuses a model that does not take the inputs, or whose outputs do not fit the labels; computes nothing.

    Raises:
      ValueError: with both shapes, and what to change.
    """

    def probe(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((_PROBE, *leaf.shape[1:]), jax.dtypes.canonicalize_dtype(leaf.dtype))

    def outputs(key: Array, x: Tree) -> Tree:
        return task.predict(task.init(key), x)

    x, y = jax.tree.map(probe, tuple(data.examples))
    try:
        given = jax.eval_shape(outputs, jax.random.key(0), x)
    except Exception as error:
        inputs = ", ".join(map(_spell, jax.tree.leaves(x)))
        reason = (str(error).splitlines() or [type(error).__name__])[0].replace(str(_PROBE), "B")
        raise ValueError(f"the model does not take {data.name}, inputs {inputs}: {reason}") from error
    if task.fits is not None:
        task.fits(given, data)
    for name, score in jax.eval_shape(task.measure, given, y).items():
        if score.shape != (_PROBE,):
            raise ValueError(f"the task measures {name!r} as {_spell(score)}: give one number for each example, [B]")


def _spell(leaf: Any) -> str:
    """The shape of a batch, such as `[B, 28, 28, 1]`."""
    return f"[{', '.join('B' if n == _PROBE else str(n) for n in leaf.shape)}]"


def _rows(values: Array) -> Array:
    """The mean over all axes but the first: [B, ...] to [B]."""
    return values.reshape(values.shape[0], -1).mean(axis=1)


def _task(
    model: Model,
    losses: Callable[[Tree, Array], Array],
    measure: Callable[..., dict[str, Array]],
    fits: Callable[[Tree, Any], None],
    counted: Callable[[Array], Array] | None = None,
) -> Task:
    checks.each(Model, model=model)

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        outputs, stats = model.apply(params, batch.x, train=True, mask=batch.mask, key=key)
        mask = batch.mask if counted is None else jnp.where(counted(batch.y).any(axis=1), batch.mask, 0)
        return masked_mean(losses(outputs, batch.y), mask), stats

    def predict(params: Params, x: Tree) -> Tree:
        return model.apply(params, x)[0]

    return Task(model.init, loss, predict, measure, fits)


def classification(model: Model, label_smoothing: Array | float = 0.0, *, ignore: int | None = None) -> Task:
    """Softmax cross-entropy: `mean over unmasked rows of -<t, log softmax(logits)>`.

    The target is `t = (1 - s) onehot(y) + s / C` with s the label smoothing. Scores are of the hard labels. Where an
    example has several labels, its loss and its accuracy are means over those that count; an example without any that
    counts has no weight in the loss.

    Args:
      model: outputs logits [B, C], or [B, L, C] with labels [B, L] (a sequence counts as one example), or one more
        axis than the labels in general.
      label_smoothing: s in [0, 1], may be traced.
      ignore: a label that marks what does not count, such as 255 in masks of images; say it to `from_arrays` too.

    Returns:
      A task that measures `accuracy` and `loss`, each [B].
    """

    def counted(y: Array) -> Array:
        return (y.astype(int) != ignore).reshape(y.shape[0], -1)

    def rows(values: Array, y: Array) -> Array:
        if ignore is None:
            return _rows(values)
        return jax.vmap(masked_mean)(values.reshape(values.shape[0], -1), counted(y))

    def cross_entropy(logits: Array, y: Array, smoothing: Array | float = 0.0) -> Array:
        targets = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
        if not (isinstance(smoothing, float) and smoothing == 0.0):
            targets = optax.smooth_labels(targets, smoothing)
        return rows(optax.softmax_cross_entropy(logits, targets), y)

    def measure(logits: Array, y: Array) -> dict[str, Array]:
        return {
            "accuracy": rows((jnp.argmax(logits, axis=-1) == y.astype(int)).astype(logits.dtype), y),
            "loss": cross_entropy(logits, y),
        }

    def fits(logits: Tree, data: FederatedData) -> None:
        _fit_classes(logits, data, ignore)

    return _task(
        model,
        lambda logits, y: cross_entropy(logits, y, label_smoothing),
        measure,
        fits,
        None if ignore is None else counted,
    )


def _fit_classes(logits: Tree, data: FederatedData, ignore: int | None) -> None:
    """Refuses labels that the outputs of a classifier do not fit."""
    y = np.asarray(data.examples.y)
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"{data.name} has labels of {y.dtype}, and classification needs classes: give y.astype(int) or say "
            "num_classes where the data are made, or use regression"
        )
    has = f"the model gives {_outputs(logits)} for labels {_labels(y)} of {data.name}"
    if not hasattr(logits, "shape") or logits.shape[:-1] != (_PROBE, *y.shape[1:]):
        one_hot = hasattr(logits, "shape") and logits.shape[1:] == y.shape[1:]
        advice = "; of one-hot labels give y.argmax(-1)" if one_hot else ""
        wanted = ", ".join(["B", *map(str, y.shape[1:]), "C"])
        raise ValueError(f"{has}: classification needs outputs [{wanted}], one for each class{advice}")
    if data.ignore not in (None, ignore) and (y == data.ignore).any():
        raise ValueError(f"{data.name} marks with {data.ignore} what does not count: say "
                         f"classification(model, ignore={data.ignore})")  # fmt: skip
    counts = np.ones(y.shape, bool) if ignore is None else y != ignore
    if (missing := ~counts.reshape(len(y), -1).any(1)).any():
        raise ValueError(
            f"{missing.sum()} examples of {data.name} have no label besides ignore={ignore}: say ignore={ignore} where "
            "the data are made, which leaves them out"
        )
    low, high, classes = int(y[counts].min()), int(y[counts].max()), logits.shape[-1]
    if not 0 <= low <= high < classes:
        mark = low if low < 0 else high
        raise ValueError(
            f"{has}, which lie in {low}..{high}: give the model {high + 1} outputs instead of {classes}, or say "
            f"classification(model, ignore={mark}) if {mark} marks what does not count"
        )


def _outputs(outputs: Tree) -> str:
    return "outputs " + (", ".join(map(_spell, jax.tree.leaves(outputs))) or "of nothing")


def _labels(y: np.ndarray) -> str:
    return f"[{', '.join(['B', *map(str, y.shape[1:])])}]"


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

    def fits(outputs: Tree, data: FederatedData) -> None:
        y = np.asarray(data.examples.y)
        shape = getattr(outputs, "shape", ())
        if not shape or shape[0] != _PROBE or prod(shape[1:]) != prod(y.shape[1:]):
            raise ValueError(
                f"the model gives {_outputs(outputs)} for targets {_labels(y)} of {data.name}: give it as many outputs "
                f"an example, {prod(y.shape[1:])}"
            )

    return _task(model, lambda outputs, y: squared_error(outputs, y) / 2, measure, fits)
