"""FedLC: logits are calibrated by how many examples of each class a client has."""

from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning.classes import shares
from pfljax.learning.metrics import masked_mean
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Model, Params, Reply, Task, Tree

_NEVER = -1e9
"""The logit of a class that does not count."""


def fedlc(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    tau: Array | float = 1.0,
    denominator: Literal["inclusive", "exclusive"] = "inclusive",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose clients ask for more of the classes that they have few examples of.

    With `n_c` the client's examples of class c and f the logits, each example (x, y) has the loss

    `-log(e^{f_y(x) - tau n_y^{-1/4}} / sum_c e^{f_c(x) - tau n_c^{-1/4}})`,

    the sum over the classes that the client has.

    Args:
      task: the model; its loss is not used.
      local: solver of a client's round.
      model: the network of the task.
      tau: strength of the calibration, >= 0, traced; 0 is cross-entropy among the client's own classes.
      denominator: `"exclusive"` leaves y out of the sum, as in the paper: that loss has no lower bound. `"inclusive"`
        is what code in public does.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Raises:
      ValueError: if `denominator` is neither, or, when traced, if labels are not one class for each example.

    Deviations from the source: the default `denominator`.
    Source: Zhang et al., "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022.

    A client with one example of class 0 in four learns to be as sure of it as of the other:

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [0, 1, 1, 1])]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(99, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> method = fedlc(task, solve, model, tau=np.log(3) / (1 - 3**-0.25))
    >>> said = pfl.simulate(task, method, data, rounds=9).models[0].predict(np.ones((1, 2)))
    >>> bool(abs(said[0, 0] - said[0, 1]) < 1e-3)
    True
    """
    if denominator not in ("inclusive", "exclusive"):
        raise ValueError(f"denominator={denominator!r}: choose 'inclusive' or 'exclusive'")

    def calibrated(n: Array) -> LossFn:
        """The loss where the client has n examples of each class [C]."""
        margins = tau * jnp.where(n > 0, n, 1) ** -0.25

        def loss(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            logits, stats = model.apply(w, batch.x, train=True, mask=batch.mask, key=key)
            shifted = jnp.where((n > 0)[None], logits - margins.astype(logits.dtype)[None], _NEVER)
            right = jax.nn.one_hot(batch.y, n.size, dtype=bool)
            rivals = jnp.where(right, _NEVER, shifted) if denominator == "exclusive" else shifted
            losses = jax.nn.logsumexp(rivals, axis=-1) - jnp.sum(jnp.where(right, shifted, 0), axis=-1)
            return masked_mean(losses, batch.mask), stats

        return loss

    def client_update(w: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        classes = jax.eval_shape(task.predict, w, jax.tree.map(lambda x: x[:1], data.examples.x)).shape[-1]
        n = shares(data, classes, "fedlc") * data.size.astype(float)
        return Reply(tree.sub(w, local(calibrated(n), w, data, jax.random.fold_in(key, 0))), client)

    return averaging(task, local, server=server)._replace(client_update=client_update)
