"""What each model consists of, for contenders in any framework: they must all train the same network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

Examples = Callable[[], list[tuple[Any, Any]]]
"""`() -> (x uint8 [n, *shape], y int64 [n])` of each client."""


class Layers(NamedTuple):
    """A feed-forward network: convolutions, each with ReLU and perhaps a 2x2 max-pooling, then dense layers with ReLU.

    Args:
      convolutions: (channels, size of the kernel, whether pooling follows), without padding.
      dense: widths of the hidden dense layers.
      dropout: before the first dense layer and before the classifier.
    """

    convolutions: tuple[tuple[int, int, bool], ...] = ()
    dense: tuple[int, ...] = ()
    dropout: tuple[float, float] = (0.0, 0.0)


_NETWORKS = {
    "cnn": Layers(((32, 5, True), (64, 5, True)), (512,)),
    "lenet": Layers(((6, 5, True), (16, 5, True)), (120, 84)),
    "logistic": Layers(),
    "mlp": Layers((), (100,)),
    "small_cnn": Layers(((32, 3, False), (64, 3, True)), (128,), (0.25, 0.5)),
}


def layers(workload: dict[str, Any]) -> Layers:
    """The feed-forward network of a workload.

    Raises:
      NotImplementedError: if its model is of another kind.
    """
    if workload["model"] not in _NETWORKS:
        raise NotImplementedError(f"no {workload['model']} written for this contender")
    hidden = workload["model_options"].get("hidden")
    network = _NETWORKS[workload["model"]]
    return network._replace(dense=tuple(hidden)) if hidden else network


def shapes(workload: dict[str, Any]) -> list[tuple[int, ...]]:
    """Matrices [outputs, inputs], kernels [outputs, inputs, height, width] and vectors, the classifier's last.

    Raises:
      NotImplementedError: for a model without a rival.
    """
    shape, classes, model = tuple(workload["shape"]), workload["classes"], workload["model"]
    channels = shape[2] if len(shape) == 3 else 1
    if model == "resnet8":
        return _resnet8(channels, classes)
    if model == "char_lstm":
        return _char_lstm(classes, **workload["model_options"])
    network, sizes, sides = layers(workload), [], shape[:2]
    for wide, kernel, pooled in network.convolutions:
        sizes += [(wide, channels, kernel, kernel), (wide,)]
        channels, sides = wide, tuple((side - kernel + 1) // (2 if pooled else 1) for side in sides)
    width = channels * math.prod(sides)
    for wide in (*network.dense, classes):
        sizes += [(wide, width), (wide,)]
        width = wide
    return sizes


def _resnet8(channels: int, classes: int) -> list[tuple[int, ...]]:
    """Each convolution is followed by the scale and the bias of its norm, each block's by its shortcut's."""
    sizes, width = [(16, channels, 3, 3), (16,), (16,)], 16
    for wide in (16, 32, 64):
        sizes += [(wide, width, 3, 3), (wide,), (wide,), (wide, wide, 3, 3), (wide,), (wide,)]
        sizes += [] if wide == width else [(wide, width, 1, 1), (wide,), (wide,)]
        width = wide
    return [*sizes, (classes, width), (classes,)]


def _char_lstm(vocabulary: int, embedding: int = 8, hidden: int = 256, layers: int = 2) -> list[tuple[int, ...]]:
    """Each cell has a matrix for its inputs, one for its state, and one bias."""
    sizes, width = [(vocabulary, embedding)], embedding
    for _ in range(layers):
        sizes += [(4 * hidden, width), (4 * hidden, hidden), (4 * hidden,)]
        width = hidden
    return [*sizes, (vocabulary, hidden), (vocabulary,)]


def channels_first(x: Any) -> Any:
    """Bytes [n, height, width] or [n, height, width, channels] as numbers in [-1, 1], [n, channels, height, width]."""
    x = x.astype("float32") / 127.5 - 1
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2).copy()


def same_size(workload: dict[str, Any], count: int) -> None:
    """Checks that a contender's model has the parameters it should.

    Raises:
      ValueError: if `count` is another number.
    """
    expected = sum(math.prod(size) for size in shapes(workload))
    if count != expected:
        raise ValueError(f"{workload['model']} has {count} parameters instead of {expected}: not the same network")
