"""FedDecorr: features that are not alike, so that they do not collapse where clients have few classes."""

import jax.numpy as jnp

from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.types import Algorithm, Array, Batch, LocalSolver, Model, Params, Task, Tree


def feddecorr(
    task: Task, local: LocalSolver, model: Model, *, beta: Array | float = 0.1, server: ServerOptimizer | None = None
) -> Algorithm:
    """FedAvg whose clients descend `f_i(w) + beta/d^2 ||K||_F^2`, K [d, d] the correlation of a batch's features.

    `K = (1/B) sum_s u_s u_s'`, u_s the features of an example, each less its mean over the batch and divided by its
    standard deviation there.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      model: the network of the task, which must have features; d is their number.
      beta: strength, >= 0, traced; 0 is FedAvg.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Raises:
      ValueError: if the model has no features.

    Deviations from the source: a feature whose variance in a batch is below 1e-8 counts as constant, and is correlated
    with none; so a batch of one example has no correlation.
    Source: Shi et al., "Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous Federated Learning",
    ICLR 2023, equation 6.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1])]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> pfl.simulate(task, feddecorr(task, solve, model), data, rounds=5).clients().tolist()
    [1.0]
    """
    features = model.features
    if features is None:
        raise ValueError("feddecorr reads features, and the model has none: see pfljax.models.from_linen")

    def decorrelated(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = task.loss(params, batch, key)
        z = features(params, batch.x, train=True, mask=batch.mask, key=key)[0]
        return value + beta * _correlation(z, batch.mask), stats

    return averaging(task, local, lambda w: decorrelated, server=server)


def _correlation(z: Array, mask: Array) -> Array:
    """`||K||_F^2 / d^2` of the unmasked rows; K' K and the Gram matrix of the examples have the same norm."""
    z, mask = z.reshape(z.shape[0], -1), mask.astype(z.dtype)[:, None]
    rows = jnp.maximum(jnp.sum(mask), 1)
    centered = mask * (z - jnp.sum(mask * z, axis=0, keepdims=True) / rows)
    variance = jnp.sum(centered**2, axis=0, keepdims=True) / rows
    varies = variance > 1e-8
    u = jnp.where(varies, centered / jnp.sqrt(jnp.where(varies, variance, 1)), 0)
    return jnp.sum((u @ u.T / rows) ** 2) / z.shape[1] ** 2
