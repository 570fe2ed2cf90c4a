"""Networks over sequences and tables against loops in NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import models

KEY = jax.random.key(1)
pytestmark = pytest.mark.usefixtures("strict")


def made(model):
    params = jax.jit(model.init)(KEY)
    return params, jax.tree.map(np.asarray, params.trainable)


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def classified(w, x):
    return x @ w["classifier"]["kernel"].T + w["classifier"]["bias"]


def test_gru_is_the_textbook_recurrence():
    model = models.gru((4, 3), 2, hidden=5, init="torch")
    params, w = made(model)
    x, h, layer = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32), np.zeros((2, 5)), w["layer_0"]
    for t in range(4):
        r, z, n = np.split(dense(layer["input"], x[:, t]), 3, axis=1)
        s, y, m = np.split(h @ layer["kernel"] + layer["bias"], 3, axis=1)
        k = sigmoid(z + y)
        h = (1 - k) * np.tanh(n + sigmoid(r + s) * m) + k * h
    np.testing.assert_allclose(model.apply(params, x)[0], classified(w, h), atol=1e-6)


def test_lstm_and_gru_read_tokens_and_answer_at_each_place():
    for factory in (models.lstm, models.gru):
        each, last = (factory((6,), 7, hidden=4, layers=2, vocabulary=7, each=each) for each in (True, False))
        params, tokens = jax.jit(each.init)(KEY), jax.random.randint(KEY, (3, 6), 0, 7)
        outputs = each.apply(params, tokens)[0]
        assert outputs.shape == (3, 6, 7)
        np.testing.assert_allclose(outputs[:, -1], last.apply(params, tokens)[0], atol=1e-6)
    with pytest.raises(ValueError, match=r"shape=\(6, 2\): tokens are \[length\]"):
        models.gru((6, 2), 7, vocabulary=7)


def layer_norm(layer, x):
    centered = x - x.mean(-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_transformer_is_attention_to_the_places_before():
    model = models.transformer((5,), 6, width=8, heads=2, layers=1, vocabulary=6, each=True)
    params, w = made(model)
    tokens, layer = np.array([[3, 1, 4, 1, 5], [0, 0, 2, 5, 1]]), w["layer_0"]
    x = w["places"]["tokens"]["embedding"][tokens] + w["places"]["places"]
    q, k, v = np.split(dense(layer["attention"], layer_norm(layer["norm_0"], x)), 3, axis=-1)
    seen = np.zeros_like(q)
    for head in (slice(0, 4), slice(4, 8)):
        for t in range(5):
            score = np.exp(np.einsum("bd,bsd->bs", q[:, t, head], k[:, : t + 1, head]) / 2)  # sqrt of 4
            seen[:, t, head] = np.einsum("bs,bsd->bd", score / score.sum(1, keepdims=True), v[:, : t + 1, head])
    x = x + dense(layer["joined"], seen)
    x = x + dense(layer["down"], gelu(dense(layer["up"], layer_norm(layer["norm_1"], x))))
    expected = classified(w, layer_norm(w["norm"], x))
    np.testing.assert_allclose(model.apply(params, tokens)[0], expected, atol=2e-5)
    last = models.transformer((5,), 6, width=8, heads=2, layers=1, vocabulary=6)
    np.testing.assert_allclose(last.apply(params, tokens)[0], expected[:, -1], atol=2e-5)
    assert model.norms == ("layer_0/norm_0", "layer_0/norm_1", "norm")
    with pytest.raises(ValueError, match="width=10 is no multiple of heads=4: set width=12"):
        models.transformer((5,), 6, width=10)


def test_convolutions_over_time():
    model = models.cnn1d((8, 2), 3, channels=(4, 5), size=3)
    params, w = made(model)
    x = np.random.default_rng(2).normal(size=(2, 8, 2)).astype(np.float32)

    def convolved(layer, x):
        padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
        rows = [np.einsum("bkc,kco->bo", padded[:, t : t + 3], layer["kernel"]) for t in range(x.shape[1])]
        return np.maximum(np.stack(rows, axis=1) + layer["bias"], 0)

    pooled = convolved(w["Conv_0"], x).reshape(2, 4, 2, 4).max(axis=2)
    expected = classified(w, convolved(w["Conv_1"], pooled).mean(axis=1))
    np.testing.assert_allclose(model.apply(params, x)[0], expected, atol=1e-5)
    assert models.cnn1d((8,), 3, norm="group").norms == ("GroupNorm_0", "GroupNorm_1")


def test_tables_have_an_embedding_of_each_category():
    model = models.tabular((2 + 3 + 2,), 4, categories=(3, 2), width=5, hidden=(6,))
    params, w = made(model)
    kinds, numbers = np.array([[2, 0], [1, 1], [0, -1]]), np.array([[0.5, -1.0], [2.0, 0.0], [1.0, 1.0]])
    flags = [np.eye(3)[kinds[:, 0]], np.array([[1, 0], [0, 1], [0, 0]])]  # the last row is of no kind of the second
    rows = [w["category_0"]["embedding"][kinds[:, 0]], w["category_1"]["embedding"][kinds[:, 1]]]
    rows[1][2] = 0
    x = np.maximum(dense(w["Dense_0"], np.concatenate([numbers, *rows], axis=1)), 0)
    given = jnp.asarray(np.concatenate([numbers, *flags], axis=1), jnp.float32)
    np.testing.assert_allclose(model.apply(params, given)[0], classified(w, x), atol=1e-6)
    with pytest.raises(ValueError, match="at least 12 for categories="):
        models.tabular((4,), 2, categories=(5, 7))
