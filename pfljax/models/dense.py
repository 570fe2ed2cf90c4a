"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import linen as nn

from pfljax import checks
from pfljax.models import sizes
from pfljax.models.layers import Classifier, flat
from pfljax.models.linen import from_linen
from pfljax.types import Array, Model


class MLP(nn.Module):
    """Dense layers with ReLU between them; the last one is the classifier."""

    hidden: Sequence[int]
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = flat(x)
        for width in self.hidden:
            x = nn.relu(nn.Dense(width)(x))
        return Classifier(self.classes, name="classifier")(x)


@checks.by_hints()
def mlp(shape: Sequence[int], classes: checks.Count, hidden: Sequence[checks.Count] = (100,)) -> Model:
    """A multilayer perceptron with ReLU on the flattened example; its blocks are its dense layers."""
    return from_linen(MLP(tuple(hidden), classes), sizes.example(shape, "[...]"))


@checks.by_hints()
def logistic(shape: Sequence[int], classes: checks.Count) -> Model:
    """Multinomial logistic regression on the flattened example: `logits = W x + b`; a linear model if `classes=1`."""
    return mlp(shape, classes, ())


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
def factors(shape: Sequence[int], classes: checks.Count, items: checks.Count = 1000, width: checks.Count = 8) -> Model:
    """Rows that are learned for each of so many items, whose numbers are the examples: `outputs = y_x W`.

    >>> import jax
    >>> model = factors((), 1, items=3, width=2)
    >>> params = model.init(jax.random.key(0))
    >>> params.trainable["items"]["embedding"].shape, model.apply(params, jax.numpy.array([2, 0]))[0].shape
    ((3, 2), (2, 1))
    """
    return from_linen(Factors(items, width, classes), sizes.example(shape, "[] or [1]"), dtype=jnp.int32)
