"""Layers that the networks share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from pfljax import checks
from pfljax.types import Array

Norm = Literal["group", "batch", "layer"]


def normalization(kind: Norm, channels: int) -> nn.Module:
    """A norm layer over `channels`: `"group"` (groups of about 16 channels), `"batch"` (momentum 0.9) or `"layer"`.

    Group norm is the usual choice in federated learning: it measures nothing across examples or clients.

    Raises:
      ValueError: for another kind.
    """
    kinds: dict[str, Callable[[], nn.Module]] = {
        "group": lambda: nn.GroupNorm(num_groups=math.gcd(channels, max(channels // 16, 1)), epsilon=1e-5),
        "batch": lambda: nn.BatchNorm(momentum=0.9, epsilon=1e-5),
        "layer": lambda: nn.LayerNorm(epsilon=1e-5),
    }
    return kinds[checks.choice(kind, kinds, "norm")]()


def image(x: Array) -> Array:
    """Images [B, H, W] or [B, H, W, channels] with their channel axis."""
    return x[..., jnp.newaxis] if x.ndim == 3 else x


def flat(x: Array) -> Array:
    """[B, ...] as [B, features]."""
    return x.reshape(x.shape[0], -1)


def conv(channels: int, size: int, stride: int = 1, *, groups: int = 1) -> nn.Conv:
    """A square convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv(
        channels,
        (size, size),
        stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
    )


class Stem(nn.Module):
    """The first block of a residual network: a convolution with norm and ReLU.

    Small images (below 64 pixels a side) get a 3x3 convolution of stride 1; others a 7x7 convolution of stride 2 and
    a 3x3 max-pooling of stride 2, as on ImageNet.
    """

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = image(x)
        small = min(x.shape[1:3]) < 64
        x = conv(self.channels, 3)(x) if small else conv(self.channels, 7, 2)(x)
        x = nn.relu(normalization(self.norm, self.channels)(x))
        return x if small else nn.max_pool(x, (3, 3), (2, 2), [(1, 1), (1, 1)])  # pyright: ignore[reportArgumentType]


class Classifier(nn.Module):
    """The last layer: `x @ kernel.T + bias`, with the kernel [outputs, inputs].

    With few outputs a training step of this layout takes half the time of the usual one on a CPU. With a `reference`,
    one more output comes before them, which is 0.
    """

    features: int
    reference: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        lecun = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        kernel = self.param("kernel", lecun, (self.features, x.shape[-1]))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = promote_dtype(x, kernel, bias)
        outputs = x @ kernel.T + bias.reshape((1,) * (x.ndim - 1) + (-1,))
        return jnp.pad(outputs, [(0, 0)] * (x.ndim - 1) + [(1, 0)]) if self.reference else outputs


class Recurrent(nn.Module):
    """A layer that reads sequences place by place, with so many hidden units."""

    features: int


class Vector(nn.Module):
    """Inputs [B, ...] with a vector of parameters beside each of them, zeros at first.

    Where it stays with the clients, it is an embedding of each: the rest of the network knows who they are by it.
    """

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        vector = self.param("vector", nn.initializers.zeros, (self.size,), jnp.float32)
        x, vector = promote_dtype(flat(x), vector)
        return jnp.concatenate([x, jnp.broadcast_to(vector, (x.shape[0], self.size))], axis=1)


class Adapter(nn.Module):
    """`up(activation(down(x)))`, a way through few units that is added to a layer; zeros at first."""

    outputs: int
    width: int
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        few = self.activation(nn.Dense(self.width, name="down")(x))
        return nn.Dense(self.outputs, kernel_init=nn.initializers.zeros, name="up")(few)
