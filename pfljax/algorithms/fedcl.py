"""FedCL: what matters on examples that everybody sees is held near the server model."""

from typing import NamedTuple

import jax

from pfljax import checks, tree
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.importance import fisher
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


class Consolidated(NamedTuple):
    """The server of FedCL."""

    model: Server
    importance: Tree  # Omega, like the trainable part


def fedcl(
    task: Task, local: LocalSolver, *, lam: Array | float = 1.0, server: ServerOptimizer | None = None
) -> Algorithm:
    """FedAvg whose clients may move far only what does not matter on a proxy data set of the server.

    `y ~ argmin f_i(y) + lam/2 sum_j Omega_j (y_j - w_j)^2` from w, `Omega = (1/n) sum_s (grad l(w; s))^2` over the
    public examples s, which the server measures after each round; it averages y.

    Args:
      task: the model and its loss; Omega is of the loss that it measures, see `importance.fisher`.
      local: solver of a client's round; `local.proximal_descent` allows any `lam`.
      lam: strength of the pull, >= 0, traced; 0 is FedAvg.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|, down: 2 |params|. Every client deploys the server
      model.

    Raises:
      ValueError: when traced, if there are no public examples.

    Deviations from the source: Omega is 0 in the first round. The factor 1/2 is a convention.
    Source: Yao and Sun, "Continual Local Training for Better Initialization of Federated Models", ICIP 2020; there is
    no code of the authors.

    The public example has the mean for its center, so that nothing matters there:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> public = data.with_public({"a": [1.0], "c": {"w": [4.0]}})
    >>> step = local.descent(optax.sgd(0.1), plans.full_batch(9, 1))
    >>> quadratics.deployed(fedcl(task, step, lam=0.5), task, public, rounds=100)
    {'w': [4.0, 4.0]}
    """
    server = fedopt() if server is None else server

    def init_server(key: Array, num_clients: int) -> Consolidated:
        model = server.init(task.init(key))
        return Consolidated(model, tree.scale(0, model.params.trainable))

    def client_update(received: tuple[Params, Tree], client: Tree, data: ClientData, key: Array) -> Reply:
        w, omega = received
        loss = proximal(task.loss, lam, w.trainable, stiffness=omega)
        return Reply(tree.sub(w, local(loss, w, data, jax.random.fold_in(key, 0))), client)

    def server_update(state: Consolidated, cohort: Cohort, key: Array) -> Consolidated:
        public = checks.public(cohort.public, "fedcl measures what matters on", labels=True)
        model = server.step(state.model, cohort.uploads)
        return Consolidated(model, fisher(task, model.params, public, key))

    return averaging(task, local)._replace(
        init_server=init_server,
        download=lambda state, id: (state.model.params, state.importance),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda received, client, data, key: received[0],
        server_model=lambda received, client: received[0],
    )
