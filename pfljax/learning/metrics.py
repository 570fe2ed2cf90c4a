"""Metrics: a sum over the examples of a client, and what becomes of the sum.

A sum is any tree of arrays that adds up over batches: totals, confusion matrices, the gaps of calibration bins. What
needs all examples side by side, as ranks do, is `Kept`. Where an example has several labels, `accuracy` and `loss` are
means over examples of the mean over its labels that count; for the other metrics each label that counts is an item.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import checks
from pfljax.learning.plans import gather
from pfljax.types import Array, Batch, ClientData, Metric, Tree

_BINS = 15


class Kept(NamedTuple):
    """Rows that are kept below those of other batches instead of added to them; unused ones are 0."""

    rows: Tree  # leaves [n, ...], as many rows in every batch


def measure(
    metrics: Sequence[Metric],
    models: Mapping[str, Callable[[Tree], Tree]],
    data: ClientData,
    *,
    capacity: int | None = None,
    batch_size: int = 64,
) -> dict[str, dict[str, Array]]:
    """What metrics say of models on the examples of a client, by model and metric; NaN without examples.

    Args:
      metrics: as a task has them.
      models: by name, each x [B, ...] -> outputs; they see the same batches.
      data: the client's examples.
      capacity: at most so many examples, of which rows may be `Kept`; those of all clients together if None.
      batch_size: examples whose outputs are held at once.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0], sizes=[3])
    >>> model = task.init(jax.random.key(0))
    >>> float(measure(task.metrics, {"w": lambda x: task.predict(model, x)}, data.client(0))["w"]["loss"])
    32.0
    """
    capacity = data.examples.y.shape[0] if capacity is None else capacity
    batches = max(1, -(-capacity // batch_size))

    def sums(number: Array) -> dict[str, list[Tree]]:
        batch = gather(data, number * batch_size + jnp.arange(batch_size, dtype=number.dtype))
        mask = like_labels(batch)

        def of(outputs: Tree) -> list[Tree]:
            return [metric.sum(outputs, batch.y, mask) for metric in metrics]

        return {name: of(predict(batch.x)) for name, predict in models.items()}

    def begin(part: Tree) -> Tree:
        if not isinstance(part, Kept):
            return jnp.zeros(part.shape, part.dtype)
        return jax.tree.map(lambda rows: jnp.zeros((batches * rows.shape[0], *rows.shape[1:]), rows.dtype), part)

    def add(number: Array, totals: Tree) -> Tree:
        def join(total: Tree, part: Tree) -> Tree:
            if not isinstance(part, Kept):
                return total + part
            write = jax.lax.dynamic_update_slice_in_dim
            return jax.tree.map(lambda kept, rows: write(kept, rows, number * rows.shape[0], axis=0), total, part)

        return jax.tree.map(join, totals, sums(number), is_leaf=_is_kept)

    zeros = jax.tree.map(begin, jax.eval_shape(sums, jnp.zeros_like(data.size)), is_leaf=_is_kept)
    totals = jax.lax.fori_loop(0, -(-data.size // batch_size), add, zeros)

    def finished(of_model: list[Tree]) -> dict[str, Array]:
        scores = ((metric.name, metric.finish(total)) for metric, total in zip(metrics, of_model, strict=True))
        return OrderedDict((name, jnp.where(data.size > 0, score, jnp.nan)) for name, score in scores)

    return {name: finished(of_model) for name, of_model in totals.items()}


def apiece(metric: Metric, outputs: Tree, y: Array) -> Array:
    """The metric of each example on its own, [B].

    >>> apiece(CLASSIFICATION["accuracy"], jnp.eye(3), jnp.array([0, 0, 2])).tolist()
    [1.0, 0.0, 1.0]
    """

    def one(outputs: Tree, y: Array) -> Array:
        outputs, y = jax.tree.map(lambda leaf: leaf[None], (outputs, y))
        return metric.finish(metric.sum(outputs, y, jnp.ones(y.shape)))

    return jax.vmap(one)(outputs, y)


def like_labels(batch: Batch) -> Array:
    """The mask of a batch in the shape of its labels."""
    mask = batch.mask.reshape(-1, *(1 for _ in batch.y.shape[1:]))
    return jnp.broadcast_to(mask, batch.y.shape)


def choose(asked: Sequence[str | Metric], known: Mapping[str, Metric]) -> tuple[Metric, ...]:
    """Metrics by name or as they are; the loss is measured in any case, last if nobody asks.

    Raises:
      ValueError: if a name is not known (with the nearest), given twice, or begins with a sign.
    """
    metrics = []
    for each in checks.value(asked, Sequence[str | Metric], "metrics"):
        metrics.append(each if isinstance(each, Metric) else known[checks.choice(each, known, "metrics")])
    names = [metric.name for metric in metrics]
    if signed := next((name for name in names if name[:1] in ("+", "-")), None):
        raise ValueError(f"the metric is named {signed!r}: name it {signed[1:]!r}, and compare by metric={signed!r}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"metrics has {twice!r} twice: give each a name of its own")
    return tuple(metrics if "loss" in names else [*metrics, known["loss"]])


def ignoring(metric: Metric, label: int) -> Metric:
    """The metric of all labels but one, which marks what does not count."""

    def total(outputs: Tree, y: Array, mask: Array) -> Tree:
        return metric.sum(outputs, y, jnp.where(y.astype(int) == label, 0, mask))

    return metric._replace(sum=total)


def masked_mean(values: Array, mask: Array) -> Array:
    """`sum(mask * values) / max(sum(mask), 1)` of values [B]: 0 if no row counts."""
    mask = mask.astype(values.dtype)
    return jnp.sum(jnp.where(mask > 0, mask * values, 0)) / jnp.maximum(jnp.sum(mask), 1)


def by_example(values: Array, mask: Array | None = None) -> Array:
    """The mean over all axes but the first of what counts, [B, ...] to [B]; of everything without a mask."""
    values = _columns(values)
    return values.mean(axis=1) if mask is None else jax.vmap(masked_mean)(values, _columns(mask))


def mean(name: str, of: Callable[[Tree, Array], Array]) -> Metric:
    """The mean over examples of a score that each of them has.

    Args:
      name: of the metric.
      of: `(outputs, y) -> [B]`, or the scores of several labels, [B, ...] like y.

    >>> hits = mean("hits", lambda outputs, y: (outputs.argmax(-1) == y).astype(float))
    >>> outputs, y, mask = jnp.eye(3), jnp.array([0, 0, 0]), jnp.array([1.0, 1.0, 0.0])
    >>> float(hits.finish(hits.sum(outputs, y, mask)))
    0.5
    """

    def total(outputs: Tree, y: Array, mask: Array) -> tuple[Array, Array]:
        scores, counts = of(outputs, y), _columns(mask).max(axis=1)
        scores, size = by_example(scores, mask) if scores.ndim > 1 else scores, jnp.sum(counts)
        return size.astype(scores.dtype) * masked_mean(scores, counts), size

    def finish(sums: tuple[Array, Array]) -> Array:
        total, size = sums
        return (1 / size).astype(total.dtype) * total

    return Metric(name, total, finish)


def mean_of_labels(name: str, of: Callable[[Tree, Array], Array], finish: Callable[[Array], Array]) -> Metric:
    """`finish` of the mean over all labels that count of a score that each of them has, `of(outputs, y)` like y."""

    def total(outputs: Tree, y: Array, mask: Array) -> tuple[Array, Array]:
        return jnp.sum(jnp.where(mask > 0, of(outputs, y), 0)), jnp.sum(mask)

    return Metric(name, total, lambda sums: finish(sums[0] / sums[1].astype(sums[0].dtype)))


def cross_entropy(logits: Array, y: Array, smoothing: Array | float = 0.0) -> Array:
    """`-<t, log softmax(logits)>` of each label, with the target `t = (1 - s) onehot(y) + s / C`."""
    targets = jax.nn.one_hot(y, logits.shape[-1], dtype=logits.dtype)
    if not (isinstance(smoothing, float) and smoothing == 0.0):
        targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def _accuracy(logits: Array, y: Array) -> Array:
    return (jnp.argmax(logits, axis=-1) == y.astype(int)).astype(logits.dtype)


def _confusion(logits: Array, y: Array, mask: Array) -> Array:
    """[C, C]: labels of each class (rows) that are taken for each class (columns)."""
    logits, y, counts = _items(logits, y, mask)
    said, true = jnp.argmax(logits, axis=-1), jnp.where(counts, y, -1)
    classes = logits.shape[-1]
    return jax.nn.one_hot(true, classes).T @ jax.nn.one_hot(said, classes)


def _balanced_accuracy(confusion: Array) -> Array:
    """The mean of the recalls of the classes that there are."""
    return jnp.nanmean(jnp.diagonal(confusion) / confusion.sum(axis=1))


def _macro_f1(confusion: Array) -> Array:
    """The mean of `2 TP / (2 TP + FP + FN)` over the classes that there are or that are said."""
    return jnp.nanmean(2 * jnp.diagonal(confusion) / (confusion.sum(axis=0) + confusion.sum(axis=1)))


def _odds(logits: Array, y: Array, mask: Array) -> Kept:
    """`log p_c / (1 - p_c)` of each label and class [n, C], where no rounding of p makes ties; labels; what counts."""
    logits, y, counts = _items(logits, y, mask)
    others = ~jnp.eye(logits.shape[-1], dtype=bool)[None]
    rest = jax.nn.logsumexp(jnp.broadcast_to(logits[:, None, :], (len(y), *others.shape[1:])), axis=-1, where=others)
    return Kept((logits - rest, y, counts))


def _auc(kept: Kept) -> Array:
    """The chance that a label of a class has higher odds of it than one of the rest, ties half; mean over classes.

    Classes that all labels have, or none, are left out.
    """
    odds, y, counts = kept.rows

    def one(odds: Array, own: Array) -> Array:
        positive, negative = own & counts, ~own & counts
        rest, size = jnp.sort(jnp.where(negative, odds, jnp.inf)), jnp.sum(negative)
        below, upto = (jnp.minimum(jnp.searchsorted(rest, odds, side=side), size) for side in ("left", "right"))
        won = (below + upto).astype(float) / (2 * size).astype(float)
        return jnp.sum(jnp.where(positive, won, 0)) / jnp.sum(positive).astype(float)

    classes = jnp.arange(odds.shape[1], dtype=y.dtype)
    return jnp.nanmean(jax.vmap(one, in_axes=(1, 0))(odds, y[None] == classes[:, None]))


def _gaps(logits: Array, y: Array, mask: Array) -> tuple[Array, Array]:
    """In each bin `(m/15, (m+1)/15]` of the confidence the sum of accuracy less confidence, [15]; labels that count."""
    logits, y, counts = _items(logits, y, mask)
    confidence = jax.nn.softmax(logits).max(axis=-1)
    edges = jnp.linspace(0, 1, _BINS + 1, dtype=confidence.dtype)
    bins = jnp.searchsorted(edges, confidence, side="left") - 1
    within = (bins[:, None] == jnp.arange(_BINS, dtype=bins.dtype)[None]) & counts[:, None]
    gaps = _accuracy(logits, y) - confidence
    return jnp.sum(jnp.where(within, gaps[:, None], 0), axis=0), jnp.sum(counts).astype(gaps.dtype)


CLASSIFICATION = {
    metric.name: metric
    for metric in (
        mean("accuracy", _accuracy),
        mean("loss", cross_entropy),
        Metric("balanced_accuracy", _confusion, _balanced_accuracy),
        Metric("macro_f1", _confusion, _macro_f1),
        Metric("auc", _odds, _auc),
        Metric("ece", _gaps, lambda sums: jnp.sum(jnp.abs(sums[0])) / sums[1]),
        mean_of_labels("perplexity", cross_entropy, jnp.exp),
    )
}
"""What `tasks.classification` can measure."""


def _flags(logits: Array, y: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Of each label which is said, which holds and what counts, [B, L]."""
    return _columns(logits.reshape(y.shape) > 0), _columns(y > 0), _columns(mask > 0)


