"""FeSEM: k-means of the clients' models, one step of it in each round."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.clustering import averaged, distances, nearest
from pfljax.federation.clusters import Clusters, Init, Sight, assigning, heard, seeded
from pfljax.federation.table import repeated, replaced
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Mask, Params, Task


class Known(NamedTuple):
    """What the server of FeSEM remembers of the clients."""

    models: Params  # [N, ...] W_i, as last uploaded
    heard: Array  # [N] 1 for those that uploaded one, else 0


def fesem(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 2,
    init: Init = "random",
    compared: Mask = masks.everything,
    hysteresis: Array | float = 0.0,
    floor: int = 1,
) -> Algorithm:
    """Multi-center federated learning: minimises `1/N sum_i min_k ||W_i - W~_k||^2` beside the clients' losses.

    In each round, the members having trained their center to `W_i <- local(f_i, W~_{r_i})`:

    - E: `r_i <- argmin_k ||W_i - W~_k||^2`;
    - M: `W~_k <- mean_{i: r_i = k} W_i`, over all clients that were ever heard.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K, static; 1 is FedAvg with equal weights, where all take part.
      init: all clients train one model first, and the first centers are means of what they make of it: of random
        clusters ("random"), or of those that k-means finds ("common"); static.
      compared: leaves that distances are read from, static; the authors' code takes the last layers.
      hysteresis: a client leaves its center only for one that is nearer by more than this part of the present
        squared distance, >= 0, traced; 0 in the paper.
      floor: a center with fewer members stays, static; the authors' code has 2.

    Returns:
      An algorithm whose server holds all models [N, ...]; clients keep nothing and deploy the center of `r_i`. Down and
      up: |params|. A newcomer trains a center for a round and deploys the nearest.

    Raises:
      ValueError: if a count is below 1, `init` is neither, or the reduction hands on anything but the uploads.

    Deviations from the source: the random start, see there; clients outside the cohort count with their last upload.
    Source: Long et al., "Multi-Center Federated Learning: Clients Clustering for Better Personalization", World Wide
    Web 2023, Algorithm FeSEM.

    The means of the two clusters:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fesem(task, step, clusters=2, init="common"), task, data, rounds=50)
    {'w': [1.5, 1.5, 8.5, 8.5]}
    """

    def away(rows: Params, centers: Params) -> Array:
        part, others = (tree.split(compared(params), params)[0].trainable for params in (rows, centers))
        return distances(part, others, "l2") ** 2

    def begin(key: Array, num_clients: int) -> Clusters:
        w, nobody = task.init(key), jnp.zeros(num_clients)
        return Clusters(repeated(w, clusters), nobody.astype(int), Known(repeated(w, num_clients), nobody))

    def regroup(server: Clusters, cohort: Cohort, results: Params, key: Array) -> Clusters:
        centers, r, known = server
        models, counts = replaced(known, cohort, Known(results, heard(cohort)))
        first = jnp.all(known.heard == 0)
        start = partial(seeded, weights=heard(cohort), key=key, init=init)
        centers = jax.lax.cond(first, start, lambda centers, rows: centers, centers, results)
        r = jnp.where(counts > 0, jax.vmap(nearest, (0, 0, None))(away(models, centers), r, hysteresis), r)
        return Clusters(averaged(centers, models, r, counts, floor), r, Known(models, counts))

    def join(sight: Sight, data: ClientData, key: Array) -> Array:
        trained = local(task.loss, sight.model, data, jax.random.fold_in(key, 0))
        return jnp.argmin(away(repeated(trained, 1), sight.models)[0])

    return assigning(task, local, begin, regroup, join)
