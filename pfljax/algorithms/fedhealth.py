"""FedHealth: a client's adaptation keeps its features near those of public examples."""

import jax
import jax.numpy as jnp

from pfljax import checks, masks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging, fine_tuned
from pfljax.learning.losses import coral
from pfljax.learning.plans import epochs
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Mask, Model, Params, Task, Tree


def fedhealth(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 0.01,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose model each client trains further, its features as spread as those of public examples.

    `v_i = tune(h_i, w)` on the leaves of `tuned`, with z the features that the head reads and d their number:

    `h_i(v) = f_i(v) + lam CORAL`, `CORAL = ||Cov(z(x_public; v)) - Cov(z(x_i; v))||_F^2 / (4 d^2)`,

    on a minibatch of the client's examples and as many public ones. FedSteg is the same on another network.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the adaptation.
      model: the network of the task, which must have features.
      lam: strength of the alignment, >= 0, traced; 0 is `fedavg_finetuned`.
      tuned: what is adapted: everything, or the paper's: all but the first convolutions. With the head alone the
        features do not move, and lam has no effect.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|. They have seen the public examples before the first
      round, which is not counted.

    Raises:
      ValueError: if the model has no features, or, when traced, if there are no public examples.

    Deviations from the source: the server does not train on the public examples first, nor are their labels read.
    Source: Chen et al., "FedHealth: A Federated Transfer Learning Framework for Wearable Healthcare", IEEE Intelligent
    Systems 2020; Yang et al., "FedSteg", 2020.

    Targets are the inputs, whose variance is 2, and public inputs do not vary, so that `w - 1 + 4 w^3 = 0`:

    >>> import numpy as np, optax, pfljax as pfl
    >>> line = lambda w, x, **mode: (x * w.trainable["w"][None], {})
    >>> model = Model(lambda key: Params({"w": jnp.zeros(1)}), line, lambda w, z, **mode: (z, {}))
    >>> (task, x), solve = (pfl.regression(model), [[-1.0], [1.0]]), pfl.descent(optax.sgd(0.1), pfl.full_batch(99, 2))
    >>> data = pfl.from_clients([(x, [-1.0, 1.0])]).with_public(np.zeros((2, 1)))
    >>> pfl.quadratics.deployed(fedhealth(task, solve, solve, model, lam=1.0), task, data, rounds=1)
    {'w': [[0.5]]}
    """
    if model.features is None:
        raise ValueError("fedhealth aligns features, and the model has none: see pfljax.models.from_linen")
    features = model.features

    def loss(w: Params, data: ClientData, key: Array) -> LossFn:
        shown = data.on(checks.public(data.public, "fedhealth aligns features with"))

        def aligned(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            value, stats = task.loss(params, batch, key)
            public = epochs(1, len(batch.mask)).batch(shown, jax.random.fold_in(key, 1), jnp.asarray(0))
            own, theirs = (features(params, each.x)[0] for each in (batch, public))
            return value + lam * coral(own, batch.mask, theirs, public.mask), stats

        return aligned

    return fine_tuned(averaging(task, local, server=server), task, tune, tuned, loss)
