"""Networks of published benchmarks that are no models of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import linen as nn

from pfljax.models import by_name, from_linen
from pfljax.models.layers import Classifier, flat, image
from pfljax.types import Array, Model


class LeNet(nn.Module):
    """conv5x5(6) - pool - conv5x5(16) - pool - dense 120 - dense 84 - dense, as in PyTorch's CIFAR-10 tutorial."""

    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = image(x)
        for channels in (6, 16):
            x = nn.Conv(channels, (5, 5), padding="VALID")(x)
            x = nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
        x = flat(x)
        for width in (120, 84):
            x = nn.relu(nn.Dense(width)(x))
        return Classifier(self.classes, name="classifier")(x)


class SmallCNN(nn.Module):
    """conv3x3(32) - conv3x3(64) - pool - dropout - dense 128 - dropout - dense, as in FedML, FLUTE and pfl-research."""

    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.relu(nn.Conv(32, (3, 3), padding="VALID")(image(x)))
        x = nn.Conv(64, (3, 3), padding="VALID")(x)
        x = nn.relu(nn.max_pool(x, (2, 2), (2, 2)))
        x = nn.relu(nn.Dense(128)(flat(nn.Dropout(0.25)(x))))
        return Classifier(self.classes, name="classifier")(nn.Dropout(0.5)(x))


_NETWORKS: dict[str, Callable[[int], nn.Module]] = {"lenet": LeNet, "small_cnn": SmallCNN}


def network(name: str, shape: Sequence[int], classes: int, options: dict[str, Any]) -> Model:
    """The model of a workload."""
    if name in _NETWORKS:
        return from_linen(_NETWORKS[name](classes), shape)
    return by_name(name, shape, classes, **options)
