"""HypCluster: every client joins the hypothesis that serves it best, and each hypothesis is a FedAvg of its own."""

from functools import partial
from typing import Literal

from pfljax.federation.clusters import apart, by_loss, clustered, searched
from pfljax.federation.server import ServerOptimizer
from pfljax.types import Algorithm, Array, LocalSolver, Task


def hypcluster(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    split: Literal["train", "validation"] = "train",
    hysteresis: Array | float = 0.0,
    starts: int = 1,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """K hypotheses `h_k`, of which client i trains and deploys `k(i) = argmin_k L_i(h_k)`.

    `h_k <- h_k - sum_{i: k(i) = k} n_i (h_k - h_i) / sum_{i: k(i) = k} n_i` over the clients of the round.

    Args:
      task: the model and its loss; losses are compared by `tasks.misfit`.
      local: solver of a client's round.
      clusters: K, static; 1 is FedAvg.
      split: the examples that `L_i` is measured on, static; a client without validation examples takes its training
        examples.
      hysteresis: a client leaves its cluster only for a loss that is lower by more than this part of the present one,
        >= 0, traced; 0 in the paper.
      starts: S, static; if there are several, the first round trains nothing: its clients find their clusters among
        random models, S times, and the start whose smallest cluster is the largest is kept.
      server: server optimizer of each hypothesis; plain averaging if None.

    Returns:
      An algorithm whose clients keep and upload their cluster, and upload |params|; down: K |params|. A hypothesis
      without members stays, and so does the state of its optimizer.

    Raises:
      ValueError: if `clusters` is below 1, or `split` is neither.

    Deviations from the source: hypotheses start at random; `starts` is as in the code of IFCA's authors.
    Source: Mansour et al., "Three Approaches for Personalization with Applications to Federated Learning", 2020,
    section 3, Algorithm HypCluster.

    The means of the two clusters, by the number of examples:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0], sizes=[1, 3, 1, 1])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 3))
    >>> quadratics.deployed(hypcluster(task, step, clusters=2), task, data, rounds=100)
    {'w': [1.75, 1.75, 8.5, 8.5]}
    """
    choose, start = by_loss(task, split, hysteresis), partial(apart, task, clusters)
    algorithm = clustered(task, local, choose, start, clusters=clusters, server=server)
    return searched(algorithm, clusters=clusters, starts=starts)
