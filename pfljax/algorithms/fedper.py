"""FedPer: a shared body under personal top layers, trained together."""

from pfljax import masks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Init, decoupled
from pfljax.types import Algorithm, LocalSolver, Mask, Task


def fedper(
    task: Task,
    local: LocalSolver,
    personal: Mask,
    *,
    head_first: bool = False,
    init: Init = "per_client",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Body `W_B` shared, head `W_P,i` personal, both descended together.

    `min sum_i gamma_i f_i(W_B, W_P,i)`, `gamma_i = n_i / sum n`; a client trains `(W_B, W_P,i)`, uploads `W_B` only.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      personal: the personalization layers, such as `masks.head(model, blocks=K_P)`.
      head_first: the variant of the paper's appendix A.3: the head alone is trained before both are, by `local` too.
      init: a random head for each client, as in the paper, or one for all.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients keep the head and upload the body. A newcomer trains a head only.

    Deviations from the source: none; what newcomers do is not in it.
    Source: Arivazhagan et al., "Federated Learning with Personalization Layers",
    2019, Algorithms 1 and 2.

    The mean of the bodies, each client's own head:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[0.0, 8.0], head=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedper(task, step, masks.named("head")), task, data, rounds=100)
    {'body': [4.0, 4.0], 'head': [1.0, 5.0]}
    """
    shared, joint = masks.negate(personal), (masks.everything, local)
    phases = [(personal, local), joint] if head_first else [joint]
    return decoupled(task, phases, shared=shared, init=init, server=server)
