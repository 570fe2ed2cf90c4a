"""Residual networks of basic blocks."""

from __future__ import annotations

from collections.abc import Sequence

from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier, Norm, Stem, conv, normalization
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution with its norm where the shape changes."""

    channels: int
    stride: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = conv(self.channels, 3, self.stride)(x)
        y = nn.relu(normalization(self.norm, self.channels)(y))
        y = normalization(self.norm, self.channels)(conv(self.channels, 3)(y))
        if x.shape != y.shape:
            x = normalization(self.norm, self.channels)(conv(self.channels, 1, self.stride)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A stem, stages of basic blocks (each twice as wide on half the image), the mean over places, a classifier."""

    stages: Sequence[int]
    width: int
    classes: int
    norm: Norm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Stem(self.width, self.norm)(x)
        for stage, count in enumerate(self.stages):
            for i in range(count):
                x = Block(self.width * 2**stage, 2 if stage and not i else 1, self.norm)(x)
        return Classifier(self.classes, name="classifier")(x.mean(axis=(1, 2)))


@checks.by_hints()
def resnet8(shape: Sequence[int], classes: checks.Count, norm: Norm = "group", init: Init = "flax") -> Model:
    """ResNet-8 of 16, 32 and 64 channels, one basic block a stage; 5 blocks with stem and classifier.

    The family of 6n + 2 layers of He et al. (CVPR 2016, section 4.2), with n = 1, and 1x1 convolutions as shortcuts.
    `norm` is `"group"`, `"batch"` or `"layer"`; `init` is how layers start, see `from_linen`.
    """
    return from_linen(ResNet((1, 1, 1), 16, classes, norm), sizes.image(shape), init=init)


@checks.by_hints()
def resnet18(shape: Sequence[int], classes: checks.Count, norm: Norm = "group", init: Init = "flax") -> Model:
    """ResNet-18: 2, 2, 2, 2 basic blocks of 64 to 512 channels; 10 blocks with stem and classifier.

    Source: He et al., "Deep residual learning for image recognition", CVPR 2016, table 1,
    https://arxiv.org/abs/1512.03385. The stem fits the image: see `pfljax.models.layers.Stem`.
    """
    return from_linen(ResNet((2, 2, 2, 2), 64, classes, norm), sizes.image(shape), init=init)


@checks.by_hints()
def resnet34(shape: Sequence[int], classes: checks.Count, norm: Norm = "group", init: Init = "flax") -> Model:
    """ResNet-34: 3, 4, 6, 3 basic blocks of 64 to 512 channels; 18 blocks with stem and classifier. See `resnet18`."""
    return from_linen(ResNet((3, 4, 6, 3), 64, classes, norm), sizes.image(shape), init=init)
