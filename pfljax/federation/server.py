"""Server optimizers: any optax optimizer, fed with the mean upload as a pseudo-gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import checks, tree
from pfljax.federation.reduce import handed
from pfljax.printing import in_brief
from pfljax.types import Array, Cohort, Params


class Server(NamedTuple):
    """A shared model and the state of the optimizer that moves it."""

    params: Params
    opt_state: optax.OptState


@in_brief
class ServerOptimizer(NamedTuple):
    """How a server model starts and moves."""

    init: Callable[[Params], Server]
    step: Callable[[Server, Params], Server]  # (server, mean of `received - result`) -> server


def fedopt(optimizer: optax.GradientTransformation | None = None) -> ServerOptimizer:
    """The server step of FedOpt (Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 1).

    `w <- w + optimizer(mean_i (w - w_i))`; statistics are averaged: `stats <- stats - mean_i (stats - stats_i)`.

    Args:
      optimizer: any optax optimizer; None is `optax.sgd(1.0)`, plain averaging.

    >>> server, w, difference = fedopt(optax.sgd(0.5)), Params({"w": 4.0}), Params({"w": 2.0})
    >>> float(server.step(server.init(w), difference).params.trainable["w"])
    3.0
    """
    checks.each(optax.GradientTransformation | None, optimizer=optimizer)
    optimizer = optax.sgd(1.0) if optimizer is None else optimizer

    def init(params: Params) -> Server:
        return Server(params, optimizer.init(params.trainable))

    def step(server: Server, difference: Params) -> Server:
        trainable, stats = server.params
        handed(difference, server.params, "one tree like the model, as `reduce.mean` makes it")
        with jax.numpy_dtype_promotion("standard"):  # optax raises betas, which may be traced, to a whole power
            updates, opt_state = optimizer.update(difference.trainable, server.opt_state, trainable)
        return Server(Params(optax.apply_updates(trainable, updates), tree.sub(stats, difference.stats)), opt_state)

    return ServerOptimizer(init, step)


def by_own_weights(server: ServerOptimizer | None) -> Callable[[Server, Cohort, Array], Server]:
    """The server's half of a round for uploads `(a_i, a_i d_i)`, with d_i a difference and a_i its weight.

    The model moves by `sum_i a_i d_i / sum_i a_i`, both sums as they are reduced, and stays where that of the weights
    is 0.

    >>> step, w = by_own_weights(None), Params({"w": jnp.asarray(4.0)})
    >>> cohort = Cohort(jnp.arange(2), (jnp.asarray(0.5), Params({"w": jnp.asarray(1.0)})), jnp.ones(2))
    >>> float(step(fedopt().init(w), cohort, None).params.trainable["w"])
    2.0
    """
    server = fedopt() if server is None else server

    def server_update(before: Server, cohort: Cohort, key: Array) -> Server:
        needs = "a weight and one tree like the model, as `reduce.mean` makes them"
        weight, moved = handed(cohort.uploads, (jnp.zeros(()), before.params), needs)
        mean = tree.scale(1 / jnp.where(weight > 0, weight, 1), moved)
        return tree.where(weight > 0, server.step(before, mean), before)

    return server_update
