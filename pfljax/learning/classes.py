"""What a method knows of classes: how many there are, and which of them a client holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.learning.local import average
from pfljax.types import Array, Batch, ClientData, Model, Params, Tree


def number(model: Model, does: str) -> int:
    """C, the number of the outputs of a model with features.

    Args:
      model: the network.
      does: the method and what it does with features, for the error, such as `"fedrod puts two heads on features"`.

    Raises:
      ValueError: if the model has no features.
    """
    if model.features is None:
        raise ValueError(f"{does}, and the model has none: see pfljax.models.from_linen")

    def outputs() -> Array:  # its key is made within, so that nothing is computed before the first simulation
        return model.head(model.init(jax.random.key(0)), jnp.zeros((1, *model.features_shape)))[0]

    return jax.eval_shape(outputs).shape[-1]


def shares(data: ClientData, classes: int, method: str) -> Array:
    """[C] the share of each class among the client's examples, zeros without any.

    Raises:
      ValueError: if labels are not one class for each example; the sentence names the `method`.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[0.0]] * 4, [0, 2, 2, 2])], num_classes=3)
    >>> shares(data.client(0), 3, "fedrod").tolist()
    [0.25, 0.0, 0.75]
    """
    checks.classes(data.examples.y, method)

    def of(batch: Batch, number: Array) -> Array:
        del number
        rows = jax.nn.one_hot(batch.y, classes, dtype=batch.mask.dtype) * batch.mask[:, None]
        return jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(batch.mask), 1)

    return average(of, data, batch_size=128)


def means(model: Model, params: Params, data: ClientData, classes: int, method: str) -> tuple[Array, Array]:
    """[C, d] the mean features of the client's examples of each class, and [C] the shares of the classes.

    A class without examples has zeros.

    Raises:
      ValueError: if labels are not one class for each example; the sentence names the `method`.
    """
    checks.classes(data.examples.y, method)

    def of(batch: Batch, number: Array) -> tuple[Array, Array]:
        del number
        z = flat_features(model, params, batch.x)
        rows = jax.nn.one_hot(batch.y, classes, dtype=z.dtype) * batch.mask.astype(z.dtype)[:, None]
        return rows.T @ z / jnp.maximum(jnp.sum(rows), 1), jnp.sum(rows, axis=0) / jnp.maximum(jnp.sum(rows), 1)

    total, held = average(of, data, batch_size=128)
    return total / jnp.where(held > 0, held, 1)[:, None], held


def flat_features(model: Model, params: Params, x: Tree) -> Array:
    """[B, d] the features of a model, as in prediction."""
    z = model.features(params, x)[0]  # pyright: ignore[reportOptionalCall]
    return z.reshape(z.shape[0], -1)
