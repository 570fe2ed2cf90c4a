"""FedDecorr: features of a client's model are kept from saying all the same."""

import jax.numpy as jnp

from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.types import Algorithm, Array, Batch, LocalSolver, Model, Params, Task, Tree

_EPS = 1e-8
"""Added to variances, as in the authors' code."""


def feddecorr(
    task: Task, local: LocalSolver, model: Model, *, beta: Array | float = 0.1, server: ServerOptimizer | None = None
) -> Algorithm:
    """FedAvg on the loss `f_i(w) + beta ||K||_F^2 / d^2`, K the correlations of the d features in a minibatch.

    Where classes are unevenly dealt, features collapse to few dimensions; K then has large entries.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      beta: strength, >= 0, traced; 0 is FedAvg.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|; all deploy the server model.

    Raises:
      ValueError: if the model has no features.

    Deviations from the source: features are those of prediction, without dropout and with norm layers' running
    statistics. Source: Shi et al., "Towards Understanding and Mitigating Dimensional Collapse in Heterogeneous
    Federated Learning", ICLR 2023, equation of L_FedDecorr.

    Two features that are one and the same: K is 1 everywhere.

    >>> z = jnp.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]])
    >>> round(float(decorrelation(z, jnp.ones(3))), 4)
    1.0
    """
    if model.features is None:
        raise ValueError("feddecorr reads features, and the model has none: see pfljax.models.from_linen")
    features = model.features

    def decorrelated(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = task.loss(params, batch, key)
        return value + beta * decorrelation(features(params, batch.x)[0], batch.mask), stats

    return averaging(task, local, lambda w: decorrelated, server=server)


def decorrelation(z: Array, mask: Array) -> Array:
    """`||K||_F^2 / d^2` of the unmasked rows of features [B, ..., d]; 0 for a single row."""
    rows = z.reshape(z.shape[0], -1)
    counts = mask.astype(rows.dtype)[:, None]
    n = jnp.maximum(jnp.sum(counts), 1)
    centered = (rows - jnp.sum(rows * counts, axis=0, keepdims=True) / n) * counts
    scaled = centered / jnp.sqrt(jnp.sum(jnp.square(centered), axis=0, keepdims=True) / n + _EPS)
    return jnp.mean(jnp.square(scaled.T @ scaled / n))
