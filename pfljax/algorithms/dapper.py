"""DAPPER: every client trains the shared model on a mixture of its own and of everybody's examples."""

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning.plans import epochs
from pfljax.learning.tasks import chosen
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Params, Task, Tree


def dapper(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    grid: tuple[checks.Share, ...] = (0.125, 0.25, 0.5, 1.0),
    public_batch_size: int = 32,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for `w`, from which each client fits its model to a mixture of distributions, its own and everybody's.

    With g the loss on the public examples, which stand for those of all clients:

    - for each lam of the grid: `v_lam = tune(lam f_i(v) + (1 - lam) g(v))` from `w`;
    - the client deploys that with the lowest loss on its validation examples.

    Args:
      task: the model and its loss; models are compared by `tasks.misfit`.
      local: solver of a client's round of FedAvg.
      tune: solver of the mixed problem.
      grid: the shares of the own examples that are tried, in [0, 1], static; (1,) is `fedavg_finetuned`. Without
        validation examples a client takes the first.
      public_batch_size: public examples beside each minibatch, drawn anew each time, static.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|; they hold the public examples, which count as no
      traffic.

    Raises:
      ValueError: when traced, if the federation has no public examples, or the grid is empty.

    Deviations from the source: each step draws from all public examples, where the paper draws a sample of a size in
    proportion to the client's once. The default grid.
    Source: Mansour et al., "Three Approaches for Personalization with Applications to Federated Learning", 2020,
    section 4 (data interpolation), algorithm DAPPER.

    The minimiser `lam c_i + (1 - lam) 4` where the public example is at 4:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> data = data.with_public({"a": [1.0], "c": {"w": [4.0]}})
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(30, 1))
    >>> quadratics.deployed(dapper(task, step, step, grid=(0.25,)), task, data, rounds=1)
    {'w': [3.0, 5.0]}
    """
    drawn = epochs(1, public_batch_size).batch

    def interpolated(lam: Array, public: ClientData) -> LossFn:
        def loss(v: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            (own, stats), others = task.loss(v, batch, key), drawn(public, jax.random.fold_in(key, 1), jnp.asarray(0))
            return lam * own + (1 - lam) * task.loss(v, others, jax.random.fold_in(key, 2))[0], stats

        return loss

    def personalize(w: Params, client: Tree, data: ClientData, key: Array) -> Params:
        public = data.on(checks.public(data.public, "dapper trains on", labels=True))

        def tuned(lam: Array) -> tuple[Params, tuple[()]]:
            return tune(interpolated(lam, public), w, data, jax.random.fold_in(key, 0)), ()

        return chosen(task, tuned, grid, data, jax.random.fold_in(key, 1))[0]

    return averaging(task, local, server=server)._replace(personalize=personalize)
