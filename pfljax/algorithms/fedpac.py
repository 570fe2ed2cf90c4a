"""FedPAC: features are aligned with common prototypes, and each client's head is a mixture of those that serve it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from optax.projections import projection_simplex

from pfljax import masks, tree
from pfljax.federation.reduce import beside, handed, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning import classes
from pfljax.learning.classes import Prototypes
from pfljax.learning.local import average, only
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LocalSolver, Model, Params, Reply, Task, Tree

_STEPS = 500
"""Of the server's quadratic programs."""


class Collaborative(NamedTuple):
    """The server."""

    body: Server
    heads: Params  # [N, ...]
    prototypes: Prototypes


class Received(NamedTuple):
    """What a client sees of it."""

    body: Params
    head: Params  # its own
    prototypes: Prototypes


class Sent(NamedTuple):
    """What it sends back."""

    body: Params
    head: Params
    prototypes: tuple[Array, Array]  # [C, d] differences, weighted by the shares of the classes, and these [C]
    v: Array  # [] variance of the statistics
    H: Array  # [C, d] mean features of each class times its share


def fedpac(
    task: Task,
    local: LocalSolver,
    head_local: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 1.0,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """The body is shared; a client's head is the mixture of the cohort's heads that predicts best for its features.

    With the received body, `pi_ik` the share of class k, `mu_ik` its mean features, `n_i` the client's examples:

    - `H_i = [pi_i1 mu_i1, ..., pi_iC mu_iC]`, `v_i = (mean ||z||^2 - sum_k pi_ik^2 ||mu_ik||^2) / n_i`;
    - `head_local` trains `h_i`, the body rests; then `local` the body on `CE + lam mean_d (z - T_y)^2`, the head rests.
      `T_k` is the common prototype `P_k`, or `mu_ik` where there is none; before the first prototypes lam is 0;
    - the server averages the bodies, and `P_k <- sum_i n_ik q_ik / sum_i n_ik` with `q_ik` the means after training;
    - `h_i <- sum_j a_ij h_j`, `a_i = argmin sum_j a_j^2 v_j + ||H_i - sum_j a_j H_j||^2` over the simplex, and what is
      below 0.001 becomes 0.

    Args:
      task: the model and its loss.
      local: solver of the body phase.
      head_local: solver of the head phase, which comes first.
      model: the network of the task, which must have features.
      lam: strength of the alignment, >= 0, traced.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| and 2 C d + C + 1 numbers; the server holds a head for
      each client. A newcomer deploys the mean of the heads.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example, or the
        reduction does not hand on each upload.

    Deviations from the source: a quadratic program takes 500 accelerated projected steps, and no eigenvalue is dropped,
    as none is negative. Source: Xu et al., "Personalized Federated Learning with Feature Alignment and Classifier
    Collaboration", ICLR 2023, and the authors' code.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(4,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.engine.simulate(task, fedpac(task, solve, solve, model), data, rounds=9).scores
    >>> scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    count = classes.number(model, "fedpac aligns features")
    top, server = masks.head(model), fedopt() if server is None else server
    body = masks.negate(top)

    def halves(w: Params) -> tuple[Params, Params]:
        return tree.split(body(w), w)

    def init_server(key: Array, num_clients: int) -> Collaborative:
        b, h = halves(task.init(key))
        heads = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (num_clients, *leaf.shape)), h)
        return Collaborative(server.init(b), heads, classes.unseen(task, model, count))

    def download(state: Collaborative, id: Array) -> Received:
        population = len(jax.tree.leaves(state.heads)[0])

        def own(leaf: Array) -> Array:
            return jnp.where(id < population, jnp.take(leaf, id, axis=0, mode="clip"), jnp.mean(leaf, axis=0))

        return Received(state.body.params, jax.tree.map(own, state.heads), state.prototypes)

    def client_update(received: Received, client: tuple[()], data: ClientData, key: Array) -> Reply:
        (b, h, (P, seen)), w = received, tree.merge(received.body, received.head)
        mu, pi = classes.means(model, w, data, count, "fedpac")
        begun = jnp.max(seen)
        T = Prototypes(jnp.where(seen[:, None] > 0, P, mu), begun * jnp.maximum(seen, (pi > 0).astype(seen.dtype)))
        w = only(top, head_local)(task.loss, w, data, jax.random.fold_in(key, 0))
        w = only(body, local)(classes.aligned(model, lam, T), w, data, jax.random.fold_in(key, 1))
        q, _ = classes.means(model, w, data, count, "fedpac")
        b_i, h_i = halves(w)
        statistics = _variance(model, tree.merge(b, h), data, pi, mu), pi[:, None] * mu
        return Reply(Sent(tree.sub(b, b_i), tree.sub(h, h_i), (pi[:, None] * (P - q), pi), *statistics))

    def server_update(state: Collaborative, cohort: Cohort, key: Array) -> Collaborative:
        reduced, each = _both(cohort.uploads)
        moved, weight = reduced.prototypes
        P = state.prototypes.P - moved / jnp.where(weight > 0, weight, 1)[:, None]
        seen = jnp.maximum(state.prototypes.seen, (weight > 0).astype(P.dtype))
        heard = cohort.weights > 0
        a = jax.vmap(lambda own: collaboration(own, each.H, each.v, heard))(each.H)
        before = jax.tree.map(lambda leaf: jnp.take(leaf, cohort.ids, axis=0, mode="clip"), state.heads)
        mixed = jax.tree.map(lambda leaf: jnp.tensordot(a.astype(leaf.dtype), leaf, 1), tree.sub(before, each.head))
        places = jnp.where(heard, cohort.ids, len(jax.tree.leaves(state.heads)[0]))
        heads = jax.tree.map(lambda leaf, new: leaf.at[places].set(new, mode="drop"), state.heads, mixed)
        return Collaborative(server.step(state.body, reduced.body), heads, Prototypes(P, seen))

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda received, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda received, client, data, key: tree.merge(received.body, received.head),
        reduce=beside(mean),
    )


def collaboration(own: Array, H: Array, v: Array, heard: Array) -> Array:
    """`argmin over the simplex of sum_j a_j^2 v_j + ||H_i - sum_j a_j H_j||^2` [M], 0 for those that are not heard.

    Weights below 0.001 become 0.

    Args:
      own: H_i [C, d].
      H: of all [M, C, d].
      v: of all [M].
      heard: [M] bool.

    >>> H = jnp.array([[[0.5, 0.0], [0.0, 0.5]], [[0.3, 0.1], [0.0, 0.7]]])
    >>> [round(float(share), 3) for share in collaboration(H[0], H, jnp.array([0.04, 0.01]), jnp.ones(2, bool))]
    [0.714, 0.286]
    """
    away = jnp.where(heard[:, None], (own[None] - H).reshape(len(H), -1), 0)
    Q = away @ away.T + jnp.diag(jnp.where(heard, v, 0))
    steepest = jnp.max(jnp.sum(jnp.abs(Q), axis=1))
    rate = 1 / jnp.where(steepest > 0, steepest, 1)

    def project(a: Array) -> Array:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # optax divides by whole numbers
            return projection_simplex(jnp.where(heard, a, -1e6))

    def step(number: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        a, ahead, t = carry
        new = project(ahead - rate * Q @ ahead)
        back = jnp.vdot(ahead - new, new - a) > 0  # momentum points uphill: it begins anew
        t = jnp.where(back, 1, t)
        after = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + jnp.where(back, 0, (t - 1) / after) * (new - a), after

    start = project(jnp.zeros_like(v))
    a = jax.lax.fori_loop(0, _STEPS, step, (start, start, jnp.ones((), v.dtype)))[0]
    a = jnp.where(a < 1e-3, 0, a)
    return a / jnp.sum(a)


def _variance(model: Model, w: Params, data: ClientData, pi: Array, mu: Array) -> Array:
    """`v_i`, 0 without examples."""

    def of(batch: Batch, number: Array) -> Array:
        del number
        z = classes.flat_features(model, w, batch.x)
        rows = (batch.mask / jnp.maximum(jnp.sum(batch.mask), 1)).astype(z.dtype)
        return jnp.sum(rows * jnp.sum(jnp.square(z), axis=1))

    spread = average(of, data, batch_size=128) - jnp.sum(jnp.square(pi[:, None] * mu))
    return jnp.maximum(spread, 0) / jnp.maximum(data.size, 1).astype(spread.dtype)


def _both(uploads: Tree) -> tuple[Sent, Sent]:
    """What is reduced, and each upload."""
    needs = "the mean of the uploads and each of them, as `reduce.beside` makes them: leave the reduction out"
    reduced, each = uploads
    return handed(reduced, jax.tree.map(lambda leaf: leaf[0], each), needs), each
