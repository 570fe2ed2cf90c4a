"""The convolutional network of the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.initial import Init
from pfljax.models.layers import Classifier, flat, image
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model


class CNN(nn.Module):
    """Two convolutions with pooling, one hidden dense layer, the classifier."""

    classes: int
    padding: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = image(x)
        for channels in (32, 64):
            x = nn.Conv(channels, (5, 5), padding=self.padding)(x)
            x = nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(nn.Dense(512)(flat(x)))
        return Classifier(self.classes, name="classifier")(x)


@checks.by_hints()
def cnn(
    shape: Sequence[int],
    classes: checks.Count,
    padding: Literal["SAME", "VALID"] | None = None,
    init: Init = "flax",
) -> Model:
    """conv5x5(32) - pool - conv5x5(64) - pool - dense 512 - dense: 582,026 parameters on 28x28x1 with 10 classes.

    ReLU follows the pooling, which gives the same values as before it for a quarter of the work.
    The network of McMahan et al. (AISTATS 2017, https://arxiv.org/abs/1602.05629) without padding, as PFLlib has it.

    Args:
      shape: (height, width) or (height, width, channels).
      classes: number of outputs.
      padding: `"VALID"` or `"SAME"`. Default: `"VALID"` where both convolutions fit, which takes 16 pixels a side,
        else `"SAME"`.
      init: how layers start, see `from_linen`; PFLlib's is `"torch"`.

    Raises:
      ValueError: if `shape` is no image with its channels last, or is smaller than 4 pixels a side (16 for `"VALID"`).
    """
    shape = sizes.image(shape, 16 if padding == "VALID" else 4)
    return from_linen(CNN(classes, padding or ("VALID" if min(shape[:2]) >= 16 else "SAME")), shape, init=init)
