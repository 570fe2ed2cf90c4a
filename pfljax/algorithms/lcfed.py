"""LCFed: clusters of models as their first principal components show them, and a body that all learn from."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.clustering import averaged, nearest
from pfljax.federation.clusters import Clusters, Init, Sight, assigning, clusters_of, heard, reassigned, seeded
from pfljax.federation.reduce import weighted
from pfljax.federation.table import repeated
from pfljax.learning.linalg import eigh
from pfljax.learning.losses import Proximal, proximal
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LocalSolver, LossFn, Mask, Params, Task, Tree


class Common(NamedTuple):
    """What the server of LCFed knows beside its centers."""

    body: Params  # Phi, with None for the leaves of the head
    first: Array  # [] whether no round was done


def lcfed(
    task: Task,
    local: LocalSolver,
    head: Mask,
    *,
    clusters: int = 2,
    mu: Array | float = 2.0,
    lam: Array | float = 1.0,
    rank: int = 8,
    init: Init = "random",
    hysteresis: Array | float = 0.0,
) -> Algorithm:
    """K centers Omega and a common body Phi, which the clients' models `w = (b, h)` are all drawn to.

    - client: `w_i ~ argmin_w f_i(w) + mu/2 ||w - Omega_k||^2 + lam/2 ||b - Phi||^2` from `Omega_k` on;
    - server: `k(i) <- argmin_k ||P (w_i - Omega_k)||^2`, with P on the first principal components of the round's
      models; then `Omega_k <- mean_{i: k(i) = k} w_i` and `Phi <- mean_i b_i` over the clients of the round.

    Args:
      task: the model and its loss.
      local: solver of a client's problem.
      head: leaves that are no body, static.
      clusters: K, static.
      mu, lam: strengths of the pulls, traced; 0, 0 and one cluster are FedAvg with equal weights.
      rank: principal components, static.
      init: all clients train one model first, and the first centers are means of what they make of it: of random
        clusters ("random"), or of those that k-means finds ("common"); static.
      hysteresis: a client leaves its center only for one whose squared distance is lower by more than this part of the
        present one, traced; 0 in the source.

    Returns:
      An algorithm whose clients keep nothing and deploy what they make of the center of their cluster, newcomers of
      that with the smallest loss on their training examples. Down: |params| and |body|, up: |params|.

    Raises:
      ValueError: if a count is below 1, `init` is neither, or the reduction hands on anything but the uploads.

    Deviations from the source: as implemented by CFLA (Totorino02/CFLA); the start of the centers and the number of
    components are not given. `w_i` is solved anew where it is deployed.
    Source: Zhang et al., "LCFed: An Efficient Clustered Federated Learning Framework for Heterogeneous Data", ICASSP
    2025.

    Each a third of the way between its own optimum, the center of its cluster, and the mean of all:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[-4.0, -2.0, 2.0, 4.0])
    >>> solve = local.descent(optax.sgd(0.25), plans.full_batch(40, 1))
    >>> made = lcfed(task, solve, masks.nothing, mu=1.0, lam=1.0, init="common")
    >>> quadratics.deployed(made, task, data, rounds=50)
    {'w': [-1.833, -1.167, 1.167, 1.833]}
    """

    def body(params: Params) -> Params:
        return tree.split(masks.negate(head)(params), params)[0]

    def towards(phi: Params) -> LossFn:
        def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            value, stats = task.loss(params, batch, key)
            off = tree.sub(body(params).trainable, phi.trainable)
            return value + 0.5 * lam * tree.squared_norm(off), stats

        return loss

    def around(sight: Sight, center: Params) -> Proximal:
        return proximal(towards(sight.memory.body), mu, center.trainable)

    def begin(key: Array, num_clients: int) -> Clusters:
        w = task.init(key)
        return Clusters(repeated(w, clusters), jnp.zeros(num_clients, int), Common(body(w), jnp.asarray(True)))

    def regroup(server: Clusters, cohort: Cohort, results: Params, key: Array) -> Clusters:
        start = partial(seeded, weights=heard(cohort), key=key, init=init)
        first = server.memory.first
        centers = jax.lax.cond(first, start, lambda centers, rows: centers, server.models, results)
        away = _projected(results.trainable, centers.trainable, heard(cohort), rank)
        labels = jax.vmap(nearest, (0, 0, None))(away, clusters_of(server, cohort.ids), hysteresis)
        memory = Common(body(weighted(results, heard(cohort))), jnp.asarray(False))
        return Clusters(averaged(centers, results, labels, heard(cohort)), reassigned(server, cohort, labels), memory)

    def personalize(sight: Sight, client: Tree, data: ClientData, key: Array) -> Params:
        center = algorithm.personalize(sight, client, data, jax.random.fold_in(key, 1))
        return local(around(sight, center), center, data, jax.random.fold_in(key, 0))

    algorithm = assigning(task, local, begin, regroup, loss=around, sent=lambda sight: (sight.model, sight.memory.body))
    return algorithm._replace(personalize=personalize)


def _projected(rows: Tree, others: Tree, weights: Array, rank: int) -> Array:
    """Squared distances [n, m] of rows to others along the first principal components of the rows, by weights [n]."""
    mean = jax.tree.map(lambda leaf: leaf[None], weighted(rows, weights))
    around = jax.vmap(tree.scale)(weights, jax.tree.map(jnp.subtract, rows, mean))
    values, vectors = eigh(tree.products(around, around))
    values, vectors = values[-rank:], vectors[:, -rank:]
    spread = values > 1e-6 * jnp.max(values)
    along = vectors * jnp.where(spread, 1 / jnp.sqrt(jnp.where(spread, values, 1)), 0)[None]

    def coordinates(part: Tree) -> Array:
        return jnp.matmul(tree.products(jax.tree.map(jnp.subtract, part, mean), around), along, precision="highest")

    return jnp.sum((coordinates(rows)[:, None] - coordinates(others)[None]) ** 2, axis=2)
