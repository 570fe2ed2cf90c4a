"""MR-MTL: personal models that stay near their mean."""

import jax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import proximal
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, Params, Reply, Task


def mr_mtl(
    task: Task, local: LocalSolver, *, lam: Array | float = 0.5, server: ServerOptimizer | None = None
) -> Algorithm:
    """Mean-regularized multi-task learning: clients train their own models, each near the mean of all.

    `v_i ~ argmin f_i(v) + lam/2 ||v - vbar||^2` from the kept `v_i`, then `vbar <- mean_i v_i`.

    Args:
      task: the model and its loss.
      local: solver for `v_i`. `local.proximal_descent` allows any `lam`.
      lam: strength of the pull, >= 0, traced; 0 is local-only.
      server: server optimizer of `vbar`; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` (|params|) and upload |params|. Half of Ditto's work: the common model is
      the mean of the personal ones.

    Deviations from the source: clients are weighted by examples (`wrappers.reduced_by` weighs equally), and `vbar` is
    the mean over the cohort of the last round.
    Source: Liu et al., "On Privacy and Personalization in Cross-Silo Federated Learning", NeurIPS 2022, section 4, as
    implemented by FL4Health, whose `vbar` never takes the place of a client's model.

    `(c_i + lam vbar) / (1 + lam)` at the mean `vbar = 4`:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(1, 1))
    >>> quadratics.deployed(mr_mtl(task, step, lam=3.0), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """

    def client_update(vbar: Params, v: Params, data: ClientData, key: Array) -> Reply:
        v = local(proximal(task.loss, lam, vbar.trainable), v, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(vbar, v), v)

    return accompanied(task, client_update, lambda vbar, v: v, server=server)
