"""APFL: a learned mixture of a personal and the shared model."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Update, accompanied, alone
from pfljax.learning.local import descent, within
from pfljax.learning.parts import parted
from pfljax.types import Algorithm, Array, Batch, ClientData, Params, Plan, Reply, Task, Tree


class Mixture(NamedTuple):
    """What a client keeps."""

    v: Params
    alpha: Array  # [] share of `v`


class Pair(NamedTuple):
    """What a client deploys where outputs are mixed."""

    own: Mixture
    w: Params


def apfl(
    task: Task,
    optimizer: optax.GradientTransformation,
    plan: Plan,
    *,
    alpha: Array | float = 0.5,
    alpha_lr: Array | float = 0.0,
    alpha_reg: Array | float = 0.0,
    chain: bool = True,
    mix: Literal["params", "outputs"] = "params",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Each client deploys `alpha_i v_i + (1 - alpha_i) w`.

    In each local step, on one batch and with all gradients taken before anything moves:

    - `w_i <- w_i - lr grad f_i(w_i)`;
    - `v_i <- v_i - lr alpha_i grad f_i(m)`, `m = alpha_i v_i + (1 - alpha_i) w_i`;
    - in the first step of a round
      `alpha_i <- clip(alpha_i - alpha_lr (<v_i - w_i, grad f_i(m)> + alpha_reg alpha_i), 0, 1)`.

    All three are the gradient of `f_i(w) + f_i(alpha v + (1 - alpha) stop(w)) + alpha_reg/2 alpha^2`.

    Args:
      task: the model and its loss.
      optimizer: optax optimizer of `w_i` and of `v_i`.
      plan: the minibatches.
      alpha: initial share of the personal model, in [0, 1], traced; 1 is local-only, 0 is FedAvg.
      alpha_lr: step size of `alpha`, traced; 0 keeps it.
      alpha_reg: strength of the pull of `alpha` to 0, traced; 0.02 in the authors' code.
      chain: whether `v_i` moves by `alpha_i grad f_i(m)`, as in the paper, or by `grad f_i(m)`, as in much code.
      mix: what is deployed is a mixture of the weights, as in the paper, or of the outputs, as the authors' code
        evaluates it; linear models give the same.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i` and `alpha_i` (|params| + 1) and upload |params|. A newcomer trains them
      while `w` rests.

    Raises:
      ValueError: if `mix` is unknown.

    Deviations from the source: the deployed mixture uses the received `w`, not the client's last `w_i`; clients are
    weighted by examples, where the paper weighs equally (`wrappers.reduced_by`).
    Source: Deng et al., "Adaptive Personalized Federated Learning", 2020, Algorithm 1 and equation 10.

    With any `alpha > 0` the mixture reaches each client's own center:

    >>> import optax
    >>> from pfljax.learning import plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> quadratics.deployed(apfl(task, optax.sgd(0.5), plans.full_batch(1, 1), alpha=0.5), task, data, rounds=100)
    {'w': [1.0, 5.0]}
    """
    if mix not in ("params", "outputs"):
        raise ValueError(f"mix={mix!r}: choose 'params' or 'outputs'")

    def first_only(grads: Any, step: Any, params: Any = None) -> Any:
        return jax.tree.map(lambda g: jnp.where(step == 0, -alpha_lr * g, 0), grads), step + 1

    once = optax.GradientTransformation(lambda alphas: jnp.zeros((), int), first_only)  # pyright: ignore

    def loss(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        w, v = parted(both, "w", "v")
        share, (w_rests, v_rests) = both.trainable["alpha"], jax.lax.stop_gradient((w, v))
        mixed = tree.mix(share, v if chain else v_rests, w_rests)
        if not chain:
            mixed = tree.add(mixed, tree.sub(v, v_rests))
        (shared_loss, shared_stats), (mixed_loss, mixed_stats) = task.loss(w, batch, key), task.loss(mixed, batch, key)
        return shared_loss + mixed_loss + alpha_reg / 2 * share**2, {"w": shared_stats, "v": mixed_stats}

    def training(shared: optax.GradientTransformation) -> Update:
        optimizers: dict[Any, Any] = {"w": shared, "v": optimizer, "alpha": optax.chain(once, within(0.0, 1.0))}
        solve = descent(optax.partition(optimizers, {name: name for name in optimizers}), plan)

        def client_update(w: Params, own: Mixture, data: ClientData, key: Array) -> Reply:
            v, share = own
            start = Params({"w": w.trainable, "v": v.trainable, "alpha": share}, {"w": w.stats, "v": v.stats})
            trainable, stats = solve(loss, start, data, jax.random.fold_in(key, 0))
            upload = tree.sub(w, Params(trainable["w"], stats["w"]))
            return Reply(upload, Mixture(Params(trainable["v"], stats["v"]), trainable["alpha"]))

        return client_update

    def predict(pair: Pair, x: Tree) -> Tree:
        (v, share), w = pair
        return tree.mix(share, task.predict(v, x), task.predict(w, x))

    algorithm = accompanied(
        task,
        training(optimizer),
        deploy=lambda w, own: tree.mix(own.alpha, own.v, w) if mix == "params" else Pair(own, w),
        start=lambda w: Mixture(w, jnp.asarray(alpha, float)),
        server=server,
    )
    onboard = alone(training(optax.set_to_zero()))
    return algorithm._replace(onboard=onboard, predict=None if mix == "params" else predict)
