"""FedFomo: each client takes as much of the others' models as they serve its own validation examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import handed, stack
from pfljax.federation.table import places, repeated, replaced
from pfljax.learning.tasks import misfit
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task


class Acquaintance(NamedTuple):
    """The server of FedFomo."""

    models: Params  # [N, ...]
    affinity: Array  # [N, N] sums of the weights that client i gave to client j
    candidates: Array  # [N + 1, M] whose models each client receives next; the last row is for newcomers


def fedfomo(task: Task, local: LocalSolver, *, candidates: int = 5, epsilon: Array | float = 0.3) -> Algorithm:
    """Each client steps towards the models of others that have a lower loss on its validation examples, then trains.

    With `L_i` the loss on the validation examples of client i, and j its M candidates:

    - `w_ij = (L_i(theta_i) - L_i(theta_j)) / ||theta_j - theta_i||`, and `P_ij <- P_ij + w_ij`;
    - `theta_i <- theta_i + sum_j v_ij (theta_j - theta_i)`, `v_ij = max(w_ij, 0) / sum_j max(w_ij, 0)`;
    - `theta_i <- local(f_i, theta_i)`.

    The candidates of the next round are the others of highest affinity `P_ij`, equal ones at random; each of the M
    places goes to a random other instead with probability epsilon.

    Args:
      task: the model and its loss; losses are compared by `tasks.misfit`.
      local: solver of a client's round.
      candidates: M, static; all N - 1 others if they are fewer; a client alone has
        itself, to no effect.
      epsilon: chance of a random candidate, in [0, 1], traced; the authors let it fall over the rounds.

    Returns:
      An algorithm whose server holds all models [N, ...] and P; clients keep `theta_i` and upload |params| and M
      weights, down: M |params|. A client that no candidate serves better, or without validation examples, trains alone.
      A newcomer starts as everybody did; its onboarding mixes and trains.

    Raises:
      ValueError: if `candidates` is below 1, or the reduction hands on anything but the uploads themselves.

    Deviations from the source: `theta_i` is the client's model after its last training, so it is no candidate of its
    own; a candidate at distance 0, or whose loss is not finite, has weight 0. Uploads are differences to the mean of
    the models received. Clients outside the cohort keep their rows and are candidates.
    Source: Zhang et al., "Personalized Federated Learning with First Order Model Optimization", ICLR 2021, equations 5
    and 6 and Algorithm 1.

    Each validates on what the other trains on, so it takes the other's model and goes half the way back to its own
    optimum: `theta_0 = theta_1 / 2`, `theta_1 = (theta_0 + 8) / 2`.

    >>> import dataclasses, optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> data = dataclasses.replace(data, validation=type(data.train)(*(leaf[::-1] for leaf in data.train)))
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedfomo(task, step), task, data, rounds=50)
    {'w': [2.667, 5.333]}
    """
    if candidates < 1:
        raise ValueError(f"candidates={candidates}: it must be at least 1")

    def drawn(affinity: Array, own: Array, key: Array) -> Array:
        """The candidates [M] of a client with a row of P and its place in it [N], which is nowhere for newcomers."""
        places = min(candidates, max(own.size - 1, 1))
        chance = jax.random.uniform(jax.random.fold_in(key, 0), own.shape)
        explored = jnp.sum(jax.random.uniform(jax.random.fold_in(key, 1), (places,)) < epsilon)
        order = jnp.lexsort((chance, jnp.where(own, jnp.inf, -affinity)))
        best = jnp.argsort(order) < places - explored
        return jax.lax.top_k(jnp.where(own, -1, jnp.where(best, 2, chance)), places)[1]

    def matched(affinity: Array, key: Array) -> Array:
        everybody = jnp.arange(affinity.shape[0] + 1)
        table = jnp.concatenate([affinity, jnp.zeros_like(affinity[:1])])
        keys = jax.vmap(lambda id: jax.random.fold_in(key, id))(everybody)
        return jax.vmap(drawn)(table, everybody[:, None] == everybody[None, :-1], keys)

    def init_server(key: Array, num_clients: int) -> Acquaintance:
        affinity = jnp.zeros((num_clients, num_clients))
        candidates = matched(affinity, jax.random.fold_in(key, 1))
        return Acquaintance(repeated(task.init(key), num_clients), affinity, candidates)

    def download(server: Acquaintance, id: Array) -> Params:
        theirs = jnp.take(server.candidates, id, axis=0, mode="clip")
        return jax.tree.map(lambda leaf: leaf[theirs], server.models)

    def mixed(models: Params, own: Params, data: ClientData, key: Array) -> tuple[Array, Params]:
        """The weights [M] of the candidates, and the client's model after its step towards them."""

        def loss(params: Params) -> Array:
            return misfit(task, params, data.on(data.validation), jax.random.fold_in(key, 1))

        def move(theta: Array, others: Array) -> Array:
            steps = shares.astype(theta.dtype).reshape(-1, *[1] * theta.ndim)
            return theta + jnp.sum(jnp.where(steps > 0, steps * (others - theta[None]), 0), axis=0)

        def weight(theta: Params) -> Array:
            apart = jnp.sqrt(tree.squared_norm(tree.sub(theta.trainable, own.trainable)))
            weight = (now - loss(theta)) / apart
            return jnp.where(jnp.isfinite(weight), weight, 0)

        now = loss(own)
        weights = jax.lax.map(weight, models)
        better = jnp.maximum(weights, 0)
        shares = better / jnp.where(jnp.any(better > 0), jnp.sum(better), 1)
        return weights, jax.tree.map(move, own, models)

    def update(models: Params, own: Params, data: ClientData, key: Array) -> tuple[Array, Params]:
        weights, start = mixed(models, own, data, key)
        return weights, local(task.loss, start, data, jax.random.fold_in(key, 0))

    def client_update(models: Params, own: Params, data: ClientData, key: Array) -> Reply:
        weights, theta = update(models, own, data, key)
        return Reply((weights, tree.sub(_middle(models), theta)), theta)

    def server_update(server: Acquaintance, cohort: Cohort, key: Array) -> Acquaintance:
        middles = jax.lax.map(lambda id: _middle(download(server, id)), cohort.ids)
        clients = places(server.affinity, cohort)
        theirs = server.candidates[clients]
        expected = theirs.astype(float), middles
        weights, moved = handed(cohort.uploads, expected, "all uploads, as `reduce.stack` hands them on")
        models = replaced(server.models, cohort, tree.sub(middles, moved))
        affinity = server.affinity.at[clients[:, None], theirs].add(weights, mode="drop")
        return Acquaintance(models, affinity, matched(affinity, key))

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda models, id, key: task.init(key),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda models, own, data, key: own,
        reduce=stack,
        onboard=lambda models, own, data, key: update(models, own, data, key)[1],
    )


def _middle(models: Params) -> Params:
    """The mean of the models [M, ...]."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), models)
