"""CGPFL: clients generalize within clusters, and personalize around the center of theirs."""

from functools import partial

import jax
import jax.numpy as jnp

from pfljax.federation.clustering import averaged, distances, nearest
from pfljax.federation.clusters import Clusters, Init, Sight, assigning, clusters_of, heard, reassigned, seeded
from pfljax.federation.table import repeated
from pfljax.learning.losses import Proximal, proximal
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Task, Tree


def cgpfl(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    mu: Array | float = 1.0,
    init: Init = "random",
    hysteresis: Array | float = 0.0,
) -> Algorithm:
    """K centers; clients solve a proximal problem around that of their cluster, and join the center of nearest angle.

    - client: `w_i ~ argmin_w f_i(w) + mu/2 ||w - Omega_k||^2` from `Omega_k` on;
    - server: `k(i) <- argmax_k cos(w_i, Omega_k)`, then `Omega_k <- mean_{i: k(i) = k} w_i` over the clients of the
      round.

    Args:
      task: the model and its loss.
      local: solver of a client's problem.
      clusters: K, static.
      mu: strength of the pull, traced; 0 and one cluster are FedAvg with equal weights.
      init: all clients train one model first, and the first centers are means of what they make of it: of random
        clusters ("random"), or of those that k-means finds ("common"); static.
      hysteresis: a client leaves its center only for one whose `1 - cos` is lower by more than this part of the present
        one, traced; 0 in the source.

    Returns:
      An algorithm whose clients keep nothing and deploy what they make of the center of their cluster, newcomers of
      that with the smallest loss on their training examples. Down and up: |params|.

    Raises:
      ValueError: if `clusters` is below 1, `init` is neither, or the reduction hands on anything but the uploads.

    Deviations from the source: as implemented by CFLA (Totorino02/CFLA), where the random clusters do not move the
    equal centers before the first choice, so that it is a tie. `w_i` is solved anew where it is deployed.
    Source: Tang et al., "Personalized Federated Learning with Contextualized Generalization", IJCAI 2022.

    Each half way between its own optimum and the mean of its cluster:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[-3.0, -1.0, 7.0, 9.0])
    >>> solve = local.descent(optax.sgd(0.5), plans.full_batch(9, 1))
    >>> quadratics.deployed(cgpfl(task, solve, clusters=2, mu=1.0, init="common"), task, data, rounds=50)
    {'w': [-2.5, -1.5, 7.5, 8.5]}
    """

    def around(sight: Sight, center: Params) -> Proximal:
        return proximal(task.loss, mu, center.trainable)

    def begin(key: Array, num_clients: int) -> Clusters:
        return Clusters(repeated(task.init(key), clusters), jnp.zeros(num_clients, int), jnp.asarray(True))

    def regroup(server: Clusters, cohort: Cohort, results: Params, key: Array) -> Clusters:
        start = partial(seeded, weights=heard(cohort), key=key, init=init)
        centers = jax.lax.cond(server.memory, start, lambda centers, rows: centers, server.models, results)
        away = distances(results.trainable, centers.trainable, "cosine")
        labels = jax.vmap(nearest, (0, 0, None))(away, clusters_of(server, cohort.ids), hysteresis)
        centers = averaged(centers, results, labels, heard(cohort))
        return Clusters(centers, reassigned(server, cohort, labels), jnp.asarray(False))

    def personalize(sight: Sight, client: Tree, data: ClientData, key: Array) -> Params:
        center = algorithm.personalize(sight, client, data, jax.random.fold_in(key, 1))
        return local(around(sight, center), center, data, jax.random.fold_in(key, 0))

    algorithm = assigning(task, local, begin, regroup, loss=around)
    return algorithm._replace(personalize=personalize)
