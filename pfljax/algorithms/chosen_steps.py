"""FedAvg whose model is fine-tuned for as long as it helps on validation examples."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.reduce import handed
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.local import only
from pfljax.learning.tasks import misfit
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Mask, Params, Reply, Task, Tree


def fedavg_chosen_steps(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    passes: int = 10,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg, fine-tuned by each client for as many passes as its validation examples ask for.

    `v_i^0 = w`, `v_i^k = tune(f_i, v_i^(k-1))` on the leaves of `tuned`. With `L_i` the loss on validation examples a
    client deploys `v_i^(k_i)`, `k_i = argmin_{k = 0 ... K} L_i(v_i^k)`, the fewest passes of equals.

    Args:
      task: the model and its loss; losses are compared by `tasks.misfit`.
      local: solver of a client's round.
      tune: solver of one pass; its optimizer begins anew in each.
      passes: K, static; 0 is FedAvg.
      tuned: what is adapted: everything, or the head only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|. A client without validation examples takes K passes.

    Raises:
      ValueError: if `passes` is below 0.

    Deviations from the source: the authors fix the number of passes; this choice is early stopping.
    Source: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020, section 3 (fine-tuning).

    Each pass goes half of the way to the own center. Clients 0 and 1 validate at 2 and at 6, so one pass from the mean
    4 is best; clients 2 and 3 validate where they train:

    >>> import dataclasses, optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> half = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> task, data = quadratics.problem(w=[0.0, 8.0, 2.0, 6.0])
    >>> data = dataclasses.replace(data, validation=data.train._replace(start=data.train.start[[2, 3, 2, 3]]))
    >>> quadratics.deployed(fedavg_chosen_steps(task, half, half, passes=3), task, data, rounds=50)
    {'w': [2.0, 6.0, 2.25, 5.75]}
    """
    further, judged = _walk(task, tune, tuned, passes)

    def personalize(w: Params, client: Tree, data: ClientData, key: Array) -> Params:
        def step(k: Array, so_far: tuple[Params, Params, Array]) -> tuple[Params, Params, Array]:
            v, best, least = so_far
            v = further(v, data, key, k)
            loss = judged(v, data, key)
            better = (loss < least) | jnp.isnan(least)  # which it is where there is nothing to validate on
            return v, tree.where(better, v, best), jnp.where(better, loss, least)

        return jax.lax.fori_loop(0, passes, step, (w, w, judged(w, data, key)))[1]

    return averaging(task, local, server=server)._replace(personalize=personalize)


class Judged(NamedTuple):
    """The server of `fedavg_common_steps`."""

    model: Server
    losses: Array  # [K + 1] on validation examples after 0, 1, ..., K passes, the mean over the last cohort


def fedavg_common_steps(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    passes: int = 10,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg, fine-tuned by all clients for one number of passes, which the last cohort's validation examples ask for.

    As `fedavg_chosen_steps`, with `k = argmin_{k = 0 ... K} sum_i p_i L_i(v_i^k)` for everybody: in each round a client
    tries all passes from the w that it receives and sends the losses too.

    Args:
      task, local, tune, passes, tuned, server: see `fedavg_chosen_steps`.

    Returns:
      An algorithm whose clients keep nothing, upload |params| + K + 1 and receive as much. A client without validation
      examples has no say. Before the first round k is 0.

    Raises:
      ValueError: as `fedavg_chosen_steps`.

    Deviations from the source: as `fedavg_chosen_steps`. Source: as there.

    Validation asks clients 0 and 1 for one pass and clients 2 and 3 for all three; one serves all of them best:

    >>> import dataclasses, optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> half = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> task, data = quadratics.problem(w=[0.0, 8.0, 2.0, 6.0])
    >>> data = dataclasses.replace(data, validation=data.train._replace(start=data.train.start[[2, 3, 2, 3]]))
    >>> quadratics.deployed(fedavg_common_steps(task, half, half, passes=3), task, data, rounds=50)
    {'w': [2.0, 6.0, 3.0, 5.0]}
    """
    further, judged = _walk(task, tune, tuned, passes)
    algorithm, server = averaging(task, local, server=server), fedopt() if server is None else server

    def client_update(received: tuple[Params, Array], client: Tree, data: ClientData, key: Array) -> Reply:
        def step(v: Params, k: Array) -> tuple[Params, Array]:
            v = further(v, data, jax.random.fold_in(key, 1), k)
            return v, judged(v, data, key)

        w, _ = received
        losses = jnp.append(judged(w, data, key), jax.lax.scan(step, w, jnp.arange(passes))[1])
        reply = algorithm.client_update(w, client, data, key)
        return reply._replace(upload=(reply.upload, jnp.where(data.validation.size > 0, losses, 0)))

    def server_update(before: Judged, cohort: Cohort, key: Array) -> Judged:
        expected = before.model.params, before.losses
        moved, losses = handed(cohort.uploads, expected, "the mean of models and losses, as `reduce.mean` makes it")
        return Judged(server.step(before.model, moved), losses)

    def personalize(received: tuple[Params, Array], client: Tree, data: ClientData, key: Array) -> Params:
        w, losses = received
        return jax.lax.fori_loop(0, jnp.argmin(losses), lambda k, v: further(v, data, key, k), w)

    return algorithm._replace(
        init_server=lambda key, num_clients: Judged(algorithm.init_server(key, num_clients), jnp.zeros(passes + 1)),
        download=lambda judged, id: (judged.model.params, judged.losses),
        init_client=lambda received, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        server_model=lambda received, client: received[0],
    )


def _walk(
    task: Task, tune: LocalSolver, tuned: Mask, passes: int
) -> tuple[Callable[..., Params], Callable[..., Array]]:
    """One more pass `(v, data, key, k) -> v`, and what validation examples say `(v, data, key) -> loss`."""
    if passes < 0:
        raise ValueError(f"passes={passes}: it must be at least 0")

    def further(v: Params, data: ClientData, key: Array, k: Array) -> Params:
        return only(tuned, tune)(task.loss, v, data, jax.random.fold_in(key, k))

    def judged(v: Params, data: ClientData, key: Array) -> Array:
        return misfit(task, v, data.on(data.validation), key)

    return further, judged
