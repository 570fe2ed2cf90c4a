"""FedCurv: each client holds on to what matters to the others."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning.importance import fisher
from pfljax.learning.losses import proximal, tilted
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


class Curvature(NamedTuple):
    """Of one client, or the sum over those of a round."""

    u: Tree  # I, like the trainable part
    v: Tree  # I theta


class Curved(NamedTuple):
    """The server of FedCurv."""

    model: Server
    sums: Curvature
    members: Array  # [N] 1 for the clients of the sums, 0 for others


def fedcurv(
    task: Task, local: LocalSolver, *, lam: Array | float = 0.1, server: ServerOptimizer | None = None
) -> Algorithm:
    """FedAvg whose clients are pulled towards the others' models of the round before, where these are sure.

    With `theta_j` the result of client j in the last round and `I_j` the diagonal of its Fisher information there,

    - `y ~ argmin f_i(y) + lam sum_{j != i} (y - theta_j)' I_j (y - theta_j)` from w;
    - it is `f_i(y) + lam (y' U y - 2 y' V)` up to a constant, `U = sum_{j != i} I_j`, `V = sum_{j != i} I_j theta_j`;
    - uploads are y and `u_i = I_i(y)`, `v_i = I_i(y) y`; the server averages y, and sums the others.

    Args:
      task: the model and its loss; I is of the loss that it measures, see `importance.fisher`.
      local: solver of a client's round; `local.proximal_descent` allows any `lam`.
      lam: strength of the pull, >= 0, traced; 0 is FedAvg with equal weights. The sums grow with the cohort:
        `2 lam U lr < 2` keeps plain descent stable.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `u_i` and `v_i` (2 |params|) and upload 3 |params|, down: 3 |params|. Every client
      deploys the server model. A client that was not of the last round takes nothing off the sums.

    Clients count equally.
    Deviations from the source: I is of the labels that the examples have. Statistics are averaged.
    Source: Shoham et al., "Overcoming Forgetting in Federated Learning on Non-IID Data", 2019, section 3.

    The curvature of `(w - c)^2 / 2` is taken at the client's own result, where one full step leaves none:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 3))
    >>> quadratics.deployed(fedcurv(task, step, lam=9.0), task, data, rounds=9)
    {'w': [4.0, 4.0]}
    """
    server = fedopt() if server is None else server

    def init_server(key: Array, num_clients: int) -> Curved:
        model = server.init(task.init(key))
        zeros = tree.scale(0, model.params.trainable)
        return Curved(model, Curvature(zeros, zeros), jnp.zeros(num_clients))

    def download(curved: Curved, id: Array) -> tuple[Params, Curvature, Array]:
        return curved.model.params, curved.sums, jnp.take(curved.members, id, mode="fill", fill_value=0)

    def client_update(received: tuple[Params, Curvature, Array], own: Curvature, data: ClientData, key: Array) -> Reply:
        w, sums, member = received
        others = tree.axpy(-member, own, sums)
        towards = tilted(task.loss, tree.scale(-2 * lam, others.v))
        loss = proximal(towards, 2 * lam, tree.scale(0, w.trainable), stiffness=others.u)
        y = local(loss, w, data, jax.random.fold_in(key, 0))
        u = fisher(task, y, data, jax.random.fold_in(key, 1))
        own = Curvature(u, jax.tree.map(jnp.multiply, u, y.trainable))
        return Reply((tree.sub(w, y), own), own)

    def server_update(curved: Curved, cohort: Cohort, key: Array) -> Curved:
        heard = (cohort.weights > 0).astype(float)
        moved, sums = cohort.uploads
        members = jnp.zeros_like(curved.members).at[cohort.ids].set(heard, mode="drop")
        return Curved(server.step(curved.model, moved), tree.scale(jnp.sum(heard), sums), members)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda received, id, key: tree.scale(0, received[1]),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda received, own, data, key: received[0],
        reduce=uniform(mean),
        server_model=lambda received, own: received[0],
    )
