"""MobileNet, version 1."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier, Norm, conv, image, normalization
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model

LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
"""(channels, stride) of each separable block."""


class Separable(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 convolution, each with norm and ReLU."""

    channels: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        before = x.shape[-1]
        x = nn.relu(normalization(self.norm, before)(conv(before, 3, self.stride, groups=before)(x)))
        return nn.relu(normalization(self.norm, self.channels)(conv(self.channels, 1)(x)))


class Stem(nn.Module):
    """A 3x3 convolution with norm and ReLU, of stride 2 from 64 pixels a side on."""

    channels: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = image(x)
        x = conv(self.channels, 3, 2 if min(x.shape[1:3]) >= 64 else 1)(x)
        return nn.relu(normalization(self.norm, self.channels)(x))


class MobileNet(nn.Module):
    """A stem, 13 depthwise separable blocks, the mean over places, a classifier."""

    classes: int
    width: float
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Stem(max(8, int(32 * self.width)), self.norm)(x)
        for channels, stride in LAYERS:
            x = Separable(max(8, int(channels * self.width)), stride, self.norm)(x)
        return Classifier(self.classes, name="classifier")(x.mean(axis=(1, 2)))


@checks.by_hints()
def mobilenet_v1(
    shape: Sequence[int],
    classes: checks.Count,
    width: checks.Positive = 1.0,
    norm: Norm = "group",
    init: Init = "flax",
) -> Model:
    """MobileNet-v1; 15 blocks: the stem, 13 depthwise separable blocks, the classifier.

    Args:
      shape: (height, width, channels). Below 64 pixels a side the stem has stride 1.
      classes: number of outputs.
      width: multiplier of all channels, which stay at least 8.
      norm: `"group"`, `"batch"` or `"layer"`.
      init: how layers start, see `from_linen`.

    Source: Howard et al., "MobileNets", 2017, table 1, https://arxiv.org/abs/1704.04861.
    """
    return from_linen(MobileNet(classes, width, norm), sizes.image(shape), init=init)
