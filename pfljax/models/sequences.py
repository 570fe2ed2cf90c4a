"""Networks over sequences: recordings of sensors [length, channels], or tokens [length]."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier, Norm, Recurrent, normalization
from pfljax.models.linen import from_linen
from pfljax.models.recurrent import LSTM
from pfljax.types import Array, Model


class Places(nn.Module):
    """Sequences [B, L, width]: tokens as rows that are learned, numbers as they are; with a row for each place."""

    vocabulary: int = 0
    width: int = 0
    numbered: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.vocabulary:
            x = nn.Embed(self.vocabulary, self.width, name="tokens")(x.astype(jnp.int32))
        else:
            x = x[..., None] if x.ndim == 2 else x
            x = nn.Dense(self.width, name="channels")(x) if self.width else x
        if not self.numbered:
            return x
        start = nn.initializers.normal(0.02)
        return x + self.param("places", start, x.shape[1:], x.dtype)[None]


class GRU(Recurrent):
    """A layer of gated recurrent units: [B, L, ...] to its hidden states [B, L, features].

    With `r, z, n = x_t U + b` and `s, y, m = h W + c`: `h = (1 - k) tanh(n + sigmoid(r + s) m) + k h`,
    `k = sigmoid(z + y)`. The products with the inputs are one matrix product for the whole sequence.
    """

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = nn.Dense(3 * self.features, name="input")(x)
        kernel = self.param("kernel", nn.initializers.orthogonal(), (self.features, 3 * self.features), inputs.dtype)
        bias = self.param("bias", nn.initializers.zeros, (3 * self.features,), inputs.dtype)

        def step(hidden: Array, given: Array) -> tuple[Array, Array]:
            (r, z, n), (s, y, m) = (jnp.split(part, 3, axis=-1) for part in (given, hidden @ kernel + bias[None]))
            kept = nn.sigmoid(z + y)
            hidden = (1 - kept) * jnp.tanh(n + nn.sigmoid(r + s) * m) + kept * hidden
            return hidden, hidden

        state = jnp.zeros((x.shape[0], self.features), inputs.dtype)
        return jnp.swapaxes(jax.lax.scan(step, state, jnp.swapaxes(inputs, 0, 1))[1], 0, 1)


class RNN(nn.Module):
    """Recurrent layers, and a classifier on the last state or on each."""

    layer: type[Recurrent]
    classes: int
    hidden: int
    layers: int
    vocabulary: int
    width: int
    each: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Places(self.vocabulary, self.width if self.vocabulary else 0, name="places")(x)
        for number in range(self.layers):
            x = self.layer(self.hidden, name=f"layer_{number}")(x)
        return Classifier(self.classes, name="classifier")(x if self.each else x[:, -1])


def _sequence(shape: Sequence[int], vocabulary: int) -> tuple[tuple[int, ...], type]:
    """The shape of one sequence and what it is of."""
    size = sizes.example(shape, "[length] or [length, channels]")
    if len(size) != 1 and (vocabulary or len(size) != 2):
        wanted = "tokens are [length]" if vocabulary else "sequences are [length] or [length, channels]"
        raise ValueError(f"shape={size}: {wanted}")
    return size, jnp.int32 if vocabulary else jnp.float32


@checks.by_hints()
def lstm(
    shape: Sequence[int],
    classes: checks.Count,
    hidden: checks.Count = 64,
    layers: checks.Count = 1,
    vocabulary: checks.Size = 0,
    width: checks.Count = 8,
    each: bool = False,
    init: Init = "flax",
) -> Model:
    """LSTM layers over a recording or a text, and a classifier; blocks: `places` of tokens, each layer, classifier.

    Args:
      shape: [length] or [length, channels].
      classes: outputs.
      hidden: units of a layer.
      layers: how many.
      vocabulary: kinds of tokens, whole numbers from 0 on; 0 reads numbers.
      width: of the embedding of a token.
      each: outputs at each place, [B, L, classes], for labels [B, L] such as the next token; else after the last one.
      init: how layers start, see `from_linen`.

    >>> lstm((128, 9), 6).blocks, lstm((80,), 90, vocabulary=90, each=True).blocks
    (('layer_0', 'classifier'), ('places', 'layer_0', 'classifier'))
    """
    module = RNN(LSTM, classes, hidden, layers, vocabulary, width, each)
    return from_linen(module, *_sequence(shape, vocabulary), init=init)


@checks.by_hints()
def gru(
    shape: Sequence[int],
    classes: checks.Count,
    hidden: checks.Count = 64,
    layers: checks.Count = 1,
    vocabulary: checks.Size = 0,
    width: checks.Count = 8,
    each: bool = False,
    init: Init = "flax",
) -> Model:
    """Layers of gated recurrent units over a recording or a text, and a classifier; arguments as of `lstm`.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", 2014, with the reset gate behind
    the product, as PyTorch has it.
    """
    module = RNN(GRU, classes, hidden, layers, vocabulary, width, each)
    return from_linen(module, *_sequence(shape, vocabulary), init=init)


class CNN1D(nn.Module):
    """Convolutions over time with pooling, the mean over places, a classifier."""

    classes: int
    channels: Sequence[int]
    size: int
    norm: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = x[..., None] if x.ndim == 2 else x
        for number, channels in enumerate(self.channels):
            x = nn.Conv(channels, (self.size,))(x)
            x = x if self.norm == "none" else normalization(self.norm, channels)(x)  # pyright: ignore
            x = nn.relu(x)
            if number < len(self.channels) - 1 and x.shape[1] > 1:
                x = nn.max_pool(x, (2,), (2,))
        return Classifier(self.classes, name="classifier")(x.mean(axis=1))


@checks.by_hints()
def cnn1d(
    shape: Sequence[int],
    classes: checks.Count,
    channels: Sequence[checks.Count] = (32, 64),
    size: checks.Count = 5,
    norm: Norm | None = None,
    init: Init = "flax",
) -> Model:
    """Convolutions over a recording of sensors, halved between them, the mean over time, a classifier.

    Args:
      shape: [length] or [length, channels].
      classes: outputs.
      channels: of each convolution.
      size: places that a convolution reads.
      norm: `"group"`, `"batch"` or `"layer"` after each convolution, or none.
      init: how layers start, see `from_linen`.

    >>> cnn1d((128, 9), 6).blocks
    ('Conv_0', 'Conv_1', 'classifier')
    """
    return from_linen(CNN1D(classes, tuple(channels), size, norm or "none"), _sequence(shape, 0)[0], init=init)


class Layer(nn.Module):
    """Attention to the places before, then two dense layers, each beside a shortcut and behind a layer norm."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        parts = nn.Dense(3 * self.width, name="attention")(nn.LayerNorm(name="norm_0")(x))
        parts = parts.reshape(*x.shape[:2], 3, self.heads, self.width // self.heads)
        seen = jax.nn.dot_product_attention(*(parts[:, :, place] for place in range(3)), is_causal=True)
        x = x + nn.Dense(self.width, name="joined")(seen.reshape(x.shape))
        wide = nn.gelu(nn.Dense(4 * self.width, name="up")(nn.LayerNorm(name="norm_1")(x)))
        return x + nn.Dense(self.width, name="down")(wide)


class Transformer(nn.Module):
    """Rows for tokens and places, layers of attention, a layer norm, a classifier at the last place or at each."""

    classes: int
    width: int
    heads: int
    layers: int
    vocabulary: int
    each: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Places(self.vocabulary, self.width, numbered=True, name="places")(x)
        for number in range(self.layers):
            x = Layer(self.width, self.heads, name=f"layer_{number}")(x)
        x = nn.LayerNorm(name="norm")(x)
        return Classifier(self.classes, name="classifier")(x if self.each else x[:, -1])


@checks.by_hints()
def transformer(
    shape: Sequence[int],
    classes: checks.Count,
    width: checks.Count = 32,
    heads: checks.Count = 4,
    layers: checks.Count = 2,
    vocabulary: checks.Size = 0,
    each: bool = False,
    init: Init = "flax",
) -> Model:
    """A small transformer whose places see those before them; blocks: `places`, each layer, `norm`, `classifier`.

    Args:
      shape: [length] or [length, channels].
      classes: outputs.
      width: of a place, a multiple of `heads`.
      heads: of the attention.
      layers: how many.
      vocabulary: kinds of tokens, whole numbers from 0 on; 0 reads numbers.
      each: outputs at each place, [B, L, classes], for labels [B, L] such as the next token; else after the last one.
      init: how layers start, see `from_linen`.

    Raises:
      ValueError: if `width` is no multiple of `heads`.

    Source: Vaswani et al., "Attention Is All You Need", 2017, the decoder, with norms in front as in GPT-2.

    >>> transformer((80,), 90, vocabulary=90, layers=1).blocks
    ('places', 'layer_0', 'norm', 'classifier')
    """
    if width % heads:
        raise ValueError(f"width={width} is no multiple of heads={heads}: set width={heads * (width // heads + 1)}")
    module = Transformer(classes, width, heads, layers, vocabulary, each)
    return from_linen(module, *_sequence(shape, vocabulary), init=init)
