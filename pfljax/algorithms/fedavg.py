"""Federated averaging, its server optimizers, and its fine-tuned form."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import masks, tree
from pfljax.federation.server import ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging, fine_tuned
from pfljax.types import Algorithm, Array, LocalSolver, Mask, Task, Tree


def fedavg(task: Task, local: LocalSolver, *, server: ServerOptimizer | None = None) -> Algorithm:
    """One model, trained by the cohort and averaged.

    `w_i = local(f_i, w)`, then `w <- w - server_lr sum_i p_i (w - w_i)` with `p_i = n_i / sum of the cohort's n`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: none. Source: McMahan et al., AISTATS 2017, Algorithm 1.

    Under one curvature the mean of the centers by examples:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 3))
    >>> quadratics.deployed(fedavg(task, step), task, data, rounds=100)
    {'w': [6.0, 6.0]}
    """
    return averaging(task, local, server=server)


def fedavg_finetuned(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose model each client trains further on its own data before it deploys it.

    `v_i = tune(f_i, w)` on the leaves of `tuned`; nothing of it returns to the server.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the adaptation.
      tuned: what is adapted: everything, or the head only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: none. Source: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020,
    section 3 (fine-tuning, and freezing the base).

    A quarter of the way from the mean to each center:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.25), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedavg_finetuned(task, step, tune=step), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    return fine_tuned(fedavg(task, local, server=server), task, tune, tuned)


def fedavgm(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 1.0,
    momentum: Array | float = 0.9,
) -> Algorithm:
    """FedAvg with momentum on the server: `m <- momentum m + d`, `w <- w - server_lr m`, with `d` the mean upload.

    Args:
      task, local: see `fedavg`.
      server_lr: step size of the server, traced.
      momentum: in [0, 1), traced.

    Returns:
      As `fedavg`.

    Deviations from the source: none. Source: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for
    Federated Visual Classification", 2019, section 4.

    The mean of the centers:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedavgm(task, step, momentum=0.5), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """
    return fedavg(task, local, server=fedopt(optax.sgd(server_lr, momentum)))


Form = Literal["optax", "paper"]
"""Whose Adagrad, Adam and Yogi: optax's, or those of Reddi et al. to the letter."""


class Moments(NamedTuple):
    """What Algorithm 2 of Reddi et al. keeps, besides the model."""

    m: Tree
    v: Tree


def _algorithm_2(
    second: Callable[[Array, Array], Array], server_lr: Array | float, beta1: Array | float, eps: Array | float
) -> optax.GradientTransformation:
    """`m <- beta1 m + (1 - beta1) d`, `v <- second(v, d^2)`, `-server_lr m / (sqrt(v) + eps)`.

    First m is 0 and v is eps^2.
    """

    def init(params: Tree) -> Moments:
        return Moments(*(jax.tree.map(lambda w, full=full: jnp.full_like(w, full), params) for full in (0.0, eps**2)))

    def update(d: Tree, moments: Moments, params: Tree = None) -> tuple[Tree, Moments]:
        m, v = tree.mix(beta1, moments.m, d), jax.tree.map(lambda v, d: second(v, d**2), moments.v, d)
        return jax.tree.map(lambda m, v: -server_lr * m / (jnp.sqrt(v) + eps), m, v), Moments(m, v)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _chosen(form: Form, optaxs: optax.GradientTransformation, papers: optax.GradientTransformation) -> ServerOptimizer:
    if form not in ("optax", "paper"):
        raise ValueError(f"form={form!r}: choose 'optax' or 'paper'")
    return fedopt(papers if form == "paper" else optaxs)


def fedadagrad(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 0.1,
    eps: Array | float = 1e-3,
    form: Form = "optax",
) -> Algorithm:
    """FedAvg with Adagrad on the server: `v <- v + d^2`, `w <- w - server_lr d / (sqrt(v) + eps)`.

    Args:
      task, local: see `fedavg`.
      server_lr: step size of the server, traced.
      eps: the paper's tau, > 0, traced.
      form: `"paper"` is Algorithm 2 with `beta1 = 0` to the letter, v from `eps^2` on; `"optax"` has v from 0 on and
        `eps` under the root.

    Returns:
      As `fedavg`.

    Raises:
      ValueError: if `form` is neither.

    Deviations from the source: the default `form`, and weights by examples. Source: Reddi et al., "Adaptive Federated
    Optimization", ICLR 2021, Algorithm 2.

    The mean of the centers:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedadagrad(task, step, server_lr=1.0), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """
    adagrad = optax.adagrad(server_lr, initial_accumulator_value=0.0, eps=eps)
    server = _chosen(form, adagrad, _algorithm_2(lambda v, square: v + square, server_lr, 0.0, eps))
    return fedavg(task, local, server=server)


def fedadam(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 0.01,
    beta1: Array | float = 0.9,
    beta2: Array | float = 0.99,
    eps: Array | float = 1e-3,
    form: Form = "optax",
) -> Algorithm:
    """FedAvg with Adam on the server.

    `m <- beta1 m + (1 - beta1) d`, `v <- beta2 v + (1 - beta2) d^2`, `w <- w - server_lr m / (sqrt(v) + eps)`.

    Args:
      task, local: see `fedavg`.
      server_lr: step size of the server, traced.
      beta1, beta2: decay of m and of v, in [0, 1), traced.
      eps: the paper's tau, > 0, traced.
      form: `"paper"` is Algorithm 2 to the letter, v from `eps^2` on; `"optax"` has both from 0 on and corrects the
        bias.

    Returns:
      As `fedavg`.

    Raises:
      ValueError: if `form` is neither.

    Deviations from the source: the default `form`, and weights by examples. Source: Reddi et al., ICLR 2021,
    Algorithm 2.

    The mean of the centers:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedadam(task, step, server_lr=0.1), task, data, rounds=1000)
    {'w': [4.0, 4.0]}
    """

    def second(v: Array, square: Array) -> Array:
        return beta2 * v + (1 - beta2) * square

    server = _chosen(form, optax.adam(server_lr, beta1, beta2, eps), _algorithm_2(second, server_lr, beta1, eps))
    return fedavg(task, local, server=server)


def fedyogi(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 0.01,
    beta1: Array | float = 0.9,
    beta2: Array | float = 0.99,
    eps: Array | float = 1e-3,
    form: Form = "optax",
) -> Algorithm:
    """FedAvg with Yogi on the server: `v <- v - (1 - beta2) d^2 sign(v - d^2)`, the rest as Adam.

    Args:
      task, local, server_lr, beta1, beta2, eps: see `fedadam`.
      form: `"paper"` is Algorithm 2 to the letter, v from `eps^2` on; `"optax"` has m and v from 1e-6 on and corrects
        the bias.

    Returns:
      As `fedavg`.

    Raises:
      ValueError: if `form` is neither.

    Deviations from the source: the default `form`, and weights by examples. Source: Reddi et al., ICLR 2021,
    Algorithm 2.

    The mean of the centers:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedyogi(task, step, server_lr=0.1), task, data, rounds=1000)
    {'w': [4.0, 4.0]}
    """

    def second(v: Array, square: Array) -> Array:
        return v - (1 - beta2) * square * jnp.sign(v - square)

    server = _chosen(form, optax.yogi(server_lr, beta1, beta2, eps), _algorithm_2(second, server_lr, beta1, eps))
    return fedavg(task, local, server=server)
