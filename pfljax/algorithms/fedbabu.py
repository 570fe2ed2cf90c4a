"""FedBABU: only the body is trained, heads come afterwards."""

from pfljax import masks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import decoupled, fine_tuned
from pfljax.types import Algorithm, LocalSolver, Mask, Task, keep


def fedbabu(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    personal: Mask,
    *,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """The head stays at its random start `h_0`, the same everywhere, while the body is trained and averaged.

    `b_i <- local(f_i(., h_0))`, the server averages `b_i`; to deploy, `(b, h_0)` is fine-tuned on the client's data.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the fine-tuning.
      personal: the head.
      tuned: what is fine-tuned: everything (the paper's choice), the head, or the body.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients hold the constant head and upload the body.

    Deviations from the source: none. Source: Oh et al., "FedBABU: Toward Enhanced Representation for Federated Image
    Classification", ICLR 2022, Algorithm 1.

    The mean body 4 and the head 0 of the start, then half of the way to each client's own:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[0.0, 8.0], head=[2.0, 6.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fedbabu(task, step, step, masks.named("head")), task, data, rounds=100)
    {'body': [2.0, 6.0], 'head': [1.0, 3.0]}
    """
    body = masks.negate(personal)
    trained = decoupled(task, [(body, local)], shared=body, server=server)
    return fine_tuned(trained._replace(onboard=keep, server_model=tree.merge), task, tune, tuned)
