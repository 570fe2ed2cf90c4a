"""pFedMe: personalized models by Moreau envelopes."""

from typing import Literal

import jax
import optax

from pfljax import tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.sampling import Participation, everyone
from pfljax.federation.server import fedopt
from pfljax.federation.skeletons import accompanied
from pfljax.learning.local import descent
from pfljax.learning.losses import proximal
from pfljax.learning.plans import same
from pfljax.types import Algorithm, Array, ClientData, Params, Plan, Reply, Task, as_drawn


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
    participation: Participation = "cohort",
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
      participation: only the cohort trains ("cohort"), or all clients train each round and the cohort's `w_i` are
        averaged ("all"), as in the paper; personalized models of the others are then of this round, too.

    Returns:
      An algorithm whose clients keep what they deploy (|params|) and upload |params|. A newcomer's onboarding goes on
      from where the round before it ended, with `w_i` held at `w`: towards the minimiser of
      `f_i(theta) + lam/2 ||theta - w||^2`, or with `deploy="local"` by further outer steps of its `w_i`.

    Raises:
      ValueError: if `start`, `deploy` or `participation` is unknown.

    Clients count equally, as in the paper.
    Deviations from the source: the default `participation`. Running statistics are those of `theta`; the server
    averages them. Source: T. Dinh et al., "Personalized Federated Learning with Moreau Envelopes", NeurIPS 2020,
    Algorithm 1.

    `(c_i + lam w) / (1 + lam)` at the mean `w = 4`:

    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> algorithm = pfedme(task, plans.full_batch(1, 1), lr=0.2, inner_lr=0.2, lam=3.0, inner_steps=20)
    >>> quadratics.deployed(algorithm, task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    if start not in ("warm", "reset"):
        raise ValueError(f"start={start!r}: choose 'warm' or 'reset'")
    if deploy not in ("theta", "local"):
        raise ValueError(f"deploy={deploy!r}: choose 'theta' or 'local'")

    if participation not in ("cohort", "all"):
        raise ValueError(f"participation={participation!r}: choose 'cohort' or 'all'")

    def outer(
        w_i: Params, theta: Params, data: ClientData, key: Array, lr: Array | float, warm: bool
    ) -> tuple[Params, Params]:
        key, inner_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)

        def step(number: Array, models: tuple[Params, Params]) -> tuple[Params, Params]:
            w_i, theta = models
            inner = descent(optax.sgd(inner_lr), same(plan.batch(data, key, number), inner_steps))
            near, begin = proximal(task.loss, lam, w_i.trainable), theta if warm else w_i
            theta = inner(near, begin, data, jax.random.fold_in(inner_key, number))
            pulled = tree.axpy(-lr * lam, tree.sub(w_i.trainable, theta.trainable), w_i.trainable)
            return Params(pulled, theta.stats), theta

        return jax.lax.fori_loop(0, plan.steps(data), step, (w_i, theta))

    def client_update(w: Params, client: Params, data: ClientData, key: Array) -> Reply:
        w_i, theta = outer(w, w, data, key, lr, start == "warm")
        return Reply(tree.sub(w, w_i), theta if deploy == "theta" else w_i)

    def onboard(w: Params, own: Params, data: ClientData, key: Array) -> Params:
        if deploy == "theta":
            return outer(w, own, data, key, lr=0.0, warm=True)[1]
        return outer(own, own, data, key, lr, start == "warm")[0]

    server = fedopt(optax.sgd(beta))
    algorithm = accompanied(task, client_update, lambda w, client: client, server=server, reduce=uniform(mean))
    return algorithm._replace(onboard=onboard, participation=everyone if participation == "all" else as_drawn)
