"""FedLC: classes that are rare with a client get a margin in its loss."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning import classes
from pfljax.learning.metrics import masked_mean
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Model, Params, Reply, Task, Tree

Denominator = Literal["inclusive", "exclusive"]


def fedlc(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    tau: Array | float = 1.0,
    denominator: Denominator = "inclusive",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg on logits that are calibrated by how many examples of each class a client has.

    With f the logits, `nu_ik` the examples of class k of client i, and margins `m_ik = tau nu_ik^(-1/4)`:

    `l_i(w; x, y) = -log(exp(f_y - m_iy) / sum_k exp(f_k - m_ik))`.

    Classes that the client does not have are left out of the sum.

    Args:
      task: the model; its loss is not used.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      tau: strength of the margins, >= 0, traced; 0 is FedAvg on the classes that a client has.
      denominator: the sum is over all classes ("inclusive", as in all public code), or over all but y ("exclusive", as
        in the paper, where a loss can be negative). A client of one class learns nothing by either.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|; all deploy the server model.

    Raises:
      ValueError: if the denominator is neither or the model has no features, or, when traced, if labels are not one
        class for each example.

    Deviations from the source: the default denominator.
    Source: Zhang et al., "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022.

    Examples of the two classes are alike, so the model says what is frequent, by log 16; margins take 2 (1 - 1/2) off:

    >>> import numpy as np, optax, pfljax as pfl
    >>> model, solve = pfl.models.logistic((1,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(99, 17))
    >>> task, data = pfl.classification(model), pfl.from_clients([(np.zeros((17, 1)), [0] + [1] * 16)])
    >>> made = [fedlc(task, solve, model, tau=tau) for tau in (0.0, 2.0)]
    >>> models = [pfl.simulate(task, method, data, rounds=9).models["0"] for method in made]
    >>> logits = [model.predict(np.zeros((1, 1)))[0] for model in models]
    >>> [round(float(frequent - rare), 2) for rare, frequent in logits]
    [2.77, 1.77]
    """
    if denominator not in ("inclusive", "exclusive"):
        raise ValueError(f"denominator={denominator!r}: choose 'inclusive' or 'exclusive'")
    number = classes.number(model, "fedlc counts classes for a model with features")

    def client_update(w: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        counts = classes.shares(data, number, "fedlc") * data.size.astype(float)
        margins = jnp.where(counts > 0, tau * jnp.maximum(counts, 1) ** -0.25, jnp.inf)

        def loss(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            logits, stats = model.apply(w, batch.x, train=True, mask=batch.mask, key=key)
            shifted = logits - margins.astype(logits.dtype)[None]
            return masked_mean(calibrated(shifted, batch.y.astype(int), denominator), batch.mask), stats

        return Reply(tree.sub(w, local(loss, w, data, jax.random.fold_in(key, 0))), client)

    return averaging(task, local, server=server)._replace(client_update=client_update)


def calibrated(shifted: Array, y: Array, denominator: Denominator) -> Array:
    """The loss [B] of logits less their margins [B, C]."""
    if denominator == "inclusive":
        return optax.softmax_cross_entropy_with_integer_labels(shifted, y)
    own = jax.nn.one_hot(y, shifted.shape[-1], dtype=bool)
    rest = ~own & jnp.isfinite(shifted)
    several = jnp.any(rest, axis=-1)
    others = jax.nn.logsumexp(jnp.where(rest, shifted, jnp.where(several[:, None], -jnp.inf, 0)), axis=-1)
    return jnp.where(several, others - jnp.sum(jnp.where(own, shifted, 0), axis=-1), 0)
