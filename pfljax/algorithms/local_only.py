"""Local training alone: the lower reference, with no federation at all."""

import jax

from pfljax.federation.reduce import mean
from pfljax.federation.sampling import Participation, full
from pfljax.federation.skeletons import Init, alone, initial
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task, as_drawn


def local_only(
    task: Task, local: LocalSolver, *, init: Init = "common", participation: Participation = "all"
) -> Algorithm:
    """Every client trains its own model on its own data.

    `min_{v_i} f_i(v_i)`, one call of `local` a round from where the last one ended.

    Args:
      task: the model and its loss.
      local: solver of a round.
      init: the same initial model for all clients, or a random one for each.
      participation: all clients train in every round, whatever the cohort ("all"), since nobody waits for anybody; or
        the cohort alone ("cohort"): as much training as a method gets with which this one is compared.

    Returns:
      An algorithm whose clients keep `v_i` (|params|) and upload nothing.

    Raises:
      ValueError: if `init` or `participation` is unknown.

    Deviations from the source: none. Source: the local baseline of Collins et al., "Exploiting Shared Representations
    for Personalized Federated Learning", ICML 2021.

    Each client's own center:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(local_only(task, step), task, data, rounds=100)
    {'w': [1.0, 5.0]}
    """

    if participation not in ("cohort", "all"):
        raise ValueError(f"participation={participation!r}: choose 'cohort' or 'all'")

    def client_update(download: tuple[()], v: Params, data: ClientData, key: Array) -> Reply:
        return Reply((), local(task.loss, v, data, jax.random.fold_in(key, 0)))

    return Algorithm(
        init_server=lambda key, num_clients: (),
        download=lambda server, id: (),
        init_client=initial(task, init),
        client_update=client_update,
        server_update=lambda server, cohort, key: server,
        personalize=lambda download, v, data, key: v,
        reduce=mean,
        onboard=alone(client_update),
        participation=as_drawn if participation == "cohort" else lambda sampler: full(),
    )
