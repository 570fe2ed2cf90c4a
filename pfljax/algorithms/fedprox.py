"""FedProx: averaging with a proximal term."""

from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, LocalSolver, Task


def fedprox(
    task: Task,
    local: LocalSolver,
    *,
    mu: Array | float = 0.01,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg on the loss `h_i(y; w) = f_i(y) + mu/2 ||y - w||^2`, with `w` the model received in this round.

    Args:
      task: the model and its loss.
      local: solver of a client's round; `local.proximal_descent` stays stable for any `mu`.
      mu: strength of the pull, >= 0, traced; 0 is FedAvg.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: clients are drawn uniformly and weighted by examples, where the paper draws them by
    examples (`sampling.weighted`) and weighs equally (`wrappers.reduced_by`). Stragglers' partial work comes with the
    sampling (`sampling.stragglers`).
    Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2.

    Solved to the end, `w = sum_i b_i c_i / sum_i b_i` with `b_i = a_i / (a_i + mu)`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 5.0], curvatures=[1.0, 3.0])
    >>> solve = local.descent(optax.sgd(0.2), plans.full_batch(40, 1))
    >>> quadratics.deployed(fedprox(task, solve, mu=1.0), task, data, rounds=100)
    {'w': [3.0, 3.0]}
    """
    return averaging(task, local, lambda w: proximal(task.loss, mu, w.trainable), server=server)
