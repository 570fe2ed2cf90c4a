"""FedGroup: groups by the directions in which clients first move, and a FedAvg for each."""

from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation import table
from pfljax.federation.clustering import (
    agglomerated,
    cosines,
    cut,
    distances,
    kmeans,
)
from pfljax.federation.clusters import Clusters, grouping_once, heard
from pfljax.learning.linalg import eigh
from pfljax.types import Algorithm, Array, Cohort, LocalSolver, Params, Task


def fedgroup(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 3,
    measure: Literal["edc", "madc"] = "edc",
    inter_lr: Array | float = 0.0,
    floor: int = 1,
) -> Algorithm:
    """The clients of the first round train the first model `w_0` and are grouped by `D_i = w_i - w_0`, once.

    - `measure="edc"`: k-means of `E_i = (cos(D_i, v_1), ..., cos(D_i, v_G))`, with v the first G right singular
      vectors of the updates;
    - `measure="madc"`: complete linkage of `M_ij = 1/(n - 2) sum_{z != i, j} |cos(D_i, D_z) - cos(D_j, D_z)|`;
    - groups: `w_g <- mean_{i in g} w_i`, from then on in every round;
    - between groups: `w_g <- w_g + inter_lr sum_{h != g} w_h / ||w_h||`;
    - cold start of a newcomer: it trains `w_0` and joins the group of least `(1 - cos(D_i, mean_{j in g} D_j)) / 2`.

    Args:
      task: the model and its loss.
      local: solver of a client's round, and of the cold start.
      clusters: G, static; 1 is FedAvg with equal weights, where all take part.
      measure: see above, static.
      inter_lr: step between groups, traced; 0 in the paper's main results.
      floor: a smaller group dissolves, and its members join the nearest of the others, static; 1 in the paper.

    Returns:
      An algorithm whose clients keep nothing and deploy the model of their group. Down and up: |params|. Newcomers
      deploy the model of the group that they join.

    Raises:
      ValueError: if a count is below 1, `measure` is neither, or the reduction hands on anything but the uploads.

    Deviations from the source: the first round, with its cohort, is the pretraining, and one round of `local` the
    pretraining's length. Who was not there has its cold start when it first takes part; what it uploads then counts for
    no model.
    Source: Duan et al., "FedGroup: Efficient Federated Learning via Decomposed Similarity-Based Clustering", ISPA 2021,
    Algorithms 2 and 3; between groups as in the authors' code (FlexCFL).

    The means of the two groups:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[-2.0, -1.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedgroup(task, step, clusters=2), task, data, rounds=50)
    {'w': [-1.5, -1.5, 8.5, 8.5]}
    """

    def by_directions(moves: Params, present: Array, key: Array) -> Array:
        embedded = _embedded(tree.products(moves, moves), clusters)
        return kmeans(table.distances(embedded), present.astype(embedded.dtype), clusters, key)

    def by_difference(moves: Params, present: Array, key: Array) -> Array:
        made = agglomerated(_mean_differences(cosines(moves, moves), present), present, "complete")
        return cut(made, present, jnp.maximum(jnp.sum(present) - clusters, 0))

    algorithm = grouping_once(
        task,
        local,
        by_directions if measure == "edc" else by_difference,
        lambda moves, means: distances(moves, means, "cosine") / 2,
        clusters=clusters,
        adopt=True,
        floor=floor,
        weigh=heard,
    )

    def server_update(server: Clusters, cohort: Cohort, key: Array) -> Clusters:
        server = algorithm.server_update(server, cohort, key)
        w = server.models.trainable
        groups = jnp.append(server.memory.sizes > 0, False)
        lengths = jnp.sqrt(tree.row_products(w, w))
        units = jnp.where(groups & (lengths > 0), 1 / jnp.where(lengths > 0, lengths, 1), 0)
        others = jnp.where(groups[:, None], inter_lr * (units[None] - jnp.diag(units)), 0)
        moved = jax.tree.map(lambda leaf: leaf + jnp.tensordot(others.astype(leaf.dtype), leaf, 1), w)
        return server._replace(models=server.models._replace(trainable=moved))

    return algorithm._replace(server_update=server_update)


def _embedded(gram: Array, directions: int) -> Array:
    """Cosines [n, G] of rows with inner products [n, n] and their first G right singular vectors."""
    values, vectors = eigh(gram)
    along = vectors[:, -directions:] * jnp.sqrt(jnp.maximum(values[-directions:], 0))[None]
    lengths = jnp.sqrt(jnp.diagonal(gram))
    return along / jnp.where(lengths > 0, lengths, jnp.inf)[:, None]


def _mean_differences(similar: Array, present: Array) -> Array:
    """MADC [n, n] of cosines [n, n], over those that are present [n]."""
    places = jnp.arange(present.size)

    def of(i: Array) -> Array:
        others = present[None] & (places[None] != i) & (places[None] != places[:, None])
        return jnp.sum(jnp.where(others, jnp.abs(similar[i][None] - similar), 0), axis=1)

    return jax.lax.map(of, places) / jnp.maximum(jnp.sum(present) - 2, 1).astype(similar.dtype)
