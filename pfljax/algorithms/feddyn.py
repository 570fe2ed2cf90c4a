"""FedDyn: a regularizer that follows each client's gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.skeletons import alone
from pfljax.learning.losses import proximal, tilted
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


class Dynamic(NamedTuple):
    """The server of FedDyn."""

    params: Params
    h: Tree  # the server's state, divided by alpha
    population: Array  # [] number of clients, m


def feddyn(task: Task, local: LocalSolver, *, alpha: Array | float = 0.1) -> Algorithm:
    """Clients agree on the minimiser of `sum_k L_k`, although each one minimises its own loss to the end.

    - local: `y = argmin L_k(y) - <g_k, y> + alpha/2 ||y - w||^2`, `g_k <- g_k - alpha (y - w)`;
    - server: `h <- h - alpha |P|/m mean(y - w)`, `w <- mean(y) - h / alpha`.

    Args:
      task: the model and its loss.
      local: solver of a client's round; `local.descent`, or any other.
      alpha: strength of the regularizer, > 0, traced.

    Returns:
      An algorithm whose clients keep `g_k` (|params|) and upload |params|.

    Clients count equally, as in the paper.
    Deviations from the source: `h / alpha` is stored. Statistics are averaged.
    Source: Acar et al., "Federated Learning Based on Dynamic Regularization", ICLR 2021, Algorithm 1.

    The minimiser `sum_k a_k c_k / sum_k a_k`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 3.0], curvatures=[1.0, 2.0])
    >>> solve = local.descent(optax.sgd(0.1), plans.full_batch(20, 1))
    >>> quadratics.deployed(feddyn(task, solve, alpha=1.0), task, data, rounds=100)
    {'w': [2.0, 2.0]}
    """

    def init_server(key: Array, num_clients: int) -> Dynamic:
        params = task.init(key)
        return Dynamic(params, tree.scale(0, params.trainable), jnp.asarray(num_clients))

    def client_update(w: Params, g: Tree, data: ClientData, key: Array) -> Reply:
        loss = proximal(tilted(task.loss, tree.scale(-1, g)), alpha, w.trainable)
        moved = tree.sub(w, local(loss, w, data, jax.random.fold_in(key, 0)))
        return Reply(moved, tree.axpy(alpha, moved.trainable, g))

    def server_update(server: Dynamic, cohort: Cohort, key: Array) -> Dynamic:
        (w, stats), moved = server.params, cohort.uploads
        h = tree.axpy(jnp.sum(cohort.weights > 0) / server.population, moved.trainable, server.h)
        w = tree.sub(w, tree.add(moved.trainable, h))
        return server._replace(params=Params(w, tree.sub(stats, moved.stats)), h=h)

    return Algorithm(
        init_server=init_server,
        download=lambda server, id: server.params,
        init_client=lambda w, id, key: tree.scale(0, w.trainable),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda w, g, data, key: w,
        reduce=uniform(mean),
        onboard=alone(client_update),
        server_model=lambda w, g: w,
    )
