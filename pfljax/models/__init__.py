"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pfljax import checks
from pfljax.checks import Count
from pfljax.models import sizes
from pfljax.models.context import contextual
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

if TYPE_CHECKING:
    from pfljax.models.modules import from_nnx


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


def _contextual(
    shape: Sequence[int],
    classes: int,
    context: Count,
    network: str = "mlp",
    options: dict[str, Any] | None = None,
    init: Init = "flax",
) -> Model:
    *more, last = sizes.example(shape, "[...] with the context of its client at the end")
    if last <= context:
        raise ValueError(
            f"context={context} numbers of examples {tuple(shape)}, which end with {last}: put them there first, with "
            "data.featurized=True or pfl.data.featurized"
        )
    inner = by_name(network, (*more, last - context), classes, **{"init": init} | (options or {}))
    return contextual(inner, classes, context, init=init)


def __getattr__(name: str) -> Any:
    """`from_nnx`, since nnx brings IPython with it, which takes a second that others need not wait."""
    if name != "from_nnx":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pfljax.models.modules import from_nnx

    return from_nnx


MODELS: dict[str, Callable[..., Model]] = {
    "char_lstm": _char_lstm,
    "cnn": cnn,
    "cnn1d": cnn1d,
    "contextual": _contextual,
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
    "contextual",
    "factors",
    "fast",
    "from_linen",
    "from_nnx",
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
