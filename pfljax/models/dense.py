"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.initial import Init
from pfljax.models.layers import Adapter, Classifier, Vector, flat
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model


class MLP(nn.Module):
    """Dense layers with an activation after each but the last one, which is the classifier; see `mlp`."""

    hidden: Sequence[int]
    classes: int
    linear: bool = False
    vector: int = 0
    bottleneck: int = 0
    low_rank: int = 0
    norm: str = "none"
    reference: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Vector(self.vector, name="vector")(x) if self.vector else flat(x)
        for number, width in enumerate(self.hidden):
            z = nn.Dense(width)(x)
            if self.low_rank:
                z += Adapter(width, self.low_rank, lambda few: few, name=f"low_rank_{number}")(x)
            z = z if self.norm == "none" else nn.LayerNorm(name=f"norm_{number}")(z)
            x = z if self.linear else nn.relu(z)
            if self.bottleneck:
                x += Adapter(width, self.bottleneck, name=f"bottleneck_{number}")(x)
        return Classifier(self.classes - self.reference, self.reference, name="classifier")(x)


@checks.by_hints()
def mlp(
    shape: Sequence[int],
    classes: checks.Count,
    hidden: Sequence[checks.Count] = (100,),
    *,
    linear: bool = False,
    vector: checks.Size = 0,
    bottleneck: checks.Size = 0,
    low_rank: checks.Size = 0,
    norm: Literal["none", "layer"] = "none",
    reference: bool = False,
    init: Init = "flax",
) -> Model:
    """A multilayer perceptron on the flattened example; its blocks are its dense layers, and what is added to them.

    Parts that start as nothing are there to be personal, by their paths:

    Args:
      shape: of one example.
      classes: outputs.
      hidden: widths of the hidden layers.
      linear: hidden layers without ReLU.
      vector: numbers beside the inputs, `"vector"`: an embedding of each client.
      bottleneck: width of an adapter after each hidden layer, `"bottleneck_0"` and so on: `x + up(relu(down(x)))`.
      low_rank: rank of what is added to the kernel of each hidden layer, `"low_rank_0"` and so on.
      norm: layer norm before each activation, `"norm_0"` and so on, or none.
      reference: the first output is 0, so that two classes have one logit, as in most logistic regressions.
      init: how layers start, see `from_linen`.

    >>> mlp((4,), 2, (8,), vector=3, bottleneck=2).blocks
    ('vector', 'Dense_0', 'bottleneck_0', 'classifier')
    """
    module = MLP(tuple(hidden), classes, linear, vector, bottleneck, low_rank, norm, reference)
    return from_linen(module, sizes.example(shape, "[...]"), init=init)


@checks.by_hints()
def logistic(shape: Sequence[int], classes: checks.Count, reference: bool = False, init: Init = "flax") -> Model:
    """Multinomial logistic regression on the flattened example: `logits = W x + b`; a linear model if `classes=1`.

    Arguments as of `mlp`.
    """
    return mlp(shape, classes, (), reference=reference, init=init)


class Tabular(nn.Module):
    """Numbers beside an embedding of each category, then dense layers; see `tabular`."""

    categories: Sequence[int]
    width: int
    hidden: Sequence[int]
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        ends = x.shape[1] - np.cumsum(self.categories[::-1])[::-1]
        numbers, *flags = jnp.split(x, ends, axis=1)
        for number, (count, flag) in enumerate(zip(self.categories, flags, strict=True)):
            rows = nn.Embed(count, self.width, name=f"category_{number}")(jnp.argmax(flag, axis=1))
            numbers = jnp.concatenate([numbers, rows * flag.sum(axis=1, keepdims=True)], axis=1)
        x = numbers
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return Classifier(self.classes, name="classifier")(x)


@checks.by_hints()
def tabular(
    shape: Sequence[int],
    classes: checks.Count,
    categories: Sequence[checks.Count],
    width: checks.Count = 4,
    hidden: Sequence[checks.Count] = (64,),
    init: Init = "flax",
) -> Model:
    """A multilayer perceptron on the rows of a table, which learns an embedding of each category.

    Args:
      shape: [features]: numbers first, then for each column of categories one feature of 0 or 1 for each of them.
      classes: outputs.
      categories: how many each such column has; a row without any has an embedding of zeros.
      width: of an embedding.
      hidden: widths of the hidden layers.
      init: how layers start, see `from_linen`.

    Raises:
      ValueError: if there are more categories than features.

    >>> tabular((9,), 2, categories=(3, 4)).blocks
    ('category_0', 'category_1', 'Dense_0', 'classifier')
    """
    size = sizes.example(shape, "[features]")
    if len(size) != 1 or sum(categories) > size[0]:
        raise ValueError(f"shape={size}: rows of a table are [features], at least {sum(categories)} for {categories=}")
    return from_linen(Tabular(tuple(categories), width, tuple(hidden), classes), size, init=init)


class Factors(nn.Module):
    """A row for each item, and one more layer without a bias."""

    items: int
    width: int
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        rows = nn.Embed(self.items, self.width, name="items")(x.reshape(x.shape[0]))
        return nn.Dense(self.classes, use_bias=False, name="factor")(rows)


@checks.by_hints()
def factors(
    shape: Sequence[int],
    classes: checks.Count,
    items: checks.Count = 1000,
    width: checks.Count = 8,
    init: Init = "flax",
) -> Model:
    """Rows that are learned for each of so many items, whose numbers are the examples: `outputs = y_x W`.

    `init` is how they start, see `from_linen`.

    >>> import jax
    >>> model = factors((), 1, items=3, width=2)
    >>> params = model.init(jax.random.key(0))
    >>> params.trainable["items"]["embedding"].shape, model.apply(params, jax.numpy.array([2, 0]))[0].shape
    ((3, 2), (2, 1))
    """
    return from_linen(Factors(items, width, classes), sizes.example(shape, "[] or [1]"), jnp.int32, init=init)
