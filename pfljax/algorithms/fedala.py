"""FedALA: every client learns, weight by weight, how much of the received top layers to take."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.local import descent, mean_loss, within
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Mask, Params, Plan, Reply, Task, Tree

_WINDOW, _STEADY = 10, 0.1
"""Losses are steady when the standard deviation of so many is below that."""


class Adaptive(NamedTuple):
    """What a client keeps."""

    v: Params
    weights: Tree  # of the top layers, each in [0, 1]
    fresh: Array  # [] bool: its weights have not been learned yet


def fedala(
    task: Task,
    local: LocalSolver,
    plan: Plan,
    personal: Mask,
    *,
    weight_lr: Array | float = 1.0,
    share: Array | float = 0.8,
    passes: int = 20,
    deploy: Literal["trained", "mixed"] = "trained",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose clients start from a mixture of the received `w` and their last model `v_i`, learned elementwise.

    `theta = v_i + (w - v_i) * W_i` in the top layers, `theta = w` below them. In a round:

    - `W_i <- clip(W_i - weight_lr grad_theta f_i(theta; batch) * (w - v_i), 0, 1)`, along a random part of the client's
      minibatches; once, and at its first time until the losses are steady;
    - `v_i <- local(f_i, theta)`, and the server averages `v_i`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      plan: the minibatches for `W_i`, of one pass as a rule.
      personal: the top layers, such as `masks.head(model)`; everything in the authors' option p = 0.
      weight_lr: step size of `W_i`, >= 0, traced; 0 is FedAvg, bit for bit.
      share: part of the minibatches that `W_i` sees, in [0, 1], traced.
      passes: of the first time, at most, static.
      deploy: `v_i` as trained, or the mixture of `v_i` and the model received now, before it is trained.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `v_i`, `W_i` (the size of the top layers) and a flag; they upload |params|. A
      newcomer has `W_i = 1` and trains `w`.

    Raises:
      ValueError: if `deploy` is neither.

    Deviations from the source: a random part of the minibatches instead of neighbouring examples; losses are steady if
    the means over the client's examples after ten passes deviate by less than 0.1; statistics are those of `w`.
    Source: Zhang et al., "FedALA: Adaptive Local Aggregation for Personalized Federated Learning", AAAI 2023,
    Algorithm 1; the first time as implemented by the authors.

    Each client learns to take nothing of what is received, and reaches its own center:

    >>> from pfljax.learning import plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> step, plan = descent(optax.sgd(0.5), plans.full_batch(1, 1)), plans.full_batch(1, 1)
    >>> quadratics.deployed(fedala(task, step, plan, masks.everything), task, data, rounds=50)
    {'w': [1.0, 5.0]}
    """
    if deploy not in ("trained", "mixed"):
        raise ValueError(f"deploy={deploy!r}: choose 'trained' or 'mixed'")
    solve = descent(optax.chain(optax.sgd(weight_lr), within(0.0, 1.0)), plan)

    def start(w: Params) -> Adaptive:
        top = tree.split(personal(w), w)[0].trainable
        return Adaptive(w, jax.tree.map(jnp.ones_like, top), jnp.asarray(True))

    def adapted(w: Params, own: Adaptive, data: ClientData, key: Array) -> tuple[Params, Adaptive]:
        """The mixture that the round starts from, and the client with its new weights."""
        new, old = (tree.like(part.trainable, own.weights) for part in (w, own.v))
        differs = tree.squared_norm(tree.sub(new, old)) > 0

        def theta(weights: Tree) -> Params:
            top = jax.tree.map(lambda a, x, v: a * x + (1 - a) * v, weights, new, old)
            return w._replace(trainable=tree.merge(top, w.trainable))

        def loss(weights: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            return task.loss(theta(weights.trainable), batch, key)[0], {}

        def after_pass(weights: Tree, number: Array | int) -> Tree:
            part = data._replace(work=share * data.work)
            return solve(loss, Params(weights), part, jax.random.fold_in(key, number)).trainable

        def fit(weights: Tree) -> Array:
            return mean_loss(task.loss, theta(weights), data, key)

        more = jnp.where(differs & own.fresh, passes, 1)
        weights = _until_steady(after_pass, fit, after_pass(own.weights, 0), more)
        return theta(weights), own._replace(weights=weights, fresh=own.fresh & ~differs)

    def client_update(w: Params, own: Adaptive, data: ClientData, key: Array) -> Reply:
        begin, own = adapted(w, own, data, jax.random.fold_in(key, 1))
        v = local(task.loss, begin, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(w, v), own._replace(v=v))

    algorithm = accompanied(task, client_update, lambda w, own: own.v, start, server=server)
    if deploy == "trained":
        return algorithm
    return algorithm._replace(
        personalize=lambda w, own, data, key: adapted(w, own, data, jax.random.fold_in(key, 1))[0]
    )


def _until_steady(
    after_pass: Callable[[Tree, Array], Tree], fit: Callable[[Tree], Array], weights: Tree, passes: Array
) -> Tree:
    """The weights, which had one pass, after so many, or as soon as the last losses hardly differ."""

    def unsteady(state: tuple[Tree, Array, Array]) -> Array:
        _, losses, number = state
        return (number < passes) & ~(jnp.std(losses) < _STEADY)

    def again(state: tuple[Tree, Array, Array]) -> tuple[Tree, Array, Array]:
        weights, losses, number = state
        return after_pass(weights, number), losses.at[number % _WINDOW].set(fit(weights)), number + 1

    return jax.lax.while_loop(unsteady, again, (weights, jnp.full(_WINDOW, jnp.nan), jnp.asarray(1)))[0]
