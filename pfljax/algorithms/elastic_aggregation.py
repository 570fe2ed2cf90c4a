"""Elastic aggregation: the server moves less what is sensitive at the clients."""

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import beside, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.losses import gradient
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Plan, Reply, Task, Tree


def elastic_aggregation(
    task: Task,
    local: LocalSolver,
    plan: Plan,
    *,
    tau: Array | float = 0.5,
    mu: Array | float = 0.95,
    share: Array | float = 0.3,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose steps are long for the leaves of the model that the loss of the clients hardly depends on.

    For each leaf of the model:

    - a client measures `S_i <- mu S_i + (1 - mu) ||grad f_i(w; batch)||^2` from 0 on, over a part of its minibatches,
      at the received `w`; then it trains as in FedAvg;
    - the server moves by `zeta = 1 + tau - (sum_i p_i S_i) / (max_i S_i)` times the mean of what clients have moved,
      `p_i = n_i / sum of the cohort's n`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      plan: the minibatches for the sensitivity.
      tau: the longest step is `1 + tau`, >= 0, traced. With 1 it is FedAvg where all are equally sensitive.
      mu: of the moving average, in [0, 1), traced; the scale of S does not matter.
      share: part of the minibatches that S sees, in [0, 1], traced.
      server: server optimizer, fed with the scaled mean; plain steps if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| and a number for each leaf. The server holds all
      uploads of a round at once.

    Deviations from the source: examples that S has seen are trained on too. Statistics are averaged.
    Source: Chen et al., "Elastic Aggregation for Federated Optimization", CVPR 2023; the sensitivity as implemented by
    FL-bench.

    One client has gradients and one has none: the mean sensitivity is half of the largest.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step, plan = local.descent(optax.sgd(1.0), plans.full_batch(1, 1)), plans.full_batch(1, 1)
    >>> quadratics.deployed(elastic_aggregation(task, step, plan, tau=0.25), task, data, rounds=1)
    {'w': [3.0, 3.0]}
    """
    server = fedopt() if server is None else server

    def sensitivity(w: Params, data: ClientData, key: Array) -> Tree:
        part = data._replace(work=share * data.work)

        def after(number: Array, S: Tree) -> Tree:
            g, _ = gradient(task.loss, w, plan.batch(part, key, number), jax.random.fold_in(key, number))
            return jax.tree.map(lambda s, g: mu * s + (1 - mu) * jnp.sum(g**2), S, g)

        zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), w.trainable)
        return jax.lax.fori_loop(0, plan.steps(part), after, zeros)

    def client_update(w: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        S = sensitivity(w, data, jax.random.fold_in(key, 1))
        return Reply((tree.sub(w, local(task.loss, w, data, jax.random.fold_in(key, 0))), S), client)

    def server_update(model: Server, cohort: Cohort, key: Array) -> Server:
        (difference, S), (_, each) = cohort.uploads

        def stretched(by: Array, mean: Array, of_clients: Array) -> Array:
            largest = jnp.max(of_clients)
            return (1 + tau - mean / jnp.where(largest > 0, largest, 1)) * by

        return server.step(model, difference._replace(trainable=jax.tree.map(stretched, difference.trainable, S, each)))

    algorithm = averaging(task, local, server=server, reduce=beside(mean))
    return algorithm._replace(client_update=client_update, server_update=server_update)
