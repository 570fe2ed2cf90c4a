"""Ditto: a personal model held near the server model."""

from typing import Any

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import proximal
from pfljax.learning.tasks import chosen
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task


def ditto(
    task: Task,
    local: LocalSolver,
    personal_local: LocalSolver,
    *,
    lam: Array | float = 0.5,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for `w`; beside it each client keeps `v_i ~ argmin f_i(v) + lam/2 ||v - w||^2`.

    The personal solver starts from the kept `v_i`; `w` is the model received in this round.

    Args:
      task: the model and its loss.
      local: solver for `w`.
      personal_local: solver for `v_i`; it sees the same minibatches. `local.proximal_descent` allows any `lam`.
      lam: strength of the pull, >= 0, traced; 0 is local-only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` (|params|) and upload |params|.

    Deviations from the source: clients are weighted by examples under uniform sampling, where the authors' code samples
    by examples (`sampling.weighted`) and weighs equally (`wrappers.reduced_by`).
    Source: Li et al., "Ditto: Fair and Robust Federated Learning Through
    Personalization", ICML 2021, Algorithm 1.

    `(c_i + lam w) / (1 + lam)` at the mean `w = 4`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 1))
    >>> quadratics.deployed(ditto(task, step, step, lam=3.0), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """

    def client_update(w: Params, v: Params, data: ClientData, key: Array) -> Reply:
        key = jax.random.fold_in(key, 0)
        v = personal_local(proximal(task.loss, lam, w.trainable), v, data, key)
        return Reply(tree.sub(w, local(task.loss, w, data, key)), v)

    return accompanied(task, client_update, lambda w, v: v, server=server)


def ditto_by_size(
    task: Task,
    local: LocalSolver,
    personal_local: LocalSolver,
    *,
    lam: Array | float = 10.0,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Ditto whose pull is weaker where a client has more examples: `lam / n_i` in place of lam.

    In linear regression with noise of variance `sigma^2`, and clients whose optima are `N(theta, tau^2 I)`, the best
    pull towards theta is `sigma^2 / (n_i tau^2)`: the personal models are then shrunk as by empirical Bayes.

    Args:
      task, local, personal_local, server: see `ditto`; `local.proximal_descent` bears the pull on the smallest clients.
      lam: `sigma^2 / tau^2`, in examples, >= 0, traced: with so many a client is as far from w as from its own optimum,
        under a curvature of 1.

    Returns:
      As `ditto`.

    Deviations from the source: lam is one for all in Algorithm 1. Source: Li et al., ICML 2021, section 3.3 (the best
    lam in linear problems).

    `(n_i c_i + lam w) / (n_i + lam)` at the mean `w = 6`:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 3))
    >>> quadratics.deployed(ditto_by_size(task, step, step, lam=3.0), task, data, rounds=100)
    {'w': [4.5, 7.0]}
    """

    def weaker(loss: Any, v: Params, data: ClientData, key: Array) -> Params:
        return personal_local(loss._replace(lam=loss.lam / jnp.maximum(data.size, 1).astype(float)), v, data, key)

    return ditto(task, local, weaker, lam=lam, server=server)


def ditto_validated(
    task: Task,
    local: LocalSolver,
    personal_local: LocalSolver,
    *,
    lams: tuple[checks.NotNegative, ...] = (0.1, 1.0, 2.0),
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Ditto in which each client tries several lam in every round, and keeps what validates best.

    `v_i <- v_i(lam)` of the lowest loss on the client's validation examples, all from the kept `v_i`.

    Args:
      task, local, personal_local, server: see `ditto`; losses are compared by `tasks.misfit`.
      lams: static; the first of equals, and of a client without validation examples.

    Returns:
      As `ditto`; the personal solver runs once for each of `lams`.

    Raises:
      ValueError: if there are no `lams`.

    Deviations from the source: as `ditto`. Source: Li et al., ICML 2021, section 4 (robust and fair Ditto choose from
    0.1, 1 and 2), as implemented by the authors.

    Each validates on its own example, and is best off without a pull:

    >>> import dataclasses, optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> data = dataclasses.replace(data, validation=data.train)
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 1))
    >>> quadratics.deployed(ditto_validated(task, step, step, lams=(3.0, 0.0)), task, data, rounds=100)
    {'w': [0.0, 8.0]}
    """

    def best(loss: Any, v: Params, data: ClientData, key: Array) -> Params:
        def near(lam: Array) -> tuple[Params, tuple[()]]:
            return personal_local(loss._replace(lam=lam), v, data, key), ()

        return chosen(task, near, lams, data, jax.random.fold_in(key, 1))[0]

    return ditto(task, local, best, server=server)
