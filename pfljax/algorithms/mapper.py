"""MAPPER: every client deploys a mixture of a personal and the shared model, in the shares that serve it best."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import mixed
from pfljax.learning.tasks import chosen
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task


class Interpolation(NamedTuple):
    """What a client keeps."""

    v: Params
    lam: Array  # [] share of `v`


def mapper(
    task: Task,
    local: LocalSolver,
    personal_local: LocalSolver,
    *,
    grid: tuple[checks.Share, ...] = (0.25, 0.5, 0.75),
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """`min sum_i f_i(lam_i v_i + (1 - lam_i) w)` over the shared `w` and each client's `v_i` and `lam_i`.

    A client that receives `w`:

    - for each lam of the grid: `v_lam = personal_local(f_i(lam v + (1 - lam) w))` from its `v_i`, while `w` rests;
    - `lam_i, v_i` are those whose mixture has the lowest loss on its validation examples;
    - `w_i = local(f_i(lam_i v_i + (1 - lam_i) w))` from `w`, while `v_i` rests: gradients have the factor `1 - lam_i`.

    The server averages `w_i`.

    Args:
      task: the model and its loss; mixtures are compared by `tasks.misfit`.
      local: solver for `w`; the paper takes one step.
      personal_local: solver for `v_i`; it sees the same minibatches.
      grid: the shares that are tried, in [0, 1], static; (0,) is FedAvg, (1,) local-only. Without validation examples a
        client takes the first.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` and `lam_i` (|params| + 1) and upload |params|. A newcomer finds them while
      `w` rests.

    Raises:
      ValueError: when traced, if the grid is empty.

    Deviations from the source: none known. Source: Mansour et al., "Three Approaches for Personalization with
    Applications to Federated Learning", 2020, section 5 (model interpolation), algorithm MAPPER.

    With any share above 0 the mixture reaches each client's own center:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(mapper(task, step, step), task, data, rounds=500)
    {'w': [1.0, 5.0]}
    """

    def client_update(w: Params, own: Interpolation, data: ClientData, key: Array) -> Reply:
        steps = jax.random.fold_in(key, 0)

        def fitted(lam: Array) -> tuple[Params, Interpolation]:
            v = personal_local(mixed(task.loss, lam, w), own.v, data, steps)
            return tree.mix(lam, v, w), Interpolation(v, lam)

        _, (v, lam) = chosen(task, fitted, grid, data, jax.random.fold_in(key, 1))
        result = local(mixed(task.loss, 1 - lam, v), w, data, steps)
        return Reply(tree.sub(w, result), Interpolation(v, lam))

    return accompanied(
        task,
        client_update,
        deploy=lambda w, own: tree.mix(own.lam, own.v, w),
        start=lambda w: Interpolation(w, jnp.zeros(())),
        server=server,
    )
