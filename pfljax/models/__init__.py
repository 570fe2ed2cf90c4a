"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pfljax import checks
from pfljax.checks import Count
from pfljax.models import sizes
from pfljax.models.convolution import cnn
from pfljax.models.dense import factors, logistic, mlp, tabular
from pfljax.models.initial import Init
from pfljax.models.kernels.pool import max_pool
from pfljax.models.kernels.rewrite import fast
from pfljax.models.linen import from_linen
from pfljax.models.mobilenet import mobilenet_v1
from pfljax.models.precision import Precision, compute_in
from pfljax.models.recurrent import char_lstm
from pfljax.models.resnet import resnet8, resnet18, resnet34
from pfljax.models.sequences import cnn1d, gru, lstm, transformer
from pfljax.types import Model


def _char_lstm(
    shape: Sequence[int],
    classes: int,
    embedding: Count = 8,
    hidden: Count = 256,
    layers: Count = 2,
    init: Init = "flax",
) -> Model:
    if len(sizes.example(shape, "[length]")) != 1:
        raise ValueError(f"shape={tuple(shape)}: char_lstm reads tokens [length], one whole number at each place")
    return char_lstm(classes, *shape, embedding=embedding, hidden=hidden, layers=layers, init=init)


MODELS: dict[str, Callable[..., Model]] = {
    "char_lstm": _char_lstm,
    "cnn": cnn,
    "cnn1d": cnn1d,
    "factors": factors,
    "gru": gru,
    "logistic": logistic,
    "lstm": lstm,
    "mlp": mlp,
    "mobilenet_v1": mobilenet_v1,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet8": resnet8,
    "tabular": tabular,
    "transformer": transformer,
}
"""Name -> factory `(shape, classes, **kwargs) -> Model`."""


def by_name(name: str, shape: Sequence[int], classes: int, **kwargs: Any) -> Model:
    """The model `name` of `MODELS` for examples of `shape` and `classes` outputs.

    Raises:
      ValueError: if there is no such model.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}: {checks.nearest(name, MODELS)}")
    return MODELS[name](shape, classes, **kwargs)


__all__ = [
    "MODELS",
    "Init",
    "Precision",
    "by_name",
    "char_lstm",
    "cnn",
    "cnn1d",
    "compute_in",
    "factors",
    "fast",
    "from_linen",
    "gru",
    "logistic",
    "lstm",
    "max_pool",
    "mlp",
    "mobilenet_v1",
    "resnet8",
    "resnet18",
    "resnet34",
    "tabular",
    "transformer",
]
