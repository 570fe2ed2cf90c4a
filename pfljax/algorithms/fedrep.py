"""FedRep: a shared representation, with heads fitted to it first."""

from pfljax import masks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Init, decoupled
from pfljax.types import Algorithm, LocalSolver, Mask, Task


def fedrep(
    task: Task,
    local: LocalSolver,
    head_local: LocalSolver,
    personal: Mask,
    *,
    init: Init = "per_client",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """The head is fitted to the received body, then the body moves under that head.

    `h_i <- head_local(f_i(b, .))`, then `b_i <- local(f_i(., h_i))`; the server averages `b_i`.

    Args:
      task: the model and its loss.
      local: solver of the body phase.
      head_local: solver of the head phase, which comes first.
      personal: the head.
      init: a random head for each client, or one for all.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients keep the head and upload the body. A newcomer fits a head only.

    Deviations from the source: clients are weighted by examples, where the paper weighs equally
    (`wrappers.reduced_by`); no last round in which all clients fit their heads.
    Source: Collins et al., "Exploiting Shared Representations for Personalized
    Federated Learning", ICML 2021, Algorithm 1.

    The mean of the bodies, each client's own head:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[0.0, 8.0], head=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedrep(task, step, step, masks.named("head")), task, data, rounds=100)
    {'body': [4.0, 4.0], 'head': [1.0, 5.0]}
    """
    body = masks.negate(personal)
    return decoupled(task, [(personal, head_local), (body, local)], shared=body, init=init, server=server)
