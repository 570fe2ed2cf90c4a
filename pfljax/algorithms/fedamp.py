"""FedAMP and HeurFedAMP: clients attend to clients like them."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.losses import proximal
from pfljax.reduce import stack
from pfljax.skeletons import alone
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree

Start = Literal["cloud", "own"]
Attention = Callable[[Tree, Tree], Array]
"""`(row, table [N, ...]) -> ` attention of the row to each other client [N]; the own place is overwritten."""


def fedamp(
    task: Task,
    local: LocalSolver,
    *,
    lam: Array | float = 1.0,
    alpha: Array | float = 0.1,
    sigma: Array | float = 1.0,
    start: Start = "cloud",
) -> Algorithm:
    """Every client gets a cloud model `u_i = sum_j xi_ij w_j` and solves a proximal problem around it.

    - `xi_ij = alpha A'(||w_i - w_j||^2)` for `j != i`, `A'(x) = exp(-x / sigma) / sigma`; `xi_ii = 1 - sum_j xi_ij`;
    - `w_i ~ argmin f_i(w) + lam / (2 alpha) ||w - u_i||^2`.

    Args:
      task: the model and its loss.
      local: solver of the proximal problem; `local.proximal_descent` allows any `lam / alpha`.
      lam: strength of the pull, traced.
      alpha: step size of the attention, traced; `alpha <= sigma / (N - 1)` keeps `xi_ii >= 0`.
      sigma: scale of the squared distances, > 0, traced.
      start: where the solver starts: from `u_i` ("cloud") or from the client's own model ("own").

    Returns:
      An algorithm whose server holds all models [N, ...]; clients keep `w_i` and upload |params|, down: |params|.
      A newcomer receives the mean of all models.

    Raises:
      ValueError: if `start` is neither.

    Deviations from the source: none. Source: Huang et al., "Personalized Cross-Silo Federated Learning on Non-IID
    Data", AAAI 2021, Algorithm 1, equations 2 to 5.

    Only near clients attract: `(c_i + u_i) / 2`, with `u_i` the mean of each pair:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 0.02, 9.0, 9.02])
    >>> solve = local.descent(optax.sgd(0.5), local.full_batch(2, 1))
    >>> quadratics.deployed(fedamp(task, solve, lam=0.5, alpha=0.5), task, data, rounds=100)
    {'w': [0.005, 0.015, 9.005, 9.015]}
    """

    def attention(row: Tree, table: Tree) -> Array:
        return alpha / sigma * jnp.exp(-_distances(row, table) / sigma)

    def cloud(others: Array, own: Array) -> Array:
        return jnp.where(own, 1 - jnp.sum(jnp.where(own, 0, others)), others)

    return _attentive(task, local, attention, cloud, lam / alpha, start)


def heurfedamp(
    task: Task,
    local: LocalSolver,
    *,
    lam: Array | float = 1.0,
    alpha: Array | float = 1.0,
    sigma: Array | float = 25.0,
    self_weight: Array | float = 0.1,
    start: Start = "cloud",
) -> Algorithm:
    """FedAMP with attention by angle.

    `xi_ii = self_weight`, `xi_ij = (1 - xi_ii) softmax_{j != i}(sigma cos(w_i, w_j))`.

    Args:
      task: the model and its loss.
      local: solver of the proximal problem.
      lam: strength of the pull together with `alpha`: `lam / (2 alpha) ||w - u_i||^2`, traced.
      alpha: see `lam`, traced.
      sigma: sharpness of the attention, traced.
      self_weight: the client's weight on itself, in [0, 1], traced.
      start: as in `fedamp`.

    Returns:
      As `fedamp`.

    Raises:
      ValueError: if `start` is neither.

    Deviations from the source: none. Source: Huang et al., AAAI 2021, section "HeurFedAMP", equation 7.

    `(c_i + u_i) / 2`, with both `u_i` the mean of the two:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> solve = local.descent(optax.sgd(0.5), local.full_batch(2, 1))
    >>> quadratics.deployed(heurfedamp(task, solve, self_weight=0.5), task, data, rounds=100)
    {'w': [2.0, 6.0]}
    """

    def attention(row: Tree, table: Tree) -> Array:
        norms = jnp.sqrt(_products(table, table) * tree.squared_norm(row))
        return sigma * _products(row, table) / jnp.where(norms > 0, norms, 1)

    def cloud(others: Array, own: Array) -> Array:
        return jnp.where(own, self_weight, (1 - self_weight) * jax.nn.softmax(jnp.where(own, -jnp.inf, others)))

    return _attentive(task, local, attention, cloud, lam / alpha, start)


def _products(a: Tree, table: Tree) -> Array:
    """Inner products of `a` (one row, or a table) with the rows of `table`: [N]."""

    def leaf(x: Array, rows: Array) -> Array:
        return jnp.sum((x * rows).reshape(rows.shape[0], -1), axis=1)

    return sum(jax.tree.leaves(jax.tree.map(leaf, a, table)), start=jnp.zeros(()))


def _distances(row: Tree, table: Tree) -> Array:
    difference = jax.tree.map(lambda x, rows: rows - x, row, table)
    return _products(difference, difference)


def _attentive(
    task: Task,
    local: LocalSolver,
    attention: Attention,
    cloud: Callable[[Array, Array], Array],
    pull: Array | float,
    start: Start,
) -> Algorithm:
    if start not in ("cloud", "own"):
        raise ValueError(f"start={start!r}: choose 'cloud' or 'own'")

    def init_server(key: Array, num_clients: int) -> Params:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], num_clients, axis=0), task.init(key))

    def download(table: Params, id: Array) -> Params:
        clients = jnp.arange(jax.tree.leaves(table)[0].shape[0])
        row = jax.tree.map(lambda leaf: jnp.take(leaf, id, axis=0, mode="clip"), table.trainable)
        weights = cloud(attention(row, table.trainable), clients == id)
        weights = jnp.where(id < clients.size, weights, 1 / clients.size)
        return jax.tree.map(lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, 1), table)

    def client_update(u: Params, own: Params, data: ClientData, key: Array) -> Reply:
        w = local(
            proximal(task.loss, pull, u.trainable), u if start == "cloud" else own, data, jax.random.fold_in(key, 0)
        )
        return Reply(tree.sub(u, w), w)

    def server_update(table: Params, cohort: Cohort, key: Array) -> Params:
        models = tree.sub(jax.vmap(download, (None, 0))(table, cohort.ids), cohort.uploads)
        size = jax.tree.leaves(table)[0].shape[0]
        rows = jnp.where(cohort.weights > 0, cohort.ids, size)
        return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new, mode="drop"), table, models)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda u, id, key: u,
        client_update=client_update,
        server_update=server_update,
        personalize=lambda u, own, data, key: own,
        reduce=stack,
        onboard=alone(client_update),
    )
