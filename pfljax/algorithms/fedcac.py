"""FedCAC: critical parameters are shared with clients that have them in the same places, the rest with all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import handed, stack, weighted
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.table import mixed, repeated, replaced, size
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


class Collaborators(NamedTuple):
    """The server of FedCAC."""

    server: Server  # of w
    models: Tree  # [N, ...] what each client trained last
    masks: Tree  # [N, ...] of bool: its critical parameters; none before it has trained
    overlap: Array  # [N, N], -1 where there is none
    round: Array  # [] rounds done


def fedcac(
    task: Task,
    local: LocalSolver,
    *,
    tau: Array | float = 0.5,
    beta: Array | float = 100.0,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """A client's critical parameters are the mean of its collaborators', all others are those of FedAvg.

    After local training from `theta` to `theta_i`, with `Delta = theta_i - theta`:

    - `m_i` marks the `tau n` largest of `|Delta theta_i|` in each leaf of n parameters;
    - `O_ij = 1 - |m_i - m_j|_1 / (2 |m_i|_1)`; the collaborators of i are itself and all j with
      `O_ij >= avg O + t/beta (max O - avg O)` after t rounds, avg and max over all pairs;
    - `w` is the mean of the `theta_i`, and client i receives `m_i * mean over collaborators(theta_j) + (1 - m_i) * w`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tau: share of parameters that are critical, in [0, 1], traced; 0 is FedAvg.
      beta: rounds after which no client collaborates any more, > 0, traced.
      server: server optimizer of w; plain averaging if None.

    Returns:
      An algorithm whose server holds all models and masks [N, ...]; clients keep nothing, upload |params| and deploy
      what they receive: |params|. A newcomer receives w.

    Raises:
      ValueError: if the reduction hands on anything but the uploads themselves.

    Deviations from the source: the server finds the masks, of what it has sent and received, and merges, so no mask
    travels; parameters that did not move
    but for rounding, or are 0, are never critical; clients outside the cohort keep their rows and
    collaborate. Source: Wu et al., "Bold but Cautious: Unlocking the Potential of Personalized Federated Learning
    through Cautiously Aggressive Collaboration", ICCV 2023, as implemented by PFLlib.

    The larger entry is critical: the first two clients share their second one, the third has its first for itself.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[[2.0, 8.0], [2.0, 6.0], [8.0, 1.0]])
    >>> step = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedcac(task, step, beta=1.0), task, data, rounds=1)
    {'w': [[4.0, 7.0], [4.0, 7.0], [8.0, 5.0]]}
    """
    server = fedopt() if server is None else server

    def init_server(key: Array, num_clients: int) -> Collaborators:
        w = task.init(key)
        models = repeated(w.trainable, num_clients)
        masks = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, bool), models)
        return Collaborators(server.init(w), models, masks, -jnp.ones((num_clients, num_clients)), jnp.asarray(0))

    def download(state: Collaborators, id: Array) -> Params:
        w, own = state.server.params, jnp.arange(size(state.models)) == id
        near = jnp.take(state.overlap, id, axis=0, mode="clip") >= threshold(state)
        partners = (own | near).astype(float)
        theirs = mixed(partners / jnp.maximum(jnp.sum(partners), 1), state.models)

        def merged(masks: Array, critical: Array, shared: Array) -> Array:
            mask = jnp.take(masks, id, axis=0, mode="clip") & (id < own.size)
            return jnp.where(mask, critical, shared)

        return w._replace(trainable=jax.tree.map(merged, state.masks, theirs, w.trainable))

    def threshold(state: Collaborators) -> Array:
        pairs = state.overlap >= 0
        average = jnp.nan_to_num(jnp.mean(state.overlap, where=pairs))
        highest = jnp.max(state.overlap, where=pairs, initial=0)
        return average + state.round.astype(float) / beta * (highest - average)

    def client_update(theta: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        return Reply(tree.sub(theta, local(task.loss, theta, data, jax.random.fold_in(key, 0))), client)

    def server_update(state: Collaborators, cohort: Cohort, key: Array) -> Collaborators:
        received, w = jax.vmap(download, (None, 0))(state, cohort.ids), state.server.params
        delta = handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on")
        trained = tree.sub(received, delta)
        critical = jax.vmap(marked)(delta.trainable, trained.trainable)
        masks = replaced(state.masks, cohort, critical)
        models = replaced(state.models, cohort, trained.trainable)
        moved = server.step(state.server, tree.sub(w, weighted(trained, cohort.weights)))
        return Collaborators(moved, models, masks, _overlap(masks), state.round + 1)

    def marked(delta: Tree, theta: Tree) -> Tree:
        """The `tau n` entries of each leaf that are most critical."""
        scores = jax.tree.map(lambda delta, theta: jnp.abs(delta * theta), delta, theta)
        highest = jnp.max(jnp.stack([jnp.max(leaf) for leaf in jax.tree.leaves(scores)]))

        def leaf(scores: Array) -> Array:
            count = jnp.floor(tau * jnp.asarray(scores.size, float)).astype(int)
            least = jnp.sort(scores, axis=None)[-jnp.maximum(count, 1)]
            return (scores >= least) & (scores > jnp.finfo(scores.dtype).eps * highest) & (count > 0)

        return jax.tree.map(leaf, scores)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda w, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda theta, client, data, key: theta,
        reduce=stack,
    )


def _overlap(masks: Tree) -> Array:
    """`1 - |m_i - m_j|_1 / (2 |m_i|_1)` [N, N]; -1 of a client with itself, or where one has no mask."""
    marked = jax.tree.map(lambda leaf: leaf.astype(float), masks)
    common = tree.products(marked, marked)
    marks = jnp.diagonal(common)
    differing = marks[:, None] + marks[None] - 2 * common
    pairs = (marks[:, None] > 0) & (marks[None] > 0) & ~jnp.eye(marks.size, dtype=bool)
    return jnp.where(pairs, 1 - differing / jnp.maximum(2 * marks, 1)[:, None], -1)
