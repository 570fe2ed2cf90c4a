"""pFedMe: personalized models by Moreau envelopes."""

from typing import Literal

import jax
import optax

from pfljax import tree
from pfljax.local import descent, same
from pfljax.losses import proximal
from pfljax.reduce import mean, uniform
from pfljax.server import fedopt
from pfljax.skeletons import accompanied
from pfljax.types import Algorithm, Array, ClientData, Params, Plan, Reduce, Reply, Task


def pfedme(
    task: Task,
    plan: Plan,
    *,
    lr: Array | float = 0.005,
    inner_lr: Array | float = 0.05,
    lam: Array | float = 15.0,
    beta: Array | float = 1.0,
    inner_steps: int = 5,
    start: Literal["warm", "reset"] = "warm",
    deploy: Literal["theta", "local"] = "theta",
    reduce: Reduce = uniform(mean),
) -> Algorithm:
    """Descends the Moreau envelopes `F_i(w) = min_theta f_i(theta) + lam/2 ||theta - w||^2`.

    For each of R minibatches, from `w_i = w`:

    - `theta ~ argmin f_i(theta; batch) + lam/2 ||theta - w_i||^2`, by `inner_steps` gradient steps on that one batch;
    - `w_i <- w_i - lr lam (w_i - theta)`.

    Server: `w <- (1 - beta) w + beta mean(w_i)`.

    Args:
      task: the model and its loss.
      plan: the minibatches; R is their number.
      lr: the outer step (eta), traced; `lr lam <= 1` keeps it stable.
      inner_lr: the inner step, traced; `inner_lr (L + lam) < 2` keeps it stable.
      lam: strength of the pull, > 0, traced.
      beta: the server's step, traced.
      inner_steps: K, static.
      start: each inner solution starts from the last one ("warm") or from `w_i` ("reset").
      deploy: the personalized model is `theta`, or `w_i` ("local") as the authors' code evaluates it.
      reduce: clients count equally, as in the paper.

    Returns:
      An algorithm whose clients keep what they deploy (|params|) and upload |params|.

    Raises:
      ValueError: if `start` or `deploy` is unknown.

    Deviations from the source: none. Source: T. Dinh et al., "Personalized Federated Learning with Moreau Envelopes",
    NeurIPS 2020, Algorithm 1.

    `(c_i + lam w) / (1 + lam)` at the mean `w = 4`:

    >>> from pfljax import local, quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> algorithm = pfedme(task, local.full_batch(1, 1), lr=0.2, inner_lr=0.2, lam=3.0, inner_steps=20)
    >>> quadratics.deployed(algorithm, task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    if start not in ("warm", "reset"):
        raise ValueError(f"start={start!r}: choose 'warm' or 'reset'")
    if deploy not in ("theta", "local"):
        raise ValueError(f"deploy={deploy!r}: choose 'theta' or 'local'")

    def client_update(w: Params, client: Params, data: ClientData, key: Array) -> Reply:
        key = jax.random.fold_in(key, 0)

        def step(number: Array, models: tuple[Params, Params]) -> tuple[Params, Params]:
            w_i, theta = models
            inner = descent(optax.sgd(inner_lr), same(plan.batch(data, key, number), inner_steps))
            theta = inner(
                proximal(task.loss, lam, w_i.trainable),
                theta if start == "warm" else w_i,
                data,
                jax.random.fold_in(key, number),
            )
            pulled = tree.axpy(-lr * lam, tree.sub(w_i.trainable, theta.trainable), w_i.trainable)
            return Params(pulled, theta.stats), theta

        w_i, theta = jax.lax.fori_loop(0, plan.steps(data), step, (w, w))
        return Reply(tree.sub(w, w_i), theta if deploy == "theta" else w_i)

    server = fedopt(optax.sgd(beta))
    return accompanied(task, client_update, lambda w, client: client, server=server, reduce=reduce)
