"""FedPHP: every client inherits a personal model, which remembers what it trained in former rounds."""

import jax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import discrepancy
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Model, Params, Reply, Task, Tree


def fedphp(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    mu: Array | float = 0.9,
    lam: Array | float = 0.01,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg, beside which each client keeps a moving average `u_i` of its local models, which teaches the next one.

    With `z_w`, `z_u` the features of a minibatch:

    - `theta_i = local((1 - lam) f_i(w) + lam MMD^2(z_w, z_u))` from the received `w`, while `u_i` rests;
    - `u_i <- mu u_i + (1 - mu) theta_i`.

    The server averages `theta_i`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      mu: how much is inherited, in [0, 1], traced. The paper's `mu t / T` is a schedule over the rounds, such as
        `schedules.linear(0.0, 0.9, rounds=T)`.
      lam: strength of the teaching, in [0, 1], traced; 0 leaves the server with FedAvg, bit for bit.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep and deploy `u_i` (|params|) and upload |params|. A newcomer starts with what it
      receives, and its onboarding trains and inherits.

    Raises:
      ValueError: if the model has no features.

    Deviations from the source: the default `mu` is the same in all rounds, and where it is a schedule it counts rounds
    of the run instead of those of the client. The maximum mean discrepancy is one of the paper's several transfers;
    `losses.discrepancy` has its kernels. Running statistics are inherited with the weights.
    Source: Li et al., "FedPHP: Federated Personalization with Inherited Private Models", ECML PKDD 2021.

    Two clients that label the same example differently: one model cannot serve both, what they inherit does.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.simulate(task, fedphp(task, solve, model), data, rounds=9).scores
    >>> [scores[which, "test", "accuracy"][-1].mean().item() for which in ("global", "personal")]
    [0.5, 1.0]
    """
    features = model.features
    if features is None:
        raise ValueError("fedphp compares features, and the model has none: see pfljax.models.from_linen")

    def taught(u: Params) -> LossFn:
        def loss(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            value, stats = task.loss(w, batch, key)
            z = features(w, batch.x, train=True, mask=batch.mask, key=key)[0]
            return (1 - lam) * value + lam * discrepancy(z, features(u, batch.x)[0], batch.mask), stats

        return loss

    def client_update(w: Params, u: Params, data: ClientData, key: Array) -> Reply:
        theta = local(taught(u), w, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(w, theta), tree.mix(mu, u, theta))

    return accompanied(task, client_update, lambda w, u: u, server=server)
