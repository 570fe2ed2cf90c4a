"""How much each number of a model counts for the examples of a client."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax.learning import losses
from pfljax.learning.local import average
from pfljax.learning.metrics import like_labels
from pfljax.types import Array, Batch, ClientData, LossFn, Params, Task, Tree


def fisher(task: Task, params: Params, data: ClientData, key: Array, batch_size: int = 16) -> Tree:
    """The diagonal of the empirical Fisher information, `(1/n) sum_s (grad l(w; s))^2` for each number of the model.

    `l` is the `loss` that the task measures, as in an evaluation: of one example, with dropout off and norm layers at
    their running statistics. A task that measures none is judged by the loss that it trains. Zeros without examples.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0], sizes=[3])
    >>> key = jax.random.key(0)
    >>> float(fisher(task, task.init(key), data.client(0), key)["w"])
    64.0
    """
    loss = _measured(task)

    def of(batch: Batch, number: Array) -> Tree:
        def squares(x: Tree, y: Array) -> Tree:
            one = Batch(jax.tree.map(lambda leaf: leaf[None], x), y[None], jnp.ones(1, batch.mask.dtype))
            return jax.tree.map(jnp.square, losses.gradient(loss, params, one, jax.random.fold_in(key, number))[0])

        shares = batch.mask / jnp.maximum(jnp.sum(batch.mask), 1)
        each = jax.vmap(squares)(batch.x, batch.y)
        return jax.tree.map(lambda rows: jnp.tensordot(shares.astype(rows.dtype), rows, 1), each)

    return average(of, data, batch_size)


def _measured(task: Task) -> LossFn:
    """The loss that a task measures, as a loss to descend."""
    for metric in task.metrics:
        if metric.name == "loss":
            return lambda params, batch, key: (
                metric.finish(metric.sum(task.predict(params, batch.x), batch.y, like_labels(batch))),
                params.stats,
            )
    return task.loss
