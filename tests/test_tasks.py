"""Tasks: losses and scores against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import models, tasks
from pfljax.types import Batch, Model, Params

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("strict")
LOGITS = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 0.0], [-3.0, 1.0, 4.0]])


def fixed(outputs):
    """A model whose outputs are its parameters."""
    return Model(lambda key: Params(jnp.asarray(outputs)), lambda params, x, **_: (params.trainable, params.stats))


def cross_entropy(logits, y, smoothing):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    target = (1 - smoothing) * np.eye(logits.shape[-1])[y] + smoothing / logits.shape[-1]
    return -(target * np.log(p)).sum(-1)


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
    scores = task.measure(task.predict(task.init(KEY), batch.x), batch.y)
    np.testing.assert_array_equal(scores["accuracy"], [1, 0, 1])
    np.testing.assert_allclose(scores["loss"], cross_entropy(LOGITS, y, 0), rtol=1e-6)


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
    scores = task.measure(jnp.asarray(logits), jnp.asarray(y))
    np.testing.assert_allclose(scores["accuracy"], [2 / 3, 2 / 3])
    loss = task.loss(task.init(KEY), Batch(jnp.zeros((2, 3)), jnp.asarray(y), jnp.array([0.0, 1.0])), KEY)[0]
    np.testing.assert_allclose(loss, cross_entropy(logits[1], y[1], 0).mean(), rtol=1e-6)


def test_regression_is_half_the_squared_error():
    y = jnp.array([1.0, 2.0, 3.0])
    for outputs in (jnp.array([2.0, 2.0, 0.0]), jnp.array([[2.0], [2.0], [0.0]])):
        task = tasks.regression(fixed(outputs))
        loss, _ = task.loss(task.init(KEY), Batch(jnp.zeros((3, 1)), y, jnp.array([1.0, 1.0, 0.0])), KEY)
        np.testing.assert_allclose(loss, 0.25)
        scores = task.measure(outputs, y)
        np.testing.assert_allclose(scores["loss"], [0.5, 0, 4.5])
        np.testing.assert_allclose(scores["squared_error"], [1, 0, 9])
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
