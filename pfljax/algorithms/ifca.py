"""IFCA: every client joins the cluster whose model fits it best."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import masks
from pfljax.federation.clusters import Models, apart, by_loss, clustered, searched
from pfljax.federation.reduce import uniform
from pfljax.federation.server import ServerOptimizer
from pfljax.types import Algorithm, Array, Cohort, LocalSolver, Mask, Task


def ifca(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    averaging: Literal["model", "gradient"] = "model",
    own: Mask = masks.everything,
    hysteresis: Array | float = 0.0,
    starts: int = 1,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """K models; a client trains `w_k` with `k = argmin_k f_i(w_k)`, and each model moves by what its members S_k do.

    With `d_i = w_k - w_i` of the M clients of a round:

    - `averaging="model"`: `w_k <- w_k - 1/|S_k| sum_{i in S_k} d_i`, the mean of its members;
    - `averaging="gradient"`: `w_k <- w_k - 1/M sum_{i in S_k} d_i`. Where `local` is one step of plain SGD on all
      examples, `d_i` is the learning rate times the gradient.

    The choice is by the loss that the task measures, see `tasks.misfit`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K, static; 1 is FedAvg with equal weights. A sweep over it chooses K by validation examples:
        `pfljax sweep --over algorithm.clusters=1,2,4`.
      averaging: see above, static.
      own: leaves that each model has for itself, static; the others are common to all, and averaged over all clients:
        the paper's shared representation, with the head as `own`.
      hysteresis: a client leaves its cluster only for a loss that is lower by more than this part of the present one,
        >= 0, traced; 0 in the paper.
      starts: S, static; if there are several, the first round trains nothing: its clients find their clusters among
        random models, S times, and the start whose smallest cluster is the largest is kept.
      server: server optimizer of each model; plain averaging if None.

    Returns:
      An algorithm whose clients keep and upload their cluster, and upload |params|; down: K |own| and the rest once.
      The first choice of equal ones is the lower cluster; a model without members stays.

    Raises:
      ValueError: if `clusters` is below 1, or `averaging` is neither.

    Deviations from the source: a cluster's members count equally, as in the authors' code. That draws models anew until
    the smallest cluster has a certain share; `starts` keeps the best of so many draws.
    Source: Ghosh et al., "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020, Algorithm 1; the
    shared representation: its experiments on FEMNIST.

    The means of the two clusters:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    >>> quadratics.deployed(ifca(task, step, clusters=2), task, data, rounds=100)
    {'w': [1.5, 1.5, 8.5, 8.5]}
    """
    choose, start, shared = by_loss(task, "train", hysteresis), partial(apart, task, clusters), masks.negate(own)
    algorithm = clustered(task, local, choose, start, clusters=clusters, shared=shared, server=server)
    algorithm = algorithm._replace(reduce=uniform(algorithm.reduce))

    def over_all(servers: Models, cohort: Cohort, key: Array) -> Models:
        means, members = cohort.uploads
        shares = members / jnp.sum(members)
        moved = jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(shares.astype(leaf.dtype), leaf), means)
        return algorithm.server_update(servers, cohort._replace(uploads=(moved, members)), key)

    made = algorithm if averaging == "model" else algorithm._replace(server_update=over_all)
    return searched(made, clusters=clusters, starts=starts)
