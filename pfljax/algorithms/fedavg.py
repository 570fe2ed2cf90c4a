"""Federated averaging, its server optimizers, and its fine-tuned form."""

import optax

from pfljax import masks
from pfljax.reduce import mean
from pfljax.server import ServerOptimizer, fedopt
from pfljax.skeletons import averaging, fine_tuned
from pfljax.types import Algorithm, Array, LocalSolver, Mask, Reduce, Task


def fedavg(
    task: Task, local: LocalSolver, *, server: ServerOptimizer | None = None, reduce: Reduce = mean
) -> Algorithm:
    """One model, trained by the cohort and averaged.

    `w_i = local(f_i, w)`, then `w <- w - server_lr sum_i p_i (w - w_i)` with `p_i = n_i / sum of the cohort's n`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      server: server optimizer; plain averaging if None.
      reduce: `mean` weighs clients by examples, `uniform(mean)` equally.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: none. Source: McMahan et al., AISTATS 2017, Algorithm 1.

    Under one curvature the mean of the centers by examples:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(0.5), local.full_batch(1, 3))
    >>> quadratics.deployed(fedavg(task, step), task, data, rounds=100)
    {'w': [6.0, 6.0]}
    """
    return averaging(task, local, server=server, reduce=reduce)


def fedavg_finetuned(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
    reduce: Reduce = mean,
) -> Algorithm:
    """FedAvg whose model each client trains further on its own data before it deploys it.

    `v_i = tune(f_i, w)` on the leaves of `tuned`; nothing of it returns to the server.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the adaptation.
      tuned: what is adapted: everything, or the head only.
      server: server optimizer; plain averaging if None.
      reduce: how uploads are averaged.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: none. Source: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020,
    section 3 (fine-tuning, and freezing the base).

    A quarter of the way from the mean to each center:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.25), local.full_batch(1, 1))
    >>> quadratics.deployed(fedavg_finetuned(task, step, tune=step), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    return fine_tuned(fedavg(task, local, server=server, reduce=reduce), task, tune, tuned)


def fedavgm(
    task: Task, local: LocalSolver, *, server_lr: Array | float = 1.0, momentum: Array | float = 0.9
) -> Algorithm:
    """FedAvg with momentum on the server: `m <- momentum m + d`, `w <- w - server_lr m`, with `d` the mean upload.

    Source: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
    2019, section 4. Deviations: none.

    The mean of the centers:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), local.full_batch(1, 1))
    >>> quadratics.deployed(fedavgm(task, step, momentum=0.5), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """
    return fedavg(task, local, server=fedopt(optax.sgd(server_lr, momentum)))


def fedadagrad(
    task: Task, local: LocalSolver, *, server_lr: Array | float = 0.1, eps: Array | float = 1e-3
) -> Algorithm:
    """FedAvg with Adagrad on the server: `v <- v + d^2`, `w <- w - server_lr d / (sqrt(v) + eps)`.

    Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2, with `beta1 = 0` and `v_0 = 0`.
    Deviations: optax adds `eps` under the root.

    The mean of the centers:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), local.full_batch(1, 1))
    >>> quadratics.deployed(fedadagrad(task, step, server_lr=1.0), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """
    return fedavg(task, local, server=fedopt(optax.adagrad(server_lr, initial_accumulator_value=0.0, eps=eps)))


def fedadam(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 0.01,
    beta1: Array | float = 0.9,
    beta2: Array | float = 0.99,
    eps: Array | float = 1e-3,
) -> Algorithm:
    """FedAvg with Adam on the server: `w <- w - server_lr m / (sqrt(v) + eps)`.

    Source: Reddi et al., ICLR 2021, Algorithm 2. Deviations: optax corrects the bias of `m` and `v`.

    The mean of the centers:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), local.full_batch(1, 1))
    >>> quadratics.deployed(fedadam(task, step, server_lr=0.1), task, data, rounds=1000)
    {'w': [4.0, 4.0]}
    """
    return fedavg(task, local, server=fedopt(optax.adam(server_lr, beta1, beta2, eps)))


def fedyogi(
    task: Task,
    local: LocalSolver,
    *,
    server_lr: Array | float = 0.01,
    beta1: Array | float = 0.9,
    beta2: Array | float = 0.99,
    eps: Array | float = 1e-3,
) -> Algorithm:
    """FedAvg with Yogi on the server: `v <- v - (1 - beta2) d^2 sign(v - d^2)`, the rest as Adam.

    Source: Reddi et al., ICLR 2021, Algorithm 2. Deviations: optax corrects the bias of `m` and
    `v`, which start at 1e-6.

    The mean of the centers:

    >>> import optax
    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), local.full_batch(1, 1))
    >>> quadratics.deployed(fedyogi(task, step, server_lr=0.1), task, data, rounds=1000)
    {'w': [4.0, 4.0]}
    """
    return fedavg(task, local, server=fedopt(optax.yogi(server_lr, beta1, beta2, eps)))
