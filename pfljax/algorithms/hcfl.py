"""HCFL: hierarchical clustering of the bodies' updates, and clusters that still learn from each other."""

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.clustering import Linkage, agglomerated, cut, distances, merges_until
from pfljax.federation.clusters import Clusters, Sight, grouping_once
from pfljax.federation.reduce import weighted
from pfljax.federation.table import repeated
from pfljax.learning.losses import Proximal, proximal
from pfljax.learning.parts import below
from pfljax.types import Algorithm, Array, Cohort, LocalSolver, Mask, Params, Task


def hcfl(
    task: Task,
    local: LocalSolver,
    head: Mask,
    *,
    clusters: int = 8,
    warm_up: int = 3,
    mu: Array | float = 0.1,
    lam: Array | float = 0.5,
    decay: Array | float = 0.1,
    power: Array | float = 1.0,
    linkage: Linkage = "ward",
    floor: int = 1,
) -> Algorithm:
    """FedAvg for some rounds; then clusters of the bodies' updates, whose bodies are blended with the common one.

    - in the round after the warm-up, clients train its model `w`, and agglomerative clustering of the bodies of
      `w_i - w` picks the number of clusters, by the largest gap between the distances of two mergers in a row;
    - client: `w_i ~ argmin_v f_i(v) + mu/2 ||v - w_k||^2` from the model `w_k` of its cluster on;
    - server, t rounds after the clustering: `w_k <- sum_{i in k} n_i w_i / sum_{i in k} n_i`, and its body
      `b_k <- (1 - lam_t) b_k + lam_t sum_k N_k b_k / sum_k N_k`, with N_k clients in k and
      `lam_t = lam / (1 + decay t)^power`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      head: leaves that are no body, static.
      clusters: K at most, static.
      warm_up: rounds before, static.
      mu: strength of the pull, traced.
      lam: the first weight of the common body, in [0, 1], traced; 0 is FL+HC with a proximal term.
      decay, power: how it falls, traced.
      linkage: the distance of clusters, see `fl_hc`, static.
      floor: a smaller cluster dissolves, and its members join the nearest of the others, static; 1 in the source.

    Returns:
      An algorithm whose clients keep nothing and deploy the model of their cluster. Down and up: |params|. A newcomer
      trains `w` for a round and deploys the model of the cluster whose mean update of the body is nearest.

    Raises:
      ValueError: if a count is below 1, a choice is none, or the reduction hands on anything but the uploads.

    Deviations from the source: as implemented by CFLA (Totorino02/CFLA), where clients take one step for the
    clustering, here a round of `local`. Where only a cohort takes part in it, the others join as newcomers do, when
    they first take part: what they upload then counts for no model.
    Source: the method HCFL of Totorino02/CFLA on GitHub.

    Clusters whose bodies become one in the end, and whose heads do not:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(body=[1.0, 2.0, 8.0, 9.0], head=[0.0, 0.0, 6.0, 6.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> made = hcfl(task, step, masks.named("head"), mu=0.0, lam=1.0, decay=0.0)
    >>> quadratics.deployed(made, task, data, rounds=50)
    {'body': [5.0, 5.0, 5.0, 5.0], 'head': [0.0, 0.0, 6.0, 6.0]}
    """

    def body(params: Params) -> Params:
        return below(tree.split(masks.negate(head)(params), params)[0], "hcfl groups clients by their bodies")

    def away(moves: Params, means: Params) -> Array:
        return distances(body(moves), body(means), "l2")

    def group(moves: Params, present: Array, key: Array) -> Array:
        made = agglomerated(away(moves, moves), present, linkage)
        return cut(made, present, merges_until(made, present, clusters))

    def around(sight: Sight, w: Params) -> Proximal:
        return proximal(task.loss, jnp.where(sight.memory.round > warm_up, mu, 0), w.trainable)

    algorithm = grouping_once(task, local, group, away, clusters=clusters, warm_up=warm_up, floor=floor, loss=around)

    def server_update(server: Clusters, cohort: Cohort, key: Array) -> Clusters:
        server = algorithm.server_update(server, cohort, key)
        rounds = jnp.maximum(server.memory.round - warm_up - 1, 0).astype(float)
        members = jnp.sum(server.assigned[None] == jnp.arange(clusters + 1)[:, None], axis=1)
        blend = jnp.where(members > 0, lam / (1 + decay * rounds) ** power, 0)
        bodies = body(server.models)
        common = repeated(weighted(bodies, members.astype(float)), clusters + 1)
        blended = jax.vmap(tree.mix)(blend, common, bodies)
        return server._replace(models=tree.merge(blended, tree.without(server.models, bodies)))

    return algorithm._replace(server_update=server_update)
