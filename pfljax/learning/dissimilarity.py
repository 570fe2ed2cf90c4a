"""How far clients disagree about where a model should go: their gradients, and what their training makes of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.data import FederatedData
from pfljax.learning.local import mean_gradient
from pfljax.types import Array, LocalSolver, Params, Task, Tree

Weights = Literal["size", "uniform"]


class Dissimilarity(NamedTuple):
    """Of directions g_i [N] with weights p_i and mean `g = sum_i p_i g_i`."""

    b: float  # B, `sqrt(sum_i p_i |g_i|^2) / |g|`: 1 where all agree, infinite where they cancel
    squared: float  # `sum_i p_i |g_i|^2`
    of_mean: float  # `|g|^2`
    variance: float  # `sum_i p_i |g_i - g|^2`
    cosine: float  # mean cosine over pairs of clients that move at all; NaN without pairs


def of_directions(directions: Tree, weights: Array) -> Dissimilarity:
    """How far rows of a tree disagree.

    Args:
      directions: leaves [N, ...].
      weights: [N], at least one above 0; rows of weight 0 do not count.

    >>> found = of_directions({"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}, jnp.ones(2))
    >>> round(found.b, 3), found.variance, found.cosine
    (1.414, 0.5, 0.0)
    """
    leaves = [jnp.reshape(leaf, (len(leaf), -1)) for leaf in jax.tree.leaves(directions)]
    rows = jnp.concatenate(leaves, axis=1)
    p = jnp.asarray(weights, rows.dtype) / jnp.sum(jnp.asarray(weights, rows.dtype))
    mean, lengths = p @ rows, jnp.linalg.norm(rows, axis=1)
    squared, of_mean = p @ lengths**2, mean @ mean
    moves = (p > 0) & (lengths > 0)
    unit = jnp.where(moves[:, None], rows / jnp.where(moves, lengths, 1)[:, None], 0)
    count, total = jnp.sum(moves), jnp.sum(unit, axis=0)
    cosine = (total @ total - count) / (count * (count - 1))
    variance = p @ jnp.sum((rows - mean) ** 2, axis=1)
    return Dissimilarity(*map(float, (jnp.sqrt(squared / of_mean), squared, of_mean, variance, cosine)))


def of_gradients(
    task: Task, params: Params, data: FederatedData, *, weights: Weights = "size", seed: int = 0
) -> Dissimilarity:
    """Gradient dissimilarity at w: of `grad f_i(w)` over all training examples of each client.

    Args:
      task: with the loss.
      params: w, such as `result.server` or `task.init(key)`.
      data: a federation; clients without training examples do not count.
      weights: p_i in proportion to training examples, or all the same.
      seed: of what is random in the loss.

    Raises:
      ValueError: if `weights` is neither.

    Source: definition 3 of Li et al., "Federated optimization in heterogeneous networks", MLSys 2020 (B).
    """
    checks.each(Weights, weights=weights)
    key = jax.random.key(seed)

    def gradient(client: Array) -> Tree:
        return mean_gradient(task.loss, params, data.client(client), jax.random.fold_in(key, client))

    return of_directions(jax.lax.map(gradient, jnp.arange(data.num_clients)), _weights(data, weights))


def of_updates(
    task: Task, local: LocalSolver, params: Params, data: FederatedData, *, weights: Weights = "size", seed: int = 0
) -> Dissimilarity:
    """Update dissimilarity at w: of `w - local(f_i, w)`, what clients would upload after a round of training.

    Args:
      task, params, data, weights, seed: see `of_gradients`.
      local: solver of a client's round.
    """
    checks.each(Weights, weights=weights)
    key = jax.random.key(seed)

    def update(client: Array) -> Tree:
        made = local(task.loss, params, data.client(client), jax.random.fold_in(key, client))
        return tree.sub(params.trainable, made.trainable)

    return of_directions(jax.lax.map(update, jnp.arange(data.num_clients)), _weights(data, weights))


def _weights(data: FederatedData, weights: Weights) -> Array:
    sizes = jnp.asarray(data.sizes()[: data.num_clients], float)
    return sizes if weights == "size" else (sizes > 0).astype(float)
