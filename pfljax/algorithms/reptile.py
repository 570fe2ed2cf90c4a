"""Reptile: averaging read as meta-learning."""

import optax

from pfljax import masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.skeletons import averaging, fine_tuned
from pfljax.types import Algorithm, Array, LocalSolver, Mask, Task


def reptile(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    server_lr: Array | float = 0.5,
    tuned: Mask = masks.everything,
) -> Algorithm:
    """The model moves part of the way towards the clients' solutions; every client deploys a fine-tuned one.

    `w <- w + server_lr mean_i (w_i - w)`, `w_i = local(f_i, w)`.

    Args:
      task: the model and its loss.
      local: solver of the inner steps.
      tune: solver of the adaptation before deployment.
      server_lr: the paper's epsilon, in (0, 1], traced; 1 is FedAvg with equal weights.
      tuned: what is adapted.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Clients count equally, as in the paper.
    Deviations from the source: none. Source: Nichol et al., "On First-Order Meta-Learning Algorithms", 2018, Algorithm
    2; read as FedAvg by Jiang et al., "Improving Federated Learning Personalization via Model Agnostic Meta Learning",
    2019.

    A quarter of the way from the mean to each center:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.25), plans.full_batch(1, 1))
    >>> quadratics.deployed(reptile(task, step, tune=step, server_lr=0.5), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    meta = averaging(task, local, server=fedopt(optax.sgd(server_lr)), reduce=uniform(mean))
    return fine_tuned(meta, task, tune, tuned)
