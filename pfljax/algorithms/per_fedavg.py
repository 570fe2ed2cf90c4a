"""Per-FedAvg: a starting point from which one step is enough."""

import optax

from pfljax import masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging, fine_tuned
from pfljax.learning.local import descent
from pfljax.learning.losses import Order, after_adaptation
from pfljax.types import Algorithm, Array, LocalSolver, Plan, Task


def per_fedavg(
    task: Task,
    local: LocalSolver,
    adapt: Plan,
    *,
    alpha: Array | float = 0.01,
    order: Order = "exact",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg on the loss after one adaptation step; every client deploys the adapted model.

    `min_w mean_i f_i(w - alpha grad f_i(w))`, with the meta-gradient
    `(I - alpha H_i(w; D)) grad f_i(w - alpha grad f_i(w; D); D')`.

    Args:
      task: the model and its loss.
      local: solver of the meta-steps; its lr is the paper's beta.
      adapt: minibatches of the adaptation before deployment, one step in the paper.
      alpha: adaptation step size, >= 0, traced; 0 is FedAvg with equal weights on the odd rows of each batch.
      order: `"exact"` second order, `"first"` (FO), `"hessian_free"` (HF).
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Raises:
      ValueError: if `order` is none of the three.

    Clients count equally, as in the paper.
    Deviations from the source: D and D' are the even and odd rows of one batch, and the Hessian's batch is D.
    Source: Fallah et al., "Personalized Federated Learning with Theoretical Guarantees: A Model-Agnostic Meta-Learning
    Approach", NeurIPS 2020, Algorithm 1.

    `w - alpha a_i (w - c_i)` at `w = sum_i b_i c_i / sum_i b_i = 8`, `b_i = a_i (1 - alpha a_i)^2`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 17.0], curvatures=[1.0, 2.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(per_fedavg(task, step, plans.full_batch(1, 1), alpha=0.25), task, data, rounds=100)
    {'w': [6.0, 12.5]}
    """
    meta = after_adaptation(task.loss, alpha, order)
    learned = averaging(task, local, lambda w: meta, server=server, reduce=uniform(mean))
    return fine_tuned(learned, task, descent(optax.sgd(alpha), adapt), masks.everything)
