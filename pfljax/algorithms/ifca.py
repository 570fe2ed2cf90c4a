"""IFCA: every client joins the cluster whose model fits it best."""

import jax
import jax.numpy as jnp

from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import clustered
from pfljax.learning.tasks import misfit
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Task


def ifca(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """K models; a client trains `w_k` with `k = argmin_k f_i(w_k)`, and each model averages its members.

    The choice is by the loss that the task measures, see `tasks.misfit`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K, static; 1 is FedAvg with equal weights.
      server: server optimizer of each model; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| and their cluster; down: K |params|.
      Ties go to the lower cluster; a model without members stays.

    Raises:
      ValueError: if `clusters` is below 1.

    Deviations from the source: model averaging only; it weighs a cluster's members equally, as the authors' code does;
    models start at random once, without a search for a good start.
    Source: Ghosh et al., "An Efficient Framework for Clustered
    Federated Learning", NeurIPS 2020, Algorithm 1 (model averaging).

    The means of the two clusters:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    >>> quadratics.deployed(ifca(task, step, clusters=2), task, data, rounds=100)
    {'w': [1.5, 1.5, 8.5, 8.5]}
    """
    if clusters < 1:
        raise ValueError(f"clusters={clusters}: it must be at least 1")

    def apart(key: Array) -> Params:
        others = [jax.random.fold_in(key, cluster) for cluster in range(1, clusters)]
        return jax.vmap(task.init)(jnp.stack([key, *others]))

    def closest(models: Params, data: ClientData, key: Array) -> Array:
        return jnp.argmin(jax.vmap(lambda w: misfit(task, w, data, jax.random.fold_in(key, 1)))(models))

    return clustered(task, local, closest, apart, clusters=clusters, server=server, reduce=uniform(mean))
