"""ARUBA: an initial model and, for each of its numbers, the step size that its clients want."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.reduce import beside, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning.local import descent
from pfljax.learning.memory import Memory
from pfljax.types import Algorithm, Array, ClientData, Cohort, Params, Plan, Reply, Task, Tree


class Tuned(NamedTuple):
    """The server of ARUBA."""

    model: Server
    b: Tree  # how far tasks are from the initial model
    g: Tree  # how large their gradients are
    rounds: Array  # []


def aruba(
    task: Task,
    plan: Plan,
    adapt: Plan,
    *,
    lr: Array | float = 0.1,
    zeta: Array | float = 1.0,
    decay: Array | float = 1.0,
    coefficient: Array | float = 0.0,
    isotropic: bool = False,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg with a learned step size `eta_j = sqrt(b_j / g_j)` for each number of the model.

    A client goes from phi to `y_i` by `y <- y - eta o grad f_i(y; batch)`, with `G_i` the sum of the squared gradients
    on its way. After round t, counted from 0, and with `epsilon = lr zeta`,

    - `b <- b + sum_i (phi - y_i)^2 / 2 + epsilon^2 / (t + 1)^p`, from `epsilon^2` on;
    - `g <- g + sum_i G_i + zeta^2 / (t + 1)^p`, from `zeta^2` on;
    - `phi <- mean_i y_i`.

    Every client deploys phi after steps along `adapt`; in ARUBA++ `g <- g + coefficient grad^2` after each of them.

    Args:
      task: the model and its loss.
      plan: minibatches of a round.
      adapt: minibatches of the adaptation before deployment.
      lr: the step size at first, > 0, traced.
      zeta: how slowly it moves, > 0, traced; large is FedAvg with lr.
      decay: the paper's p, >= 0, traced.
      coefficient: of ARUBA++, >= 0, traced; 0 is ARUBA.
      isotropic: one step size for all numbers, `sqrt(sum_j b_j / sum_j g_j)`.
      server: server optimizer of phi; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload 2 |params|, down: 3 |params|.

    Deviations from the source: the server sends b and g, of which clients make eta, since ARUBA++ needs both. Running
    statistics are averaged.
    Source: Khodak, Balcan and Talwalkar, "Adaptive Gradient-Based Meta-Learning Methods", NeurIPS 2019, Algorithm 2 and
    section 4, and the authors' code for federated learning.

    >>> from pfljax import quadratics
    >>> from pfljax.learning import plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> one = plans.full_batch(1, 1)
    >>> quadratics.deployed(aruba(task, one, one, lr=0.25, zeta=1e6), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    server = fedopt() if server is None else server

    def paced(b: Tree, g: Tree, coefficient: Array | float) -> optax.GradientTransformation:
        """Steps by eta, which squared gradients make shorter; its state is their sum."""

        def update(grads: Tree, squares: Tree, params: Tree = None) -> tuple[Tree, Tree]:
            eta = _rates(b, tree.axpy(coefficient, squares, g), isotropic)
            steps = jax.tree.map(lambda eta, grad: -eta * grad, eta, grads)
            return steps, jax.tree.map(lambda total, grad: total + grad**2, squares, grads)

        return optax.GradientTransformation(lambda params: tree.scale(0, params), update)  # pyright: ignore[reportArgumentType]

    def init_server(key: Array, num_clients: int) -> Tuned:
        model = server.init(task.init(key))
        b, g = (
            jax.tree.map(lambda leaf, first=first: jnp.full_like(leaf, first), model.params.trainable)
            for first in ((lr * zeta) ** 2, zeta**2)
        )
        return Tuned(model, b, g, jnp.zeros(()))

    def client_update(received: tuple[Params, Tree, Tree], client: Tree, data: ClientData, key: Array) -> Reply:
        (phi, b, g), memory = received, Memory()
        y = descent(paced(b, g, 0.0), plan, memory)(task.loss, phi, data, jax.random.fold_in(key, 0))
        return Reply((tree.sub(phi, y), memory.states[0]), client)

    def server_update(state: Tuned, cohort: Cohort, key: Array) -> Tuned:
        (moved, _), (each, squares) = cohort.uploads
        fading = (state.rounds + 1) ** -decay
        b = jax.tree.map(lambda b, d: b + jnp.sum(d**2, 0) / 2 + (lr * zeta) ** 2 * fading, state.b, each.trainable)
        g = jax.tree.map(lambda g, G: g + jnp.sum(G, 0) + zeta**2 * fading, state.g, squares)
        return Tuned(server.step(state.model, moved), b, g, state.rounds + 1)

    def personalize(received: tuple[Params, Tree, Tree], client: Tree, data: ClientData, key: Array) -> Params:
        phi, b, g = received
        return descent(paced(b, g, coefficient), adapt)(task.loss, phi, data, jax.random.fold_in(key, 0))

    return Algorithm(
        init_server=init_server,
        download=lambda state, id: (state.model.params, state.b, state.g),
        init_client=lambda received, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=beside(mean),
        server_model=lambda received, client: received[0],
    )


def _rates(b: Tree, g: Tree, isotropic: bool) -> Tree:
    """eta, for each number or one for all."""
    if not isotropic:
        return jax.tree.map(lambda b, g: jnp.sqrt(b / g), b, g)
    one = tree.vdot(b, jax.tree.map(jnp.ones_like, b)) / tree.vdot(g, jax.tree.map(jnp.ones_like, g))
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.sqrt(one)), b)
