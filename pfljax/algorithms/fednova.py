"""FedNova: averages of normalized updates, so that clients may take different numbers of steps."""

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


def fednova(
    task: Task, local: LocalSolver, *, mu: Array | float = 0.0, server: ServerOptimizer | None = None
) -> Algorithm:
    """FedAvg in which a client that takes many steps does not count for more.

    `y_i ~ argmin f_i(y) + mu/2 ||y - w||^2` by any number of steps from w, then

    - `d_i = (w - y_i) / ||a_i||_1`, with `a_i` the weights that the client's optimizer gives to its gradients: their
      number for plain SGD, more with momentum rho, `(tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)` for tau steps;
    - `w <- w - tau_eff sum_i p_i d_i`, `tau_eff = sum_i p_i ||a_i||_1`, `p_i = n_i / n`.

    `lr ||a_i||_1` is measured: it is how far `local` goes under a constant gradient of 1 (and the pull of mu).

    Args:
      task: the model and its loss.
      local: solver of a client's round, by an optimizer that is linear in the gradients.
      mu: strength of the proximal term, >= 0, traced.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| and one number. With equal steps it is FedAvg.

    Deviations from the source: none; running statistics are averaged.
    Source: Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
    NeurIPS 2020, section 4.

    The client of 9 examples takes 9 times as many steps, and the mean by examples, 7.2, is kept but for `O(lr)`:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 9])
    >>> epoch = local.descent(optax.sgd(0.01), plans.epochs(1, 1))
    >>> [quadratics.deployed(m(task, epoch), task, data, 2000, digits=1)["w"][0] for m in (fednova, algorithms.fedavg)]
    [7.2, 7.9]
    """
    server = fedopt() if server is None else server

    def straight(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        return params.trainable, params.stats

    def client_update(w: Params, client: Tree, data: ClientData, key: Array) -> Reply:
        key, still = jax.random.fold_in(key, 0), jnp.zeros(())
        y = local(proximal(task.loss, mu, w.trainable), w, data, key)
        a = -local(proximal(straight, mu, still), Params(still), data, key).trainable
        moved = tree.sub(w, y)
        normalized = tree.scale(1 / jnp.where(a > 0, a, 1), moved.trainable)
        return Reply((moved._replace(trainable=normalized), a), client)

    def server_update(model: Server, cohort: Cohort, key: Array) -> Server:
        d, tau_eff = cohort.uploads
        return server.step(model, d._replace(trainable=tree.scale(tau_eff, d.trainable)))

    return averaging(task, local, server=server)._replace(client_update=client_update, server_update=server_update)