def binary_cross_entropy(logits: Array, y: Array) -> Array:
    """`-y log sigmoid(z) - (1 - y) log sigmoid(-z)` of each label, like y."""
    return optax.sigmoid_binary_cross_entropy(logits.reshape(y.shape), y.astype(logits.dtype))


def _right(logits: Array, y: Array) -> Array:
    return ((logits.reshape(y.shape) > 0) == (y > 0)).astype(logits.dtype)


def _tally(logits: Array, y: Array, mask: Array) -> Array:
    """Of each label how often it is said and holds, is said, and holds, [3, L]."""
    said, holds, counts = _flags(logits, y, mask)
    return jnp.stack([jnp.sum(part & counts, axis=0) for part in (said & holds, said, holds)]).astype(float)


def _f1(tally: Array) -> Array:
    """`2 TP / (2 TP + FP + FN)`."""
    return 2 * tally[0] / (tally[1] + tally[2])


def _stored(logits: Array, y: Array, mask: Array) -> Kept:
    """Logits, whether each label holds, what counts, [B, L]."""
    _, holds, counts = _flags(logits, y, mask)
    return Kept((_columns(logits), holds, counts))


def _auc_of_labels(kept: Kept) -> Array:
    """The chance that an example with a label has a higher logit of it than one without; mean over labels."""

    def one(logits: Array, holds: Array, counts: Array) -> Array:
        return _auc(Kept((logits[:, None], (~holds).astype(int), counts)))

    return jnp.nanmean(jax.vmap(one, in_axes=1)(*kept.rows))


