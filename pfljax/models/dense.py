"""Networks of dense layers."""

from __future__ import annotations

from collections.abc import Sequence

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
