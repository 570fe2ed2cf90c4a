"""Tasks: a model with its loss and its metrics.

Contract: the leaves of `batch.x` and `batch.y` are rows gathered from `Examples`, in their storage dtype (bytes for
images and labels are fine); `batch.mask` says which rows count. What a masked row holds, as long as it is finite,
changes neither the loss nor a gradient nor a statistic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.learning import metrics as measures
from pfljax.learning.local import mean_loss
from pfljax.learning.metrics import by_example, cross_entropy, masked_mean, squared_error
from pfljax.types import Array, Batch, ClientData, Metric, Model, Params, Task, Tree

_PROBE = 7919
"""Rows of the batch that `check` traces: a prime, so that no other axis is taken for it."""


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
    for metric in task.metrics:
        _check_metric(metric, given, y)


def misfit(task: Task, params: Params, data: ClientData, key: Array) -> Array:
    """`f_i(w)` [], by which models are compared on the examples of a client.

    It is the `loss` that the task measures, as in an evaluation: dropout is off, norm layers use their running
    statistics, and without examples it is NaN. A task that measures none is judged by the loss that it trains.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0], sizes=[3])
    >>> key = jax.random.key(0)
    >>> float(misfit(task, task.init(key), data.client(0), key))
    32.0
    """
    measured = [metric for metric in task.metrics if metric.name == "loss"]
    if not measured:
        return mean_loss(task.loss, params, data, key)
    return measures.measure(measured, {"w": lambda x: task.predict(params, x)}, data, batch_size=128)["w"]["loss"]


def chosen(
    task: Task, make: Callable[[Array], tuple[Params, Tree]], values: Sequence[float], data: ClientData, key: Array
) -> tuple[Params, Tree]:
    """`make(value)`, for that of `values` whose model fits the client's validation examples best.

    Args:
      task: whose `misfit` is compared.
      make: value [] -> a model, and what comes with it.
      values: static; the first of equals is taken, and the first if there are no validation examples.
      data: of the client.
      key: of the misfit.

    Raises:
      ValueError: if there are no values.

    >>> import dataclasses
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0])
    >>> data = dataclasses.replace(data, validation=data.train).client(0)
    >>> make = lambda value: (Params({"w": value}), ())
    >>> float(chosen(task, make, (0.0, 7.0, 11.0), data, jax.random.key(0))[0].trainable["w"])
    7.0
    """
    if not len(values):
        raise ValueError("there is nothing to choose from: give at least one value")

    def judged(value: Array) -> tuple[Array, tuple[Params, Tree]]:
        made = make(value)
        return misfit(task, made[0], data.on(data.validation), key), made

    misfits, candidates = jax.lax.map(judged, jnp.asarray(values, float))
    best = jnp.argmin(jnp.where(jnp.isnan(misfits), jnp.inf, misfits))
    return jax.tree.map(lambda rows: rows[best], candidates)


def invariant(
    task: Task, model: Model, adversary: Model, attribute: Callable[[Tree], Array], *, lam: Array | float = 1.0
) -> Task:
    """`task` whose features do not tell a protected attribute a of the examples.

    An adversary d learns to tell a from the features z, and what makes the features learns to mislead it:

    `min_d CE(d(z), a)`, `min_w f(w) - lam CE(d(z), a)`, by one descent on `f(w) + CE(d(R(z)), a)` in `(w, d)`.

    `R(z) = z`, and its gradient is reversed: `-lam`. The adversary lies below `"adversary"` beside the leaves of the
    model, for masks: it may be shared or stay with the clients, as `masks.union(masks.head(model),
    masks.named("adversary"))` shares it with the head of `lg_fedavg`.

    Args:
      task: of `model`.
      model: the network, which must have features.
      adversary: a classifier of features, such as `models.mlp(model.features_shape, 2, (16,))`.
      attribute: inputs x [B, ...] -> a [B], whole numbers.
      lam: strength, >= 0, may be traced; 0 lets the adversary look on.

    Raises:
      ValueError: if the model has no features.

    Source: Liang et al., "Think Locally, Act Globally: Federated Learning with Local and Global Representations", 2020
    (fair representations), by the gradient reversal of Ganin et al., "Domain-Adversarial Training of Neural Networks",
    Journal of Machine Learning Research 2016.
    """
    features = model.features
    if features is None:
        raise ValueError("invariant is for features, and the model has none: see pfljax.models.from_linen")

    def init(key: Array) -> Params:
        w, d = task.init(key), adversary.init(jax.random.fold_in(key, 1))
        return Params({**w.trainable, "adversary": d.trainable}, w.stats)

    def own(params: Params) -> Params:
        return params._replace(trainable={name: leaf for name, leaf in params.trainable.items() if name != "adversary"})

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = task.loss(own(params), batch, key)
        z = features(own(params), batch.x, train=True, mask=batch.mask, key=key)[0]
        reversed_z = -lam * z + jax.lax.stop_gradient((1 + lam) * z)
        told = adversary.apply(Params(params.trainable["adversary"]), reversed_z, train=True, key=key)[0]
        return value + masked_mean(cross_entropy(told, attribute(batch.x)), batch.mask), stats

    return task._replace(init=init, loss=loss, predict=lambda params, x: task.predict(own(params), x))


def _check_metric(metric: Metric, outputs: Tree, y: Any) -> None:
    """Refuses a sum that keeps examples apart, and a finish that is not one number."""
    total = jax.eval_shape(metric.sum, outputs, y, jax.ShapeDtypeStruct(y.shape, float))
    for part in jax.tree.leaves(total, is_leaf=lambda part: isinstance(part, measures.Kept)):
        if not isinstance(part, measures.Kept) and _PROBE in part.shape:
            raise ValueError(
                f"the metric {metric.name!r} sums to {_spell(part)}: sum over the examples, or write "
                f"metrics.mean({metric.name!r}, ...) of a score of each"
            )
    if (finished := jax.eval_shape(metric.finish, total)).shape:
        raise ValueError(f"the metric {metric.name!r} finishes as {_spell(finished)}: give one number for a client, []")


def _spell(leaf: Any) -> str:
    """The shape of a batch, such as `[B, 28, 28, 1]`."""
    return f"[{', '.join('B' if n == _PROBE else str(n) for n in leaf.shape)}]"


Learned = TypeVar("Learned", Task, Model)


def starting(learned: Learned, params: Params) -> Learned:
    """A task or a model whose training starts at `params`, such as those that another run has found.

    Args:
      learned: a task, or a model.
      params: of the same network.

    Raises:
      ValueError: if they belong to another network.
    """
    mine = jax.eval_shape(learned.init, jax.random.key(0))
    if [jax.tree.structure(mine), *_shapes(mine)] != [jax.tree.structure(params), *_shapes(params)]:
        raise ValueError("params are of another network: give those that this model was trained to")
    return learned._replace(init=lambda key: jax.tree.map(jnp.asarray, params))


def _shapes(params: Params) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(params)]


def _task(
    model: Model,
    losses: Callable[[Tree, Array], Array],
    metrics: tuple[Metric, ...],
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

    return Task(model.init, loss, predict, metrics, fits)


def classification(
    model: Model,
    label_smoothing: Array | float = 0.0,
    *,
    ignore: int | None = None,
    weights: Sequence[float] | None = None,
    prior: Sequence[float] | None = None,
    metrics: Sequence[str | Metric] = ("accuracy", "loss"),
) -> Task:
    """Softmax cross-entropy: `mean over unmasked rows of -<t, log softmax(logits)>`.

    The target is `t = (1 - s) onehot(y) + s / C` with s the label smoothing. Metrics are of the hard labels. Where an
    example has several labels, its loss and its accuracy are means over those that count; an example without any that
    counts has no weight.

    Args:
      model: outputs logits [B, C], or [B, L, C] with labels [B, L] (a sequence counts as one example), or one more
        axis than the labels in general.
      label_smoothing: s in [0, 1], may be traced.
      ignore: a label that marks what does not count, such as 255 in masks of images; say it to `from_arrays` too.
      weights: [C] what the training loss of a label of each class is multiplied by, such as `balanced(data)`.
      prior: [C] shares of the classes, such as `shares(data)`, for the balanced softmax: what is trained is
        `softmax(logits + log prior)`, so that what is predicted, without it, favours no class.
      metrics: what is measured besides the loss, names of `metrics.CLASSIFICATION` or metrics of yours.

    Raises:
      ValueError: if a metric is not known, or given twice, or weights are below 0.

    Source of the balanced softmax: Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS
    2020, equation 3.
    """
    chosen = measures.choose(metrics, measures.CLASSIFICATION)
    checks.each(Sequence[checks.NotNegative] | None, weights=weights, prior=prior)

    def counted(y: Array) -> Array:
        return (y.astype(int) != ignore).reshape(y.shape[0], -1)

    def losses(logits: Array, y: Array) -> Array:
        if prior is not None:
            logits = logits + _logs(prior).astype(logits.dtype).reshape((1,) * (logits.ndim - 1) + (-1,))
        each = cross_entropy(logits, y, label_smoothing)
        if weights is not None:
            each *= jnp.take(jnp.asarray(weights, each.dtype), y.astype(int), mode="clip")
        return by_example(each, None if ignore is None else counted(y))

    def fits(logits: Tree, data: FederatedData) -> None:
        _fit_classes(logits, data, ignore)
        for name, given in {"weights": weights, "prior": prior}.items():
            if given is not None and len(given) != logits.shape[-1]:
                raise ValueError(
                    f"{name} are {len(given)} and the model has {logits.shape[-1]} outputs: give one of each"
                )

    if ignore is None:
        return _task(model, losses, chosen, fits)
    return _task(model, losses, tuple(measures.ignoring(metric, ignore) for metric in chosen), fits, counted)


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


def _logs(prior: Sequence[float]) -> Array:
    """[C] logarithms, of a class that is never seen a number of which nothing is left."""
    shares = jnp.asarray(prior, float)
    return jnp.where(shares > 0, jnp.log(jnp.where(shares > 0, shares, 1)), -1e9)


def shares(data: FederatedData) -> tuple[float, ...]:
    """The share of each class among the training labels of all clients.

    Raises:
      ValueError: if labels are no classes.

    >>> from pfljax.data import from_clients
    >>> shares(from_clients([([[0.0]] * 4, [0, 1, 1, 1])]))
    (0.25, 0.75)
    """
    if data.num_classes is None:
        raise ValueError(f"{data.name} has targets, not classes: leave weights and prior of classes out")
    counts = data.label_counts()[: data.num_clients].sum(axis=0)
    return tuple((counts / counts.sum()).tolist())


def balanced(data: FederatedData) -> tuple[float, ...]:
    """`1 / (C p_c)`, weights that let classes count alike, with p their `shares`; 0 of those that nobody has.

    >>> from pfljax.data import from_clients
    >>> balanced(from_clients([([[0.0]] * 4, [0, 1, 1, 1])]))
    (2.0, 0.666...)
    """
    p = shares(data)
    return tuple(1 / (len(p) * share) if share else 0.0 for share in p)


def _outputs(outputs: Tree) -> str:
    return "outputs " + (", ".join(map(_spell, jax.tree.leaves(outputs))) or "of nothing")


def _labels(y: np.ndarray) -> str:
    return f"[{', '.join(['B', *map(str, y.shape[1:])])}]"


def _fit_numbers(outputs: Tree, y: np.ndarray, data: FederatedData) -> None:
    """Refuses outputs that are not as many as the targets of an example."""
    shape = getattr(outputs, "shape", ())
    if not shape or shape[0] != _PROBE or prod(shape[1:]) != prod(y.shape[1:]):
        raise ValueError(
            f"the model gives {_outputs(outputs)} for targets {_labels(y)} of {data.name}: give it as many outputs "
            f"an example, {prod(y.shape[1:])}"
        )


def regression(model: Model, *, metrics: Sequence[str | Metric] = ("loss", "squared_error")) -> Task:
    """Least squares: `mean over unmasked rows of 1/2 ||output - y||^2`.

    Args:
      model: outputs of as many numbers an example as y has: [B, 1] serves y [B].
      metrics: what is measured besides the loss (the half), names of `metrics.REGRESSION` or metrics of yours.

    Raises:
      ValueError: if a metric is not known, or given twice.
    """

    def fits(outputs: Tree, data: FederatedData) -> None:
        _fit_numbers(outputs, np.asarray(data.examples.y), data)

    chosen = measures.choose(metrics, measures.REGRESSION)
    return _task(model, lambda outputs, y: squared_error(outputs, y) / 2, chosen, fits)


def multilabel(model: Model, *, metrics: Sequence[str | Metric] = ("accuracy", "loss")) -> Task:
    """Labels that hold or not, each on its own: the mean over an example's labels of `BCE(z_l, y_l)`.

    With a single label it is logistic regression, and with chosen and not chosen items it is implicit feedback.

    Args:
      model: outputs logits of as many labels as y has, [B, L], or [B, 1] for y [B]; a label is said where it is > 0.
      metrics: what is measured besides the loss, names of `metrics.MULTILABEL` or metrics of yours.

    Raises:
      ValueError: if a metric is not known, or given twice.
    """

    def fits(outputs: Tree, data: FederatedData) -> None:
        y = np.asarray(data.examples.y)
        _fit_numbers(outputs, y, data)
        if not np.isin(y, (0, 1)).all():
            raise ValueError(f"{data.name} has labels from {y.min()} to {y.max()}: multilabel needs 0 and 1 for each")

    chosen = measures.choose(metrics, measures.MULTILABEL)
    return _task(model, lambda logits, y: by_example(measures.binary_cross_entropy(logits, y)), chosen, fits)


def ordinal(model: Model, *, metrics: Sequence[str | Metric] = ("accuracy", "mae", "loss")) -> Task:
    """Classes in order, such as grades: `sum_k BCE(z_k, 1[y > k])` over the thresholds k between C classes.

    Args:
      model: outputs logits [B, C - 1] for y [B]; the class that is said is the number of those > 0.
      metrics: what is measured besides the loss, names of `metrics.ORDINAL` or metrics of yours.

    Raises:
      ValueError: if a metric is not known, or given twice.

    Source: Niu et al., "Ordinal Regression with Multiple Output CNN for Age Estimation", CVPR 2016, equation 2, with
    weights of 1.
    """

    def fits(outputs: Tree, data: FederatedData) -> None:
        y = np.asarray(data.examples.y)
        if data.num_classes is None or y.ndim > 1 or getattr(outputs, "shape", ()) != (_PROBE, data.num_classes - 1):
            raise ValueError(
                f"the model gives {_outputs(outputs)} for labels {_labels(y)} of {data.name}: ordinal needs a class of "
                f"each example, and outputs [B, {(data.num_classes or 2) - 1}], one between two of them"
            )

    return _task(model, measures.passed, measures.choose(metrics, measures.ORDINAL), fits)


TASKS: dict[str, Callable[..., Task]] = {
    "classification": classification,
    "multilabel": multilabel,
    "ordinal": ordinal,
    "regression": regression,
}
"""Name -> factory `(model, **options)`."""


def outputs(name: str, data: FederatedData) -> int:
    """How many outputs the model of such a task has.

    Raises:
      ValueError: if the labels are no classes, and the task needs them.
    """
    if name in ("multilabel", "regression"):
        return prod(np.shape(data.examples.y)[1:])
    if data.num_classes is None:
        raise ValueError(f"{data.name} has targets, not classes, for {name}: give num_classes, or choose regression")
    return data.num_classes - (name == "ordinal")
