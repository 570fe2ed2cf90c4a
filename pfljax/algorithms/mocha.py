"""MOCHA: linear models of all clients, and a matrix of how they are related."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.federation.reduce import handed, stack
from pfljax.federation.table import mixed, repeated, replaced, row
from pfljax.learning import classes
from pfljax.learning.linalg import eigh, inv
from pfljax.learning.losses import proximal
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    LocalSolver,
    Model,
    Params,
    Plan,
    Reply,
    Task,
    Tree,
)

_FLOOR = 1e-7
"""The least eigenvalue of `W' W`, as in the authors' code."""


class Related(NamedTuple):
    """The server of MOCHA."""

    v: Tree  # [N, ...] `v_t = sum_i alpha_ti x_ti`, like the head
    sigma: Array  # [N, N] how tasks are related
    round: Array  # [] rounds done


class Received(NamedTuple):
    """What a client receives of `Related`."""

    w: Tree  # w_t
    q: Array  # [] weight of its quadratic term, `sigma' Sigma_tt / lam`


class Duals(NamedTuple):
    """What a client keeps."""

    alpha: Array  # [capacity, C]
    start: Params  # the network, whose body stays as it is


def mocha(
    task: Task,
    plan: Plan,
    model: Model,
    capacity: int,
    *,
    loss: Literal["hinge", "squared", "logistic"] = "hinge",
    lam: Array | float = 0.1,
    omega_every: int = 10,
) -> Algorithm:
    """Every client t has a linear model `w_t`; the relation of all of them is learned along, in the dual.

    `min_{W, Omega} sum_t sum_i l(<w_t, x_ti>, y_ti) + lam/2 tr(W Omega W')`, with `Sigma = Omega^-1`, dual variables
    `alpha_ti`, `v_t = sum_i alpha_ti x_ti` and `w_t = 1/lam sum_s Sigma_ts v_s`:

    - client: for each example i of its minibatches in turn, `alpha_ti` maximises
      `-l*(-alpha_ti) - <w_t, d_t> - q/2 ||d_t||^2`, where `d_t` is the change of `v_t` in this round and
      `q = sigma' Sigma_tt / lam`, `sigma' = max_t sum_s |Sigma_ts| / Sigma_tt`; it uploads `d_t`;
    - server: `v_t <- v_t + d_t`, and every `omega_every` rounds `Sigma <- (W' W)^(1/2) / tr((W' W)^(1/2))`; at first
      it is `I/N`.

    Args:
      task: the model; its loss is not used.
      plan: the minibatches, whose examples are visited one after the other.
      model: the network of the task. `x_ti` is what its head reads, the features of the body as it starts; of
        `logistic` that is the example itself. The head must be linear.
      capacity: examples of the largest client, static. The models of a client that has more become NaN; the examples of
        a client must not drift.
      loss: `max(0, 1 - y z)`, `(z - y)^2 / 2` or `log(1 + exp(-y z))`, static. Of classes each output learns its own
        against the rest, `y = +-1`; the squared loss takes real targets too.
      lam: strength of the regularization, > 0, traced; of a sum over examples, so in units of examples.
      omega_every: rounds between two steps of Sigma, static; 0 leaves it at `I/N`: independent tasks.

    Returns:
      An algorithm whose clients keep `alpha` and the body, and upload the head; down: the head and a number. A newcomer
      deploys the mean of all `w_t`.

    Raises:
      ValueError: if `loss` is unknown; when traced, if hinge or logistic loss gets labels that are no classes, or the
        reduction hands on anything but the uploads themselves.

    Deviations from the source: the step on the logistic loss is SDCA's closed one, which climbs as far as is certain,
    not the maximiser; eigenvalues of `W' W` are at least 1e-7, as in the authors' code.
    Source: Smith et al., "Federated Multi-Task Learning", NeurIPS 2017, Algorithm 1; for the steps Shalev-Shwartz and
    Zhang, "Stochastic Dual Coordinate Ascent Methods for Regularized Loss Minimization", JMLR 2013.

    Ridge regression, with a bias: `w = b = y / (2 + lam N)` for one example `x = 1` each:

    >>> import pfljax as pfl
    >>> model, held = pfl.models.logistic((1,), 1), [([[1.0]], [3.0]), ([[1.0]], [6.0])]
    >>> task, data = pfl.regression(model), pfl.from_clients(held, held)
    >>> method = mocha(task, pfl.full_batch(1, 1), model, capacity=1, loss="squared", lam=0.5, omega_every=0)
    >>> model = pfl.simulate(task, method, data, rounds=1).models[1].params
    >>> jax.tree.leaves(jax.tree.map(lambda leaf: round(leaf.item(), 3), model))
    [2.0, 2.0]
    """
    checks.choice(loss, _ASCENTS, "mocha: loss")
    outputs, top = classes.number(model, "mocha is linear in features"), masks.head(model)
    features = cast(Callable[..., Any], model.features)

    def init_server(key: Array, num_clients: int) -> Related:
        params = task.init(key)
        w = tree.split(top(params), params)[0].trainable
        return Related(tree.scale(0, repeated(w, num_clients)), jnp.eye(num_clients) / num_clients, jnp.asarray(0))

    def download(server: Related, id: Array) -> Received:
        sigma, own = server.sigma, jnp.diagonal(server.sigma)
        safe = jnp.max(jnp.sum(jnp.abs(sigma), axis=1) / own)
        return Received(mixed(row(sigma, id) / lam, server.v), safe * row(own, id) / lam)

    def init_client(received: Received, id: Array, key: Array) -> Duals:
        return Duals(jnp.zeros((capacity, outputs)), task.init(key))

    def climbed(received: Received, own: Duals, data: ClientData, key: Array) -> tuple[Array, Tree]:
        """The duals, and `w_t + q d_t`."""

        def example(state: tuple[Array, Tree], each: Batch) -> tuple[tuple[Array, Tree], None]:
            (alpha, u), (x, y, counts, place) = state, each
            z, back = jax.vjp(lambda u: model.head(own.start._replace(trainable=u), x[None])[0][0], u)
            bend = received.q * tree.squared_norm(back(jnp.ones_like(z))) / z.size
            old = alpha.at[place].get(mode="fill", fill_value=jnp.nan)
            new = _ASCENTS[loss](old, _target(y, z, loss), z, bend)
            change = jnp.where(counts > 0, new - old, 0)
            u = tree.axpy(received.q, back(change)[0], u)
            return (alpha.at[place].add(change, mode="drop"), u), None

        def step(number: Array, state: tuple[Array, Tree]) -> tuple[Array, Tree]:
            batch = plan.batch(data, key, number)
            z = features(own.start, batch.x)[0]
            return jax.lax.scan(example, state, batch._replace(x=z))[0]

        return jax.lax.fori_loop(0, plan.steps(data), step, (own.alpha, received.w))

    def client_update(received: Received, own: Duals, data: ClientData, key: Array) -> Reply:
        alpha, u = climbed(received, own, data, jax.random.fold_in(key, 0))
        return Reply(tree.scale(1 / received.q, tree.sub(received.w, u)), own._replace(alpha=alpha))

    def server_update(server: Related, cohort: Cohort, key: Array) -> Related:
        old, rounds = jax.vmap(row, (None, 0))(server.v, cohort.ids), server.round + 1
        moved = handed(cohort.uploads, old, "all uploads, as `reduce.stack` hands them on")
        v, sigma = replaced(server.v, cohort, tree.sub(old, moved)), server.sigma
        if omega_every:
            related = _root(sigma @ tree.products(v, v) @ sigma / lam**2)
            sigma = jnp.where(rounds % omega_every == 0, related / jnp.trace(related), sigma)
        return Related(v, sigma, rounds)

    def personalize(received: Received, own: Duals, data: ClientData, key: Array) -> Params:
        return own.start._replace(trainable=tree.merge(received.w, own.start.trainable))

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=init_client,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=stack,
    )


