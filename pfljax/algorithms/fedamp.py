"""FedAMP and HeurFedAMP: clients attend to clients like them."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import handed, stack
from pfljax.federation.table import distances, mixed, repeated, replaced, size
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree

Start = Literal["cloud", "own"]
Attention = Callable[[Tree, Tree], Array]
"""`(row [1, ...], table [N, ...]) -> ` attention of the row to each other client [N]; the own place is overwritten."""


def fedamp(
    task: Task,
    local: LocalSolver,
    *,
    lam: Array | float = 0.3,
    alpha: Array | float | None = None,
    sigma: Array | float | None = None,
    start: Start = "cloud",
) -> Algorithm:
    """Every client gets a cloud model `u_i = sum_j xi_ij w_j` and solves a proximal problem around it.

    - `xi_ij = alpha A'(||w_i - w_j||^2)` for `j != i`, `A'(x) = exp(-x / sigma) / sigma`; `xi_ii = 1 - sum_j xi_ij`;
    - `w_i ~ argmin f_i(w) + lam / (2 alpha) ||w - u_i||^2`.

    Args:
      task: the model and its loss.
      local: solver of the proximal problem; `local.proximal_descent` allows any `lam / alpha`.
      lam: strength of the pull `lam / alpha`, traced; in units of alpha, so the pull itself, if that is None.
      alpha: step size of the attention, traced. The paper wants it small enough for `xi_ii >= 0`; None is the largest
        that is so for all clients in this round. If a larger one makes the `xi_ij` of a client sum to more than 1, they
        are scaled to 1: its own step is as large as it can be, and `xi_ii = 0`.
      sigma: scale of the squared distances, > 0, traced. Far below them every client is alone, far above them all
        attract alike. None follows the models: a fifth of the mean of `||w_i - w_j||^2` over all pairs.
      start: where the solver starts: from `u_i` ("cloud") or from the client's own model ("own").

    Returns:
      An algorithm whose server holds all models [N, ...]; clients keep `w_i` and upload |params|, down: |params|.
      A newcomer receives the mean of all models, and its onboarding goes on with the problem around it.

    Raises:
      ValueError: if `start` is neither, or the reduction hands on anything but the uploads themselves.

    Deviations from the source: the scaled steps and the `sigma` that follows the models, see there; clients outside
    the cohort keep their rows and attract. Source: Huang et al., "Personalized Cross-Silo Federated Learning on Non-IID
    Data", AAAI 2021, Algorithm 1, equations 2 to 5.

    Only near clients attract: `(c_i + u_i) / 2`, with `u_i` the mean of each pair:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 0.02, 9.0, 9.02])
    >>> solve = local.descent(optax.sgd(0.5), plans.full_batch(2, 1))
    >>> quadratics.deployed(fedamp(task, solve, lam=0.5, alpha=0.5, sigma=1.0), task, data, rounds=100)
    {'w': [0.005, 0.015, 9.005, 9.015]}
    """

    def attention(row: Tree, table: Tree) -> Array:
        scale = _fifth(table) if sigma is None else sigma
        near = jnp.exp(-tree.row_distances(row, table) / scale)
        return near / _most(table, scale) if alpha is None else alpha / scale * near

    def cloud(others: Array, own: Array) -> Array:
        others = jnp.where(own, 0, others)
        others = others / jnp.maximum(jnp.sum(others), 1)
        return jnp.where(own, 1 - jnp.sum(others), others)

    return _attentive(task, local, attention, cloud, lam if alpha is None else lam / alpha, start)


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
      self_weight: the client's weight on itself, in [0, 1], traced; a client without others has 1.
      start: as in `fedamp`.

    Returns:
      As `fedamp`.

    Raises:
      As `fedamp`.

    Deviations from the source: a model of length 0 has cosine 0 with all; clients outside the cohort keep their rows
    and attract. Source: Huang et al., AAAI 2021, section "HeurFedAMP", equation 7.

    `(c_i + u_i) / 2`, with both `u_i` the mean of the two:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> solve = local.descent(optax.sgd(0.5), plans.full_batch(2, 1))
    >>> quadratics.deployed(heurfedamp(task, solve, self_weight=0.5), task, data, rounds=100)
    {'w': [2.0, 6.0]}
    """

    def attention(row: Tree, table: Tree) -> Array:
        norms = jnp.sqrt(tree.row_products(table, table) * tree.row_products(row, row))
        return sigma * tree.row_products(row, table) / jnp.where(norms > 0, norms, 1)

    def cloud(others: Array, own: Array) -> Array:
        if own.size == 1:
            return jnp.ones(1)
        return jnp.where(own, self_weight, (1 - self_weight) * jax.nn.softmax(jnp.where(own, -jnp.inf, others)))

    return _attentive(task, local, attention, cloud, lam / alpha, start)


def _fifth(table: Tree) -> Array:
    """A fifth of the mean of `||w_i - w_j||^2` over all pairs of rows; 1 if all are equal."""
    apart = distances(table)
    spread = jnp.sum(apart) / max(apart.size - len(apart), 1)
    return jnp.where(spread > 0, spread / 5, 1)


def _most(table: Tree, scale: Array | float) -> Array:
    """`max_i sum_{j != i} exp(-||w_i - w_j||^2 / sigma)`, sigma over the largest alpha; not 0."""
    near = jnp.exp(-distances(table) / scale)
    return jnp.maximum(jnp.max(jnp.sum(near, axis=1) - jnp.diagonal(near)), jnp.finfo(near.dtype).tiny)


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
        return repeated(task.init(key), num_clients)

    def download(table: Params, id: Array) -> Params:
        clients = jnp.arange(size(table))
        row = jax.tree.map(lambda leaf: jnp.take(leaf, id[None], axis=0, mode="clip"), table.trainable)
        weights = cloud(attention(row, table.trainable), clients == id)
        weights = jnp.where(id < clients.size, weights, 1 / clients.size)
        return mixed(weights, table)

    def solve(u: Params, begin: Params, data: ClientData, key: Array) -> Params:
        return local(proximal(task.loss, pull, u.trainable), begin, data, jax.random.fold_in(key, 0))

    def client_update(u: Params, own: Params, data: ClientData, key: Array) -> Reply:
        w = solve(u, u if start == "cloud" else own, data, key)
        return Reply(tree.sub(u, w), w)

    def server_update(table: Params, cohort: Cohort, key: Array) -> Params:
        received = jax.vmap(download, (None, 0))(table, cohort.ids)
        models = tree.sub(received, handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on"))
        return replaced(table, cohort, models)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda u, id, key: u,
        client_update=client_update,
        server_update=server_update,
        personalize=lambda u, own, data, key: own,
        reduce=stack,
        onboard=solve,
    )
