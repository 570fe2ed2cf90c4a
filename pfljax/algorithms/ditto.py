"""Ditto: a personal model held near the server model."""

import jax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task


def ditto(
    task: Task,
    local: LocalSolver,
    personal_local: LocalSolver,
    *,
    lam: Array | float = 0.5,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for `w`; beside it each client keeps `v_i ~ argmin f_i(v) + lam/2 ||v - w||^2`.

    The personal solver starts from the kept `v_i`; `w` is the model received in this round.

    Args:
      task: the model and its loss.
      local: solver for `w`.
      personal_local: solver for `v_i`; it sees the same minibatches. `local.proximal_descent` allows any `lam`.
      lam: strength of the pull, >= 0, traced; 0 is local-only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` (|params|) and upload |params|.

    Deviations from the source: clients are weighted by examples under uniform sampling, where the authors' code samples
    by examples (`sampling.weighted`) and weighs equally (`wrappers.reduced_by`).
    Source: Li et al., "Ditto: Fair and Robust Federated Learning Through
    Personalization", ICML 2021, Algorithm 1.

    `(c_i + lam w) / (1 + lam)` at the mean `w = 4`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 1))
    >>> quadratics.deployed(ditto(task, step, step, lam=3.0), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """

    def client_update(w: Params, v: Params, data: ClientData, key: Array) -> Reply:
        key = jax.random.fold_in(key, 0)
        v = personal_local(proximal(task.loss, lam, w.trainable), v, data, key)
        return Reply(tree.sub(w, local(task.loss, w, data, key)), v)

    return accompanied(task, client_update, lambda w, v: v, server=server)
