"""APPLE: every client deploys a sum of all clients' core models, with weights that it learns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.reduce import handed, stack
from pfljax.federation.skeletons import alone
from pfljax.learning.local import descent
from pfljax.learning.parts import joined, parted
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, Params, Plan, Reply, Task, Tree


class Cores(NamedTuple):
    """The server of APPLE."""

    models: Params  # [N, ...]
    sizes: Array  # [N] examples of each client, 0 until it has replied


class Shelf(NamedTuple):
    """What a client receives, or has received over the rounds."""

    models: Params  # [N, ...]
    prior: Array  # [N] share of each client in all examples


class Acquainted(NamedTuple):
    """What a client keeps that does not receive all cores in each round."""

    relations: Array  # [N] less the prior
    models: Params  # [N, ...] the cores as it received them last
    known: Array  # [N] whether it ever did


def apple(
    task: Task,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    *,
    relation_lr: Array | float = 0.001,
    mu: Array | float = 0.1,
    downloads: int | None = None,
    focus: Array | float = 1.5,
) -> Algorithm:
    """Client i owns a core model `w_i` and relations `p_i`, and deploys `m_i = sum_j p_ij w_j` of all clients' cores.

    In each local step, with `g = grad f_i(m_i; batch)`, while the others' cores rest:

    - `w_i <- w_i - lr p_ii g`;
    - `p_ij <- p_ij - relation_lr (<g, w_j> + 2 mu (p_ij - p0_j))`, from `p0_j = n_j / sum_k n_k` on.

    Both are the gradient of `f_i(m_i) + mu ||p_i - p0||^2` in `(w_i, p_i)`. The server keeps the cores.

    Where the bandwidth is limited, a client receives `downloads` cores in a round, and goes by the others as they were
    when it received them: first those that it never received, in random order, then others j, drawn without
    replacement with chances in proportion to `focus^|p_ij|`.

    Args:
      task: the model and its loss.
      optimizer: of the core, whose step size is `lr`.
      plan: the minibatches.
      relation_lr: step size of the relations, >= 0, traced.
      mu: strength of the pull towards `p0`, >= 0, traced. The paper lets it fall to 0 over the first rounds: a
        schedule, such as `schedules.cosine(0.1, rounds=20)`.
      downloads: M, static; None: all cores. The client's own is none of them.
      focus: see above, > 0, traced: 1 draws all alike. The authors let it grow as `max(1.5, r M / N)` in round r.

    Returns:
      An algorithm whose server holds all cores [N, ...]; clients keep `p_i - p0` (N) and upload |params|, down:
      N (|params| + 1). With limited downloads they keep N |params| more, and receive M |params| + N. A newcomer has no
      core, and its onboarding fits relations to those of the others; it begins with all of them.

    Raises:
      ValueError: if the reduction hands on anything but the uploads themselves.

    Deviations from the source: the server learns `n_j` when client j first replies; until then it counts as the mean
    of those known. Running statistics are those of the own core.
    Source: Luo and Wu, "Adapt to Adaptation: Learning Personalization for Cross-Silo Federated Learning", IJCAI 2022.

    Each client's sum reaches its own center:

    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> quadratics.deployed(apple(task, optax.sgd(0.5), plans.full_batch(1, 1), mu=0.0), task, data, rounds=200)
    {'w': [1.0, 5.0]}
    """

    def init_server(key: Array, num_clients: int) -> Cores:
        models = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], num_clients, axis=0), task.init(key))
        return Cores(models, jnp.zeros(num_clients))

    def download(server: Cores, id: Array) -> Shelf:
        known = server.sizes > 0
        typical = jnp.sum(server.sizes) / jnp.maximum(jnp.sum(known), 1).astype(float)
        sizes = jnp.where(known, server.sizes, jnp.where(typical > 0, typical, 1))
        return Shelf(server.models, sizes / jnp.sum(sizes))

    def mixture(core: Params, relations: Array, shelf: Shelf, id: Array) -> Params:
        """`m_i`, with the client's own core as it is now."""
        own, p = jnp.arange(shelf.prior.size) == id, shelf.prior + relations
        others, mine = jnp.where(own, 0, p), jnp.sum(jnp.where(own, p, 0))

        def leaf(rows: Array, core: Array) -> Array:
            return jnp.tensordot(others.astype(rows.dtype), rows, 1) + mine.astype(rows.dtype) * core

        return core._replace(trainable=jax.tree.map(leaf, shelf.models.trainable, core.trainable))

    def client_update(shelf: Shelf, relations: Array, data: ClientData, key: Array) -> Reply:
        def loss(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            core, (away, _) = parted(both, "core", "relations")
            value, stats = task.loss(mixture(core, away, shelf, data.id), batch, key)
            return value + mu * jnp.sum(away**2), {"core": stats, "relations": {}}

        optimizers: dict[Any, Any] = {"core": optimizer, "relations": optax.sgd(relation_lr)}
        solve = descent(optax.partition(optimizers, {name: name for name in optimizers}), plan)
        core = _row(shelf.models, data.id)
        start = joined(core=core, relations=Params(relations))
        moved, (relations, _) = parted(solve(loss, start, data, jax.random.fold_in(key, 0)), *optimizers)
        return Reply(tree.sub(core, moved), relations)

    def server_update(server: Cores, cohort: Cohort, key: Array) -> Cores:
        received = jax.vmap(_row, (None, 0))(server.models, cohort.ids)
        moved = handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on")
        models = jax.tree.map(lambda rows, by: rows.at[cohort.ids].add(-by, mode="drop"), server.models, moved)
        return Cores(models, server.sizes.at[cohort.ids].max(cohort.weights, mode="drop"))

    algorithm = Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda shelf, id, key: jnp.zeros_like(shelf.prior),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda shelf, relations, data, key: mixture(_row(shelf.models, data.id), relations, shelf, data.id),
        reduce=stack,
        onboard=alone(client_update),
    )
    return algorithm if downloads is None else _limited(algorithm, downloads, focus)


