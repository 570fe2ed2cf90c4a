"""Clusters by context: one FedAvg for each group of clients that are alike in what is known of them."""

import jax
import jax.numpy as jnp

from pfljax.federation.clusters import clustered
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.table import repeated
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Task


def context_clustered(
    task: Task, local: LocalSolver, groups: int, *, server: ServerOptimizer | None = None
) -> Algorithm:
    """K models; a client trains that of its group k(i), which its context decides before the first round.

    `w_k <- w_k - sum_{i: k(i) = k} n_i (w_k - w_i) / sum_{i: k(i) = k} n_i`: K separate runs of FedAvg, all from one
    start. The group is the client's trait `group`, as `data.grouped` makes it of any context, or as it is known.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      groups: K, static, see `data.num_groups`; 1 is FedAvg, bit for bit. Groups are 0, ..., K - 1, and what a client of
        any other uploads counts for nothing.
      server: server optimizer of each model; plain averaging if None.

    Returns:
      An algorithm whose clients keep and upload their group, and upload |params|; down: |params|, the model of the
      group. A model without members stays. An unseen client deploys the model of its group.

    Raises:
      ValueError: if `groups` is below 1 or, when traced, if clients have no trait `group` of whole numbers.

    Deviations from the source: it asks which context to cluster by, and leaves open how; here it is one group a client.
    Source: Mansour et al., "Three Approaches for Personalization with Applications to Federated Learning", 2020,
    section 3 (clusters by context, before those by hypothesis).

    The means of the two groups, and not of those who are near each other:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 5.0])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    >>> quadratics.deployed(context_clustered(task, step, 2), task, data.with_traits({"group": [0, 1, 1, 0]}), rounds=9)
    {'w': [3.0, 5.0, 5.0, 3.0]}
    """
    if groups < 1:
        raise ValueError(f"groups={groups}: it must be at least 1")

    def group(models: Params, last: Array, data: ClientData, key: Array) -> Array:
        known = data.traits.get("group") if isinstance(data.traits, dict) else None
        if known is None or known.shape or not jnp.issubdtype(known.dtype, jnp.integer):
            raise ValueError(
                "context_clustered reads the trait 'group' of each client, one whole number, and there is none: make "
                "it by pfljax.data.grouped(data, clusters=2) or data.with_traits({'group': [0, 1, ...]})"
            )
        return known

    algorithm = clustered(
        task, local, group, lambda key: repeated(task.init(key), groups), clusters=groups, server=server
    )
    return algorithm._replace(sent=lambda models: jax.tree.map(lambda leaf: leaf[0], models[1]))