class Regularized(NamedTuple):
    """The server of MOCHA in the primal."""

    models: Params  # [N, ...]
    omega: Array  # [N, N]
    round: Array  # [] rounds done


class Pulled(NamedTuple):
    """What a client receives of `Regularized`."""

    anchor: Params  # `-sum_{s != t} Omega_ts w_s / Omega_tt`
    strength: Array  # [] Omega_tt


def mocha_primal(
    task: Task,
    local: LocalSolver,
    *,
    lam: Array | float = 0.1,
    relation: Literal["mean", "learned"] = "mean",
    omega_every: int = 10,
) -> Algorithm:
    """MOCHA for any network: each client descends its own block of `sum_t f_t(w_t) + lam/2 tr(W Omega W')`.

    `w_t <- local(f_t + lam (Omega_tt / 2 ||w_t||^2 + <w_t, sum_{s != t} Omega_ts w_s>))` from its last `w_t`, all `w_s`
    as they were sent last. This is `f_t` with a proximal term of strength `lam Omega_tt` around
    `-sum_{s != t} Omega_ts w_s / Omega_tt`.

    Args:
      task: the model and its loss.
      local: solver of a round; `local.proximal_descent` allows any `lam`.
      lam: strength of the regularization, traced; of mean losses. 0 is local-only.
      relation: `Omega = I - 11'/N` ("mean"), which pulls each client to the mean of the others, or learned from W as in
        `mocha`, from N I on ("learned").
      omega_every: rounds between two steps of a learned Omega, static.

    Returns:
      An algorithm whose server holds all models and Omega; clients keep `w_t` and upload |params|, down: |params| and a
      number. A newcomer is pulled to the mean of all models.

    Raises:
      ValueError: if `relation` is unknown, or the reduction hands on anything but the uploads themselves.

    Deviations from the source: no dual, so no convexity is needed, and none is promised; clients outside the cohort
    keep their rows. Source: Smith et al., "Federated Multi-Task Learning", NeurIPS 2017; descended as by PFLlib's
    FedMTL.

    The stationary point: `(c_t + lam m) / (1 + lam)` at the mean `m = 4`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 1))
    >>> quadratics.deployed(mocha_primal(task, step, lam=3.0), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    checks.choice(relation, ("mean", "learned"), "mocha_primal: relation")

    def init_server(key: Array, num_clients: int) -> Regularized:
        even = jnp.eye(num_clients) - 1 / num_clients if relation == "mean" else num_clients * jnp.eye(num_clients)
        return Regularized(repeated(task.init(key), num_clients), even, jnp.asarray(0))

    def download(server: Regularized, id: Array) -> Pulled:
        strength, own = row(jnp.diagonal(server.omega), id), row(server.models, id)
        others = jnp.where(jnp.arange(server.omega.shape[0]) == id, 0, row(server.omega, id))
        anchor = mixed(-others / jnp.where(strength > 0, strength, 1), server.models.trainable)
        anchor = tree.where(id < others.size, anchor, own.trainable)
        return Pulled(own._replace(trainable=anchor), strength)

    def solve(pulled: Pulled, own: Params, data: ClientData, key: Array) -> Params:
        loss = proximal(task.loss, lam * pulled.strength, pulled.anchor.trainable)
        return local(loss, own, data, jax.random.fold_in(key, 0))

    def client_update(pulled: Pulled, own: Params, data: ClientData, key: Array) -> Reply:
        w = solve(pulled, own, data, key)
        return Reply(tree.sub(pulled.anchor, w), w)

    def server_update(server: Regularized, cohort: Cohort, key: Array) -> Regularized:
        sent = jax.vmap(download, (None, 0))(server, cohort.ids).anchor
        moved = handed(cohort.uploads, sent, "all uploads, as `reduce.stack` hands them on")
        models, rounds, omega = replaced(server.models, cohort, tree.sub(sent, moved)), server.round + 1, server.omega
        if relation == "learned":
            sigma = _root(tree.products(models.trainable, models.trainable))
            learned = inv(sigma / jnp.trace(sigma))
            omega = jnp.where(rounds % omega_every == 0, learned, omega)
        return Regularized(models, omega, rounds)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda pulled, id, key: task.init(key),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda pulled, own, data, key: own,
        reduce=stack,
        onboard=solve,
    )


def _hinge(alpha: Array, y: Array, z: Array, q: Array) -> Array:
    return y * jnp.clip(y * alpha + (1 - y * z) / q, 0, 1)


def _squared(alpha: Array, y: Array, z: Array, q: Array) -> Array:
    return alpha + (y - z - alpha) / (1 + q)


def _logistic(alpha: Array, y: Array, z: Array, q: Array) -> Array:
    return alpha + (y * jax.nn.sigmoid(-y * z) - alpha) * 4 / (4 + q)


_ASCENTS: dict[str, Callable[[Array, Array, Array, Array], Array]] = {
    "hinge": _hinge,
    "squared": _squared,
    "logistic": _logistic,
}
"""What `(alpha, y, z, q ||x||^2)` of an example becomes, by the loss."""


def _target(y: Array, z: Array, loss: str) -> Array:
    """[C] +-1 of a class, against the rest; real targets of the squared loss as they are."""
    if loss == "squared" and (z.size == 1 or not jnp.issubdtype(y.dtype, jnp.integer)):
        return y.reshape(z.shape).astype(z.dtype)
    checks.classes(y[None], f"mocha with loss={loss!r}")
    return 2 * jax.nn.one_hot(y, z.size, dtype=z.dtype) - 1


def _root(gram: Array) -> Array:
    """The square root of a symmetric matrix whose eigenvalues are raised to 1e-7."""
    values, vectors = eigh(gram)
    return vectors * jnp.sqrt(jnp.maximum(values, _FLOOR))[None] @ vectors.T
