"""FedAvg whose model each client adapts without forgetting it: by distillation, or by elastic weights."""

from pfljax import checks, masks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging, fine_tuned
from pfljax.learning.importance import fisher
from pfljax.learning.losses import distilled, proximal
from pfljax.types import Algorithm, Array, ClientData, LocalSolver, LossFn, Mask, Params, Task


def fedavg_distilled(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    alpha: Array | float = 0.95,
    temperature: Array | float = 6.0,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose model each client trains further while it listens to what the model said before.

    `v_i = tune(h_i, w)` on the leaves of `tuned`, with the logits z and the frozen teacher w:

    `h_i(v) = alpha T^2 KL(softmax(z(x; w) / T) || softmax(z(x; v) / T)) + (1 - alpha) f_i(v)`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the adaptation.
      alpha: weight of the teacher, in [0, 1], traced; 0 is `fedavg_finetuned`, and at 1 nothing moves.
      temperature: T, > 0, traced.
      tuned: what is adapted: everything, or the head only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Raises:
      ValueError: when traced, if labels are not one class for each example.

    Deviations from the source: the divergence is a mean over examples, where the authors' code divides by the number of
    classes as well; both models imitate as they predict, with norm layers' running statistics and without dropout.
    Source: Yu et al., "Salvaging Federated Learning by Local Adaptation", 2020, section 3 (knowledge distillation).

    The teacher keeps a client that has one class from giving it all of the probability:

    >>> import jax, numpy as np, optax, pfljax as pfl
    >>> model, solve = pfl.models.logistic((1,), 2), pfl.descent(optax.sgd(1.0), pfl.full_batch(50, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients([(np.ones((4, 1)), [label] * 4) for label in (0, 1)])
    >>> made = [fedavg_distilled(task, solve, solve, alpha=alpha) for alpha in (0.0, 0.9)]
    >>> models = [pfl.simulate(task, method, data, rounds=1).models["0"] for method in made]
    >>> [round(float(jax.nn.softmax(model.predict(np.ones((1, 1))))[0, 0]), 2) for model in models]
    [1.0, 0.55]
    """

    def loss(w: Params, data: ClientData, key: Array) -> LossFn:
        checks.classes(data.examples.y, "fedavg_distilled")
        return distilled(task, w, alpha, temperature)

    return fine_tuned(averaging(task, local, server=server), task, tune, tuned, loss)


def fedavg_ewc(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    *,
    lam: Array | float = 5000.0,
    tuned: Mask = masks.everything,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose model each client trains further, each parameter held as firmly as it mattered before.

    `v_i = tune(h_i, w)` on the leaves of `tuned`, with the diagonal Fisher information of w:

    `h_i(v) = f_i(v) + lam/2 sum_k F_k (v_k - w_k)^2`, `F_k = mean_s (df(w; s)/dw_k)^2` over the client's examples s.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the adaptation. A step of descent is stable while `lr lam F_k` is below 2; with
        `local.proximal_descent` any is.
      lam: strength, >= 0, traced; 0 is `fedavg_finetuned`. The paper's 5000 goes with steps of 0.001.
      tuned: what is adapted: everything, or the head only.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|.

    Deviations from the source: F is of the client's training examples, one by one, where the authors' code squares the
    mean gradients of minibatches of a tenth of the test examples. Source: Yu et al., "Salvaging Federated Learning by
    Local Adaptation", 2020, section 3 (multi-task learning, by elastic weight consolidation).

    At the mean `w = 4` the Fisher information of both is `4^2`, so `v_i = (c_i + lam F w) / (1 + lam F)`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.2), plans.full_batch(50, 1))
    >>> quadratics.deployed(fedavg_ewc(task, step, step, lam=3 / 16), task, data, rounds=10)
    {'w': [3.0, 5.0]}
    """

    def loss(w: Params, data: ClientData, key: Array) -> LossFn:
        return proximal(task.loss, lam, w.trainable, stiffness=fisher(task, w, data, key))

    return fine_tuned(averaging(task, local, server=server), task, tune, tuned, loss)