def _limited(algorithm: Algorithm, downloads: int, focus: Array | float) -> Algorithm:
    """APPLE whose clients receive some of the cores, and go by what they received before of the others."""

    def drawn(relations: Array, known: Array, id: Array, key: Array) -> Array:
        """Who is received [N]; equals in order of `log(chance) + Gumbel` are a draw without replacement."""
        chance = jnp.where(known, jnp.abs(relations) * jnp.log(focus), 0)
        noise = jax.random.gumbel(key, known.shape, chance.dtype)
        order = jnp.lexsort((-(chance + noise), known, jnp.arange(known.size) == id))
        return jnp.zeros_like(known).at[order[:downloads]].set(True)

    def seen(shelf: Shelf, own: Acquainted, id: Array, received: Array) -> Shelf:
        received = received | (jnp.arange(own.known.size) == id)
        return shelf._replace(models=jax.vmap(tree.where)(received, shelf.models, own.models))

    def client_update(shelf: Shelf, own: Acquainted, data: ClientData, key: Array) -> Reply:
        received = drawn(shelf.prior + own.relations, own.known, data.id, jax.random.fold_in(key, 1))
        shelf = seen(shelf, own, data.id, received)
        reply = algorithm.client_update(shelf, own.relations, data, key)
        return reply._replace(client=Acquainted(reply.client, shelf.models, own.known | received))

    def personalize(shelf: Shelf, own: Acquainted, data: ClientData, key: Array) -> Params:
        shelf = seen(shelf, own, data.id, jnp.zeros_like(own.known))
        return algorithm.personalize(shelf, own.relations, data, key)

    def init_client(shelf: Shelf, id: Array, key: Array) -> Acquainted:
        relations = algorithm.init_client(shelf, id, key)
        return Acquainted(relations, shelf.models, jnp.zeros(relations.shape, bool))

    def sent(shelf: Shelf) -> Shelf:
        return shelf._replace(models=jax.tree.map(lambda rows: rows[:downloads], shelf.models))

    return algorithm._replace(
        init_client=init_client,
        client_update=client_update,
        personalize=personalize,
        onboard=alone(client_update),
        sent=sent,
    )


def _row(models: Params, id: Array) -> Params:
    """The model of a client; some other's for a newcomer, in whose sum it has no part."""
    return jax.tree.map(lambda rows: jnp.take(rows, id, axis=0, mode="clip"), models)
