"""LG-FedAvg: personal lower layers under a shared top."""

from pfljax import masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Init, decoupled
from pfljax.types import Algorithm, LocalSolver, Mask, Task


def lg_fedavg(
    task: Task,
    local: LocalSolver,
    head: Mask,
    *,
    init: Init = "common",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Local representations, global classifier: the complement of FedPer.

    `min sum_i f_i(b_i, h)`: a client trains `(b_i, h)` together and uploads `h` only.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      head: the shared top layers.
      init: the same lower layers at the start, or random ones for each client.
      server: server optimizer of the head; plain averaging if None.

    Returns:
      An algorithm whose clients keep the lower layers and upload the head.

    Clients count equally, as in the authors' code.
    Deviations from the source: newcomers train lower layers under the shared head instead of an ensemble of known
    clients; no FedAvg phase before. Source: Liang et al., "Think Locally, Act Globally: Federated Learning with Local
    and Global Representations", 2020, Algorithm 1.

    Each client's own body, the mean of the heads:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[0.0, 8.0], head=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(lg_fedavg(task, step, masks.named("head")), task, data, rounds=100)
    {'body': [0.0, 8.0], 'head': [3.0, 3.0]}
    """
    return decoupled(task, [(masks.everything, local)], shared=head, init=init, server=server, reduce=uniform(mean))