MULTILABEL = {
    metric.name: metric
    for metric in (
        mean("accuracy", _right),
        mean("loss", binary_cross_entropy),
        mean("exact_accuracy", lambda logits, y: _columns(_right(logits, y)).min(axis=1)),
        Metric("micro_f1", _tally, lambda tally: _f1(tally.sum(axis=1))),
        Metric("macro_f1", _tally, lambda tally: jnp.nanmean(_f1(tally))),
        Metric("auc", _stored, _auc_of_labels),
    )
}
"""What `tasks.multilabel` can measure."""


def passed(logits: Array, y: Array) -> Array:
    """`sum_k BCE(z_k, 1[y > k])` of the thresholds between C classes in order, logits [B, C - 1]."""
    above = y[:, None].astype(int) > jnp.arange(logits.shape[-1])[None]
    return jnp.sum(binary_cross_entropy(logits, above), axis=-1)


def _apart(logits: Array, y: Array) -> Array:
    """Classes between what is said, the number of thresholds that are passed, and what is true."""
    return jnp.abs(jnp.sum(logits > 0, axis=-1) - y.astype(int)).astype(logits.dtype)


ORDINAL = {
    metric.name: metric
    for metric in (
        mean("accuracy", lambda logits, y: (_apart(logits, y) == 0).astype(logits.dtype)),
        mean("loss", passed),
        mean("mae", _apart),
    )
}
"""What `tasks.ordinal` can measure."""


