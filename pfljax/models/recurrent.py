"""Recurrent networks over tokens."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from pfljax import checks
from pfljax.checks import Count
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier, Recurrent
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model


class LSTM(Recurrent):
    """A long short-term memory layer: [B, L, ...] to its hidden states [B, L, features].

    With `i, f, g, o = split(x_t U + h W + b)`: `c = sigmoid(f) c + sigmoid(i) tanh(g)`, `h = sigmoid(o) tanh(c)`.
    The products with the inputs are one matrix product for the whole sequence. The forget gate's bias starts at 1.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def bias(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            del key
            return jnp.zeros(shape, dtype).at[self.features : 2 * self.features].set(1)

        gates = nn.Dense(4 * self.features, bias_init=bias, name="input")(x)
        kernel = self.param("kernel", nn.initializers.orthogonal(), (self.features, 4 * self.features), gates.dtype)

        def step(state: tuple[Array, Array], gate: Array) -> tuple[tuple[Array, Array], Array]:
            cell, hidden = state
            i, f, g, o = jnp.split(gate + hidden @ kernel, 4, axis=-1)
            cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
            hidden = nn.sigmoid(o) * jnp.tanh(cell)
            return (cell, hidden), hidden

        start = jnp.zeros((x.shape[0], self.features), gates.dtype)
        _, states = jax.lax.scan(step, (start, start), jnp.swapaxes(gates, 0, 1))
        return jnp.swapaxes(states, 0, 1)


class CharLSTM(nn.Module):
    """An embedding, LSTM layers, and a classifier on the last hidden state."""

    vocabulary: int
    embedding: int
    hidden: int
    layers: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        x = nn.Embed(self.vocabulary, self.embedding)(tokens.astype(jnp.int32))
        for _ in range(self.layers):
            x = LSTM(self.hidden)(x)
        return Classifier(self.vocabulary, name="classifier")(x[:, -1])


@checks.by_hints()
def char_lstm(
    vocabulary: Count = 80,
    length: Count = 80,
    embedding: Count = 8,
    hidden: Count = 256,
    layers: Count = 2,
    init: Init = "flax",
) -> Model:
    """The next-character network of LEAF: tokens [B, length] to the logits [B, vocabulary] of the following character.

    820,522 parameters with a vocabulary of 90. Blocks: embedding, each LSTM layer, classifier. Tokens may be bytes.
    `init` is how they start, see `from_linen`.
    Source: Caldas et al., "LEAF: a benchmark for federated settings", 2018, https://arxiv.org/abs/1812.01097.
    """
    return from_linen(CharLSTM(vocabulary, embedding, hidden, layers), (length,), jnp.int32, init=init)
