"""Tasks: losses and scores against their formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sklearn.metrics as skl

import pfljax as pfl
from pfljax import algorithms, models
from pfljax.data import federate, from_arrays, from_clients, partition
from pfljax.engine.runs import simulate
from pfljax.learning import local, metrics, plans, tasks
from pfljax.types import Batch, Metric, Model, Params
from tests.zoo import slow_but_for

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("strict")
LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 1.0, 4.0]])


def fixed(outputs):
    """A model whose outputs are its parameters."""
    return Model(
        lambda key: Params(jnp.asarray(outputs)), None, lambda params, x, **_: (params.trainable, params.stats)
    )


def cross_entropy(logits, y, smoothing):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = (1 - smoothing) * np.eye(logits.shape[-1])[y] + smoothing / logits.shape[-1]
    return -(target * np.log(p)).sum(-1)


def scored(task, outputs, y, mask):
    """What each metric of the task says of one batch."""
    batch = jnp.asarray(outputs), jnp.asarray(y), jnp.asarray(mask, float)
    return [float(metric.finish(metric.sum(*batch))) for metric in task.metrics]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mask", [[1, 1, 1], [1, 0, 1], [0, 0, 0]])
def test_classification_is_the_masked_mean_cross_entropy(smoothing, mask):
    y = np.array([0, 2, 2])
    task = tasks.classification(fixed(LOGITS), smoothing)
    batch = Batch(jnp.zeros((3, 1)), jnp.asarray(y, jnp.uint8), jnp.asarray(mask, float))
    loss, stats = task.loss(task.init(KEY), batch, KEY)
    expected = (cross_entropy(LOGITS, y, smoothing) * mask).sum() / max(sum(mask), 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert stats == {}
    right, losses = np.array([1, 0, 1]), cross_entropy(LOGITS, y, 0)
    expected = [np.average(each, weights=mask) if any(mask) else np.nan for each in (right, losses)]
    np.testing.assert_allclose(scored(task, LOGITS, y, mask), expected, rtol=1e-6)


def test_label_smoothing_may_be_traced():
    batch = Batch(jnp.zeros((3, 1)), jnp.array([0, 2, 2]), jnp.ones(3))

    def loss(smoothing):
        task = tasks.classification(fixed(LOGITS), smoothing)
        return task.loss(task.init(KEY), batch, KEY)[0]

    expected = [cross_entropy(LOGITS, np.array([0, 2, 2]), s).mean() for s in (0.0, 0.3)]
    np.testing.assert_allclose(jax.jit(jax.vmap(loss))(jnp.array([0.0, 0.3])), expected, rtol=1e-6)


def test_a_sequence_is_one_example():
    logits = np.stack([LOGITS, LOGITS[::-1]])
    y = np.array([[0, 0, 0], [2, 1, 0]])
    task = tasks.classification(fixed(logits))
    y[1, 0] = 0
    np.testing.assert_allclose(scored(task, logits, y, np.ones((2, 3)))[0], (2 / 3 + 1 / 3) / 2, rtol=1e-6)
    np.testing.assert_allclose(scored(task, logits, y, [[1] * 3, [0] * 3])[0], 2 / 3, rtol=1e-6)
    loss = task.loss(task.init(KEY), Batch(jnp.zeros((2, 3)), jnp.asarray(y), jnp.array([0.0, 1.0])), KEY)[0]
    np.testing.assert_allclose(loss, cross_entropy(logits[1], y[1], 0).mean(), rtol=1e-6)


def test_regression_is_half_the_squared_error():
    y = jnp.array([1.0, 2.0, 3.0])
    for outputs in (jnp.array([2.0, 2.0, 0.0]), jnp.array([[2.0], [2.0], [0.0]])):
        task = tasks.regression(fixed(outputs))
        loss, _ = task.loss(task.init(KEY), Batch(jnp.zeros((3, 1)), y, jnp.array([1.0, 1.0, 0.0])), KEY)
        np.testing.assert_allclose(loss, 0.25)
        np.testing.assert_allclose(scored(task, outputs, y, np.ones(3)), [5 / 3, 10 / 3], rtol=1e-6)
        np.testing.assert_allclose(scored(task, outputs, y, [1, 1, 0]), [0.25, 0.5], rtol=1e-6)
    wide = tasks.regression(fixed(jnp.ones((2, 3))))
    loss, _ = wide.loss(wide.init(KEY), Batch(jnp.zeros((2, 1)), jnp.zeros((2, 3)), jnp.ones(2)), KEY)
    np.testing.assert_allclose(loss, 1.5)


@pytest.mark.parametrize(
    "model", [models.cnn((8, 8, 1), 3), models.resnet8((8, 8, 1), 3, norm="batch"), models.logistic((8, 8, 1), 3)]
)
def test_masked_rows_change_nothing(model):
    task = tasks.classification(model)
    params = jax.jit(model.init)(KEY)
    x = jax.random.bits(KEY, (4, 8, 8, 1), jnp.uint8)
    mask = jnp.array([1.0, 1, 1, 0])

    def run(x, y):
        def loss(trainable):
            return task.loss(Params(trainable, params.stats), Batch(x, y, mask), KEY)

        return jax.value_and_grad(loss, has_aux=True)(params.trainable)

    clean = jax.jit(run)(x, jnp.array([0, 1, 2, 0]))
    garbage = jax.jit(run)(x.at[3].set(255 - x[3]), jnp.array([0, 1, 2, 77]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), clean, garbage)


def test_logistic_gradient_in_closed_form():
    task = tasks.classification(models.logistic((2,), 3))
    params = task.init(KEY)
    x, y = jax.random.normal(KEY, (5, 2)), jnp.array([0, 1, 2, 1, 0])
    gradient = jax.grad(lambda p: task.loss(p, Batch(x, y, jnp.ones(5)), KEY)[0])(params)
    logits = np.asarray(task.predict(params, x))
    error = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[y]
    leaf = gradient.trainable["classifier"]
    np.testing.assert_allclose(leaf["kernel"], error.T @ np.asarray(x) / 5, atol=1e-6)
    np.testing.assert_allclose(leaf["bias"], error.mean(0), atol=1e-6)


IGNORED = 255
PLACES = np.array([[0, 2, IGNORED], [IGNORED] * 3, [1, 1, 1], [IGNORED, 0, 2]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mask", [[1, 1, 1, 1], [1, 1, 0, 1], [0, 1, 0, 0]])
def test_ignored_labels_count_neither_in_loss_nor_in_scores(smoothing, mask):
    """A row is the mean over its places that count; a row without any has no weight."""
    logits = np.random.default_rng(0).normal(size=(4, 3, 3))
    task = tasks.classification(fixed(logits), smoothing, ignore=IGNORED)
    counted = PLACES != IGNORED
    places = cross_entropy(logits.reshape(-1, 3), np.where(counted, PLACES, 0).ravel(), smoothing).reshape(4, 3)
    rows = (places * counted).sum(1) / np.maximum(counted.sum(1), 1)
    weight = np.asarray(mask) * counted.any(1)
    batch = Batch(jnp.zeros((4, 1)), jnp.asarray(PLACES, jnp.uint8), jnp.asarray(mask, float))
    loss, _ = task.loss(task.init(KEY), batch, KEY)
    np.testing.assert_allclose(loss, (rows * weight).sum() / max(weight.sum(), 1), rtol=1e-6)
    accuracy, hard = scored(task, logits, PLACES, np.broadcast_to(np.array(mask)[:, None], PLACES.shape))
    if weight.any():
        right = ((logits.argmax(-1) == PLACES) & counted).sum(1) / np.maximum(counted.sum(1), 1)
        np.testing.assert_allclose(accuracy, np.average(right, weights=weight), rtol=1e-6)
        if not smoothing:
            np.testing.assert_allclose(hard, np.average(rows, weights=weight), rtol=1e-6)
    else:
        assert np.isnan([accuracy, hard]).all()


def test_ignored_labels_pull_at_nothing():
    """The gradient of a place that does not count is exactly 0."""
    logits = np.random.default_rng(1).normal(size=(4, 3, 3))
    task = tasks.classification(fixed(logits), ignore=IGNORED)
    batch = Batch(jnp.zeros((4, 1)), jnp.asarray(PLACES), jnp.ones(4))
    pull = jax.grad(lambda w: task.loss(Params(w), batch, KEY)[0])(jnp.asarray(logits))
    assert (np.abs(pull).sum(-1) > 0).tolist() == (PLACES != IGNORED).tolist()


def shaped(*outputs):
    """A model whose outputs have this shape; -1 is the batch."""

    def apply(params, x, **_):
        shape = tuple(x.shape[0] if n == -1 else n for n in outputs)
        return jnp.zeros(shape) + params.trainable, params.stats

    return Model(lambda key: Params(jnp.zeros(())), None, apply)


def labelled(y, **more):
    y = np.asarray(y)
    return from_clients([(np.zeros((len(y), 2), np.float32), y)], name="toy", **more)


CLASSES, SEQUENCES = labelled([0, 1, 2, 3]), labelled([[0, 1, 1]] * 4)
MASKS = labelled([[0, 1, 255]] * 4, ignore=255)


@pytest.mark.parametrize(
    ("outputs", "data", "message"),
    [
        ((-1, 3), CLASSES, r"outputs \[B, 3\] for labels \[B\] of toy, which lie in 0\.\.3: give the model 4 outputs"),
        ((-1, 2), labelled([0, 4]), r"lie in 0\.\.4: give the model 5 outputs instead of 2"),
        ((-1, 1), labelled([0, 1]), "give the model 2 outputs instead of 1"),
        ((-1,), CLASSES, r"outputs \[B\] for labels \[B\] of toy: classification needs outputs \[B, C\]"),
        ((4,), CLASSES, r"outputs \[4\] for labels \[B\]"),
        ((2, 4), CLASSES, r"outputs \[2, 4\] for labels \[B\]"),
        ((-1, 3, 4), CLASSES, r"outputs \[B, 3, 4\] for labels \[B\]"),
        ((-1, 4, 2), SEQUENCES, r"outputs \[B, 4, 2\] for labels \[B, 3\] of toy: .* needs outputs \[B, 3, C\]"),
        ((-1, 2), SEQUENCES, r"outputs \[B, 2\] for labels \[B, 3\]"),
        ((-1, 3), labelled(np.eye(3, dtype=int)), r"of one-hot labels give y\.argmax\(-1\)"),
        ((-1, 2), labelled([0.0, 1.0]), r"labels of float64, and classification needs classes: give y\.astype"),
        ((-1, 3, 2), labelled([[0, 1, 255]]), r"lie in 0\.\.255: .* or say classification\(model, ignore=255\)"),
        ((-1, 3, 2), MASKS, r"marks with 255 what does not count: say classification\(model, ignore=255\)"),
    ],
)
def test_outputs_that_do_not_fit_the_labels(outputs, data, message):
    task = tasks.classification(shaped(*outputs))
    with pytest.raises(ValueError, match=message):
        tasks.check(task, data)


@pytest.mark.parametrize(
    ("outputs", "data", "message"),
    [
        ((-1, 2), labelled([0.5]), r"outputs \[B, 2\] for targets \[B\] of toy: give it as many outputs an example, 1"),
        ((-1,), labelled([[0.5, 1.0]]), r"outputs \[B\] for targets \[B, 2\]"),
        ((2,), labelled([0.5]), r"outputs \[2\] for targets \[B\]"),
        ((1,), labelled([0.5]), r"outputs \[1\] for targets \[B\]"),
        ((), labelled([0.5]), r"outputs \[\] for targets \[B\]"),
    ],
)
def test_outputs_that_do_not_fit_the_targets(outputs, data, message):
    with pytest.raises(ValueError, match=message):
        tasks.check(tasks.regression(shaped(*outputs)), data)


@pytest.mark.parametrize(
    ("task", "data"),
    [
        (tasks.classification(shaped(-1, 4)), CLASSES),
        (tasks.classification(shaped(-1, 9)), CLASSES),
        (tasks.classification(shaped(-1, 3, 2)), SEQUENCES),
        (tasks.classification(shaped(-1, 3, 2), ignore=255), MASKS),
        (tasks.classification(shaped(-1, 3, 2), ignore=255), labelled([[0, 1, 255]])),
        (tasks.regression(shaped(-1)), labelled([0.5, 1.0])),
        (tasks.regression(shaped(-1, 1)), labelled([0.5, 1.0])),
        (tasks.regression(shaped(-1, 6)), labelled(np.ones((4, 2, 3)))),
        (tasks.regression(shaped(-1, 1)), CLASSES),
    ],
)
def test_outputs_that_fit(task, data):
    tasks.check(task, data)


def test_examples_without_a_label_that_counts_are_left_out_where_the_data_are_made():
    y = [[0, 1], [255, 255], [255, 0]]
    task = tasks.classification(shaped(-1, 2, 2), ignore=255)
    with pytest.raises(ValueError, match="1 examples of toy have no label besides ignore=255: say ignore=255 where"):
        tasks.check(task, labelled(y))
    tasks.check(task, labelled(y, ignore=255))


def test_inputs_that_a_model_does_not_take_and_scores_that_are_no_rows():
    with pytest.raises(ValueError, match=r"the model does not take toy, inputs \[B, 2\]: .*shape"):
        tasks.check(tasks.classification(models.mlp((3,), 4)), CLASSES)
    task = tasks.classification(shaped(-1, 4))
    apart = Metric("apart", lambda outputs, y, mask: outputs[:, 0] * mask, jnp.mean)
    with pytest.raises(ValueError, match=r"'apart' sums to \[B\]: sum over .* metrics\.mean\('apart', \.\.\.\)"):
        tasks.check(task._replace(metrics=(apart,)), CLASSES)
    several = Metric("several", lambda outputs, y, mask: outputs.sum(0), lambda total: total)
    with pytest.raises(ValueError, match=r"'several' finishes as \[4\]: give one number for a client"):
        tasks.check(task._replace(metrics=(several,)), CLASSES)


def test_a_run_refuses_what_does_not_fit_before_its_first_round():
    task = tasks.classification(models.logistic((2,), 3))
    algorithm = algorithms.fedavg(task, local.descent(optax.sgd(0.1), plans.full_batch(1, 4)))
    with pytest.raises(ValueError, match="give the model 4 outputs instead of 3"):
        simulate(task, algorithm, CLASSES, rounds=1)


def test_a_run_with_ignored_labels_scores_the_others():
    """Inputs are the labels at places that count; the accuracy of the exact rule is 1, half the places count."""
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (24, 4)).astype(np.float32)
    y = (x > 0).astype(int)
    y[:, 2:] = 255
    y[5] = 255
    data = federate(from_arrays(x, y, ignore=255), partition.iid(2), test=0.5)

    def apply(params, x, **_):
        return x[..., None] * params.trainable[None, None], params.stats

    task = tasks.classification(Model(lambda key: Params(jnp.array([-1.0, 1.0])), None, apply), ignore=255)
    algorithm = algorithms.fedavg(task, local.descent(optax.sgd(0.0), plans.full_batch(1, 12)))
    scores = simulate(task, algorithm, data, rounds=1).scores
    np.testing.assert_array_equal(scores["global", "test", "accuracy"], [[1.0, 1.0]])
    np.testing.assert_allclose(scores["global", "test", "loss"], np.log1p(np.exp(-2.0)), rtol=1e-6)


def binary(z, y):
    return np.logaddexp(0, z) - y * z


MANY = np.array([[2.0, -1.0, 0.3], [-0.5, 0.4, 1.0], [0.2, -2.0, -0.1], [1.5, 1.0, -3.0]])
HOLD = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


def test_multilabel_is_the_mean_of_logistic_losses():
    task = tasks.multilabel(fixed(MANY), metrics=(*metrics.MULTILABEL,))
    batch = Batch(jnp.zeros((4, 1)), jnp.asarray(HOLD, jnp.uint8), jnp.array([1.0, 1, 1, 0]))
    np.testing.assert_allclose(task.loss(task.init(KEY), batch, KEY)[0], binary(MANY, HOLD)[:3].mean(), rtol=1e-6)
    z, y, said = MANY[:3], HOLD[:3], MANY[:3] > 0
    expected = {
        "accuracy": (said == y).mean(), "loss": binary(z, y).mean(), "exact_accuracy": (said == y).all(axis=1).mean(),
        "micro_f1": skl.f1_score(y, said, average="micro"), "macro_f1": skl.f1_score(y, said, average="macro"),
        "auc": skl.roc_auc_score(y, z, average="macro"),
    }  # fmt: skip
    mask = np.repeat([[1], [1], [1], [0]], 3, axis=1)
    said = dict(zip(expected, scored(task, MANY, HOLD, mask), strict=True))
    assert said == pytest.approx(expected, rel=1e-6)


def test_one_label_is_logistic_regression():
    """The same loss as two classes whose first logit is 0, from one logit [B, 1] and labels [B]."""
    y = jnp.array([1, 0, 1, 1])
    one, two = (
        tasks.multilabel(fixed(MANY[:, :1])),
        tasks.classification(fixed(np.stack([0 * MANY[:, 0], MANY[:, 0]], 1))),
    )
    losses = [task.loss(task.init(KEY), Batch(y, y, jnp.ones(4)), KEY)[0] for task in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    np.testing.assert_allclose(
        *(scored(task, task.init(KEY).trainable, y, np.ones(4)) for task in (one, two)), rtol=1e-6
    )


def test_ordinal_counts_the_thresholds_that_are_passed():
    grades = np.array([0, 3, 1, 2])
    task = tasks.ordinal(fixed(MANY))
    batch = Batch(jnp.zeros((4, 1)), jnp.asarray(grades, jnp.uint8), jnp.array([1.0, 1, 0, 1]))
    each = np.sum([binary(MANY[:, k], grades > k) for k in range(3)], axis=0)
    np.testing.assert_allclose(task.loss(task.init(KEY), batch, KEY)[0], each[[0, 1, 3]].mean(), rtol=1e-6)
    assert scored(task, MANY, grades, np.ones(4)) == pytest.approx([0.5, (2 + 1) / 4, each.mean()], rel=1e-6)


def test_weights_and_prior_of_classes():
    y, weights, prior = np.array([0, 2, 2]), (2.0, 1.0, 0.5), (0.2, 0.0, 0.8)
    batch = Batch(jnp.zeros((3, 1)), jnp.asarray(y), jnp.ones(3))
    weighted, shifted = (
        tasks.classification(fixed(LOGITS), weights=weights),
        tasks.classification(fixed(LOGITS), prior=prior),
    )
    plain = cross_entropy(LOGITS, y, 0)
    expected = np.mean(np.take(weights, y) * plain)
    np.testing.assert_allclose(weighted.loss(weighted.init(KEY), batch, KEY)[0], expected, rtol=1e-6)
    odds = np.exp(LOGITS) * prior
    expected = -np.log(odds[np.arange(3), y] / odds.sum(1)).mean()
    np.testing.assert_allclose(shifted.loss(shifted.init(KEY), batch, KEY)[0], expected, rtol=1e-6)
    for task in (weighted, shifted):  # what is measured favours no class
        np.testing.assert_allclose(scored(task, LOGITS, y, np.ones(3))[1], plain.mean(), rtol=1e-6)
    data = from_clients([([[0.0]] * 4, [0, 2, 2, 2]), ([[0.0]], [0])], [([[0.0]], [1])] * 2, num_classes=3)
    assert tasks.shares(data) == pytest.approx((0.4, 0.0, 0.6))
    assert tasks.balanced(data) == pytest.approx((1 / 1.2, 0.0, 1 / 1.8))


TEXTS = ((np.random.default_rng(0).integers(0, 5, (40, 1)) + np.arange(6)) % 5).astype(np.int32)
ROWS = np.random.default_rng(1).normal(size=(40, 4)).astype(np.float32)
LEARNED = {
    "multilabel": (ROWS, (ROWS[:, :3] > 0).astype(int), "mlp", {"task": {"name": "multilabel"}}, (4, 3)),
    "ordinal": (ROWS, np.digitize(ROWS[:, 0], [-0.5, 0.5]), "mlp", {"task": {"name": "ordinal"}}, (4, 2)),
    "next token": (TEXTS[:, :-1], TEXTS[:, 1:], {"name": "gru", "vocabulary": 5, "each": True, "hidden": 4},
                   {"task": {"label_smoothing": 0.1}}, (4, 5, 5)),
    "implicit": (ROWS, (ROWS[:, 0] > 0).astype(int), "logistic", {"task": {"name": "multilabel"}}, (4, 1)),
    "balanced": (ROWS, (ROWS[:, 0] > 1).astype(int), "logistic", {"task": {"balanced": "softmax"}}, (4, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", slow_but_for(("ordinal", "balanced"), LEARNED))
def test_tasks_by_name(name):
    """Each is learned a little, by a model whose outputs fit."""
    x, y, model, sections, shape = LEARNED[name]
    data = federate(from_arrays(x, y), partition.iid(2), test=0.25)
    result = pfl.simulate(data, model, "fedavg", rounds=3, local={"lr": 0.3, "epochs": 5}, **sections)
    assert result.models["0"].predict(x[:4]).shape == shape  # pyright: ignore
    losses = result.scores["global", "test", "loss"].mean(axis=1)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_tasks_that_cannot_be_meant():
    data = federate(from_arrays(ROWS, np.arange(40) % 3), partition.iid(2), test=0.25)
    targets = federate(from_arrays(ROWS, ROWS[:, 0]), partition.iid(2), test=0.25)
    refused: list[tuple[Any, dict[str, Any], str]] = [
        (data, {"task": {"name": "multilabel"}}, "labels from 0 to 2: multilabel needs 0 and 1"),
        (targets, {"task": {"name": "ordinal"}}, "has targets, not classes, for ordinal"),
        (targets, {"task": {"label_smoothing": 0.1}}, "is for classes, and .* has targets"),
        (data, {"task": {"name": "multilable"}}, "did you mean 'multilabel'"),
        (data, {"task": {"name": "ordinal", "balanced": "weights"}}, "balanced='weights' is for name='auto'"),
    ]
    for given, sections, message in refused:
        with pytest.raises(ValueError, match=message):
            pfl.simulate(given, "mlp", "fedavg", rounds=1, **sections)
    with pytest.raises(ValueError, match="fedlc counts classes, which ordinal has none of"):
        pfl.simulate(data, "mlp", "fedlc", rounds=1, task={"name": "ordinal"})
    with pytest.raises(ValueError, match="weights are 2 and the model has 3 outputs"):
        tasks.check(tasks.classification(models.logistic((4,), 3), weights=(1.0, 2.0)), data)