def squared_error(outputs: Array, y: Array) -> Array:
    """`||output - y||^2` of each example, [B]."""
    return jnp.sum(jnp.square(_columns(_residual(outputs, y))), axis=1)


def _residual(outputs: Array, y: Array) -> Array:
    return outputs.reshape(y.shape) - y.astype(outputs.dtype)


def _squares(outputs: Array, y: Array, mask: Array) -> tuple[Array, Array]:
    """Squared errors of each target and the number of examples, [D]."""
    squares = jnp.where(mask > 0, jnp.square(_residual(outputs, y)), 0)
    return _columns(squares).sum(axis=0), _columns(mask).sum(axis=0).astype(squares.dtype)


def _regressed(outputs: Array, y: Array, mask: Array) -> Kept:
    """Squared errors, targets and what counts, [B, D]."""
    parts = jnp.square(_residual(outputs, y)), y.astype(outputs.dtype), mask > 0
    return Kept(jax.tree.map(_columns, parts))


def _r2(kept: Kept) -> Array:
    """`1 - sum (output - y)^2 / sum (y - mean y)^2`, the mean over targets; NaN if one does not vary."""
    squares, y, counts = kept.rows
    center = jnp.sum(y, axis=0, where=counts) / jnp.sum(counts, axis=0).astype(y.dtype)
    spread = jnp.sum(jnp.square(y - center[None]), axis=0, where=counts)
    varies = jnp.max(y, axis=0, where=counts, initial=-jnp.inf) > jnp.min(y, axis=0, where=counts, initial=jnp.inf)
    return jnp.mean(jnp.where(varies, 1 - jnp.sum(squares, axis=0, where=counts) / spread, jnp.nan))


REGRESSION = {
    metric.name: metric
    for metric in (
        mean("loss", lambda outputs, y: squared_error(outputs, y) / 2),
        mean("squared_error", squared_error),
        mean_of_labels("mae", lambda outputs, y: jnp.abs(_residual(outputs, y)), lambda error: error),
        Metric("rmse", _squares, lambda sums: jnp.mean(jnp.sqrt(sums[0] / sums[1]))),
        Metric("r2", _regressed, _r2),
    )
}
"""What `tasks.regression` can measure."""


def _items(logits: Array, y: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Logits [n, C], labels [n] and whether they count [n], of all labels of the examples."""
    return logits.reshape(-1, logits.shape[-1]), y.reshape(-1).astype(int), mask.reshape(-1) > 0


def _columns(values: Array) -> Array:
    """[B, ...] as [B, D]."""
    return values.reshape(values.shape[0], -1)


def _is_kept(part: Tree) -> bool:
    return isinstance(part, Kept)
