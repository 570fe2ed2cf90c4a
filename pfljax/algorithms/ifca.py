"""IFCA: every client joins the cluster whose model fits it best."""

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import grouped, handed, mean, uniform
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning.local import mean_loss
from pfljax.learning.metrics import measure
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reduce, Reply, Task


def ifca(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    server: ServerOptimizer | None = None,
    reduce: Reduce = uniform(mean),
) -> Algorithm:
    """K models; a client trains `w_k` with `k = argmin_k f_i(w_k)`, and each model averages its members.

    The choice is by the loss that the task measures, as in an evaluation: dropout is off, norm layers use their running
    statistics. A task that measures no `loss` is judged by the loss that it trains.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K, static; 1 is FedAvg with equal weights.
      server: server optimizer of each model; plain averaging if None.
      reduce: how a cluster's uploads are averaged; clients count equally, as in the authors' code.

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
    >>> from pfljax.learning import local
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(1.0), local.full_batch(1, 1))
    >>> quadratics.deployed(ifca(task, step, clusters=2), task, data, rounds=100)
    {'w': [1.5, 1.5, 8.5, 8.5]}
    """
    if clusters < 1:
        raise ValueError(f"clusters={clusters}: it must be at least 1")
    server = fedopt() if server is None else server

    def init_server(key: Array, num_clients: int) -> Server:
        others = [jax.random.fold_in(key, cluster) for cluster in range(1, clusters)]
        return jax.vmap(lambda key: server.init(task.init(key)))(jnp.stack([key, *others]))

    measured = [metric for metric in task.metrics if metric.name == "loss"]

    def misfit(w: Params, data: ClientData, key: Array) -> Array:
        if not measured:
            return mean_loss(task.loss, w, data, key)
        return measure(measured, {"w": lambda x: task.predict(w, x)}, data, batch_size=128)["w"]["loss"]

    def closest(models: Params, data: ClientData, key: Array) -> tuple[Array, Params]:
        cluster = jnp.argmin(jax.vmap(lambda w: misfit(w, data, jax.random.fold_in(key, 1)))(models))
        return cluster, jax.tree.map(lambda leaf: leaf[cluster], models)

    def client_update(models: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        key = jax.random.fold_in(key, 0)
        cluster, w = closest(models, data, key)
        return Reply((cluster, tree.sub(w, local(task.loss, w, data, key))), client)

    def server_update(servers: Server, cohort: Cohort, key: Array) -> Server:
        expected = servers.params, jnp.zeros(clusters)
        differences, weights = handed(cohort.uploads, expected, "one tree for each model, as `reduce.grouped` makes it")
        return jax.vmap(tree.where)(weights > 0, jax.vmap(server.step)(servers, differences), servers)

    return Algorithm(
        init_server=init_server,
        download=lambda servers, id: servers.params,
        init_client=lambda models, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda models, client, data, key: closest(models, data, key)[1],
        reduce=grouped(clusters, reduce),
    )
