"""FedBN: normalisation layers stay with the client."""

from pfljax import masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import decoupled
from pfljax.types import Algorithm, LocalSolver, Mask, Task


def fedbn(
    task: Task,
    local: LocalSolver,
    norms: Mask,
    *,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg on all leaves but those of the normalisation layers, which each client keeps.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      norms: the personal leaves. `masks.norms(model)` is FedBN: scale, shift and running statistics;
        `masks.norms(model, affine=False)` keeps the statistics only (SiloBN).
      server: server optimizer of the shared leaves; plain averaging if None.

    Returns:
      An algorithm whose clients keep their norm layers and upload the rest. A newcomer trains norm layers only.

    Clients count equally, as in the authors' code.
    Deviations from the source: none; what newcomers do is not in it.
    Source: Li et al., "FedBN: Federated Learning on Non-IID Features via Local Batch
    Normalization", ICLR 2021, Algorithm 1.

    The mean of the shared leaves, each client's own norm:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(conv=[0.0, 8.0], norm=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedbn(task, step, masks.named("norm")), task, data, rounds=100)
    {'conv': [4.0, 4.0], 'norm': [1.0, 5.0]}
    """
    return decoupled(task, [(masks.everything, local)], shared=masks.negate(norms), server=server, reduce=uniform(mean))
