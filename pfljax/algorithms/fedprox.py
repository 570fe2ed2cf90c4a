"""FedProx: averaging with a proximal term."""

from pfljax.losses import proximal
from pfljax.reduce import mean
from pfljax.server import ServerOptimizer
from pfljax.skeletons import averaging
from pfljax.types import Algorithm, Array, LocalSolver, Reduce, Task


def fedprox(
    task: Task,
    local: LocalSolver,
    *,
    mu: Array | float = 0.01,
    server: ServerOptimizer | None = None,
    reduce: Reduce = mean,
) -> Algorithm:
    """FedAvg on the loss `h_i(y; w) = f_i(y) + mu/2 ||y - w||^2`, with `w` the model received in this round.

    Args:
      task: the model and its loss.
      local: solver of a client's round; `local.proximal_descent` stays stable for any `mu`.
      mu: strength of the pull, >= 0, traced; 0 is FedAvg.
      server: server optimizer; plain averaging if None.
      reduce: how uploads are averaged.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: none; stragglers' partial work comes with the sampling (`sampling.stragglers`).
    Source: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2.
    """
    return averaging(task, local, lambda w: proximal(task.loss, mu, w.trainable), server=server, reduce=reduce)
