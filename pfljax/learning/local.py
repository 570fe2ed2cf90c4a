"""Local training: solvers say what is done with the minibatches of a plan."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from pfljax import checks, tree
from pfljax.learning import losses
from pfljax.learning.memory import Memory
from pfljax.learning.plans import gather
from pfljax.types import Array, Batch, ClientData, LocalSolver, LossFn, Mask, Params, Plan, Tree

# Phase of the losses' random numbers: plans fold in the number of an epoch.
_NOISE = 2**32 - 1


def descent(optimizer: optax.GradientTransformation, plan: Plan, memory: Memory | None = None) -> LocalSolver:
    """Minibatch descent: `w <- w + optimizer(grad f(w; batch))` for the client's own number of steps.

    The optimizer's state is fresh at each call, or goes on where a memory has it. Statistics are what the loss last
    measured.

    Args:
      optimizer: any optax transformation; its hyperparameters may be traced.
      plan: which minibatches.
      memory: of the client's optimizer states, which outlive the round, see `wrappers.persistent`.

    Raises:
      ValueError: when traced, if the optimizer has a schedule of its own, which would begin anew in every round; or if
        a solver with a memory is called in a loop.

    >>> from pfljax import quadratics
    >>> from pfljax.learning.plans import full_batch
    >>> task, data = quadratics.problem(w=[8.0])
    >>> key, solve = jax.random.key(0), descent(optax.sgd(0.5), full_batch(3, 1))
    >>> float(solve(task.loss, task.init(key), data.client(0), key).trainable["w"])
    7.0
    """

    steps = annealed(optimizer, plan, memory)

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        if memory is None:
            _refuse_schedules(optimizer, params.trainable)
        return steps(loss, params, data, key)

    return solve


def annealed(optimizer: optax.GradientTransformation, plan: Plan, memory: Memory | None = None) -> LocalSolver:
    """`descent` by an optimizer that may have a schedule, over the steps of ONE call: it begins anew in the next.

    >>> from pfljax import quadratics
    >>> from pfljax.learning.plans import full_batch
    >>> task, data = quadratics.problem(w=[8.0])
    >>> key, halving = jax.random.key(0), optax.sgd(lambda step: 0.5 / (1 + step))
    >>> float(annealed(halving, full_batch(2, 1))(task.loss, task.init(key), data.client(0), key).trainable["w"])
    5.0
    """
    checks.each(optax.GradientTransformation, optimizer=optimizer)
    checks.each(Plan, plan=plan)

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        noise = jax.random.fold_in(key, _NOISE)

        def step(number: Array, carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
            params, opt_state = carry
            batch = plan.batch(data, key, number)
            grads, stats = losses.gradient(loss, params, batch, jax.random.fold_in(noise, number))
            with jax.numpy_dtype_promotion("standard"):  # optax raises betas, which may be traced, to a whole power
                updates, opt_state = optimizer.update(grads, opt_state, params.trainable)
            return Params(optax.apply_updates(params.trainable, updates), stats), opt_state

        fresh = optimizer.init(params.trainable)
        start = params, fresh if memory is None else memory.recalled(fresh)
        params, opt_state = jax.lax.fori_loop(0, plan.steps(data), step, start)
        if memory is not None:
            memory.keep(opt_state)
        return params

    return solve


def _refuse_schedules(optimizer: optax.GradientTransformation, weights: Tree) -> None:
    def scheduled(state: Tree) -> bool:
        return isinstance(state, optax.ScaleByScheduleState)

    state = jax.eval_shape(optimizer.init, weights)
    if any(map(scheduled, jax.tree.leaves(state, is_leaf=scheduled))):
        raise ValueError(
            "the optimizer of descent has a schedule, which begins anew in every round: a schedule over rounds is a "
            "hyperparameter, as in simulate(task, lambda lr: ..., data, hyper={'lr': schedules.cosine(0.1, rounds=50)})"
        )


def proximal_descent(lr: Array | float, plan: Plan) -> LocalSolver:
    """Descent that takes the quadratic part of a `losses.Proximal` exactly, so that no `lam` is too large.

    `w <- (w - lr grad f(w; batch) + lr lam s anchor) / (1 + lr lam s)`, s the stiffness of the loss, or 1

    >>> from pfljax import quadratics
    >>> from pfljax.learning.plans import full_batch
    >>> task, data = quadratics.problem(w=[8.0])
    >>> key, solve = jax.random.key(0), proximal_descent(0.5, full_batch(50, 1))
    >>> near_zero = losses.proximal(task.loss, 3.0, {"w": jnp.zeros(())})
    >>> round(float(solve(near_zero, task.init(key), data.client(0), key).trainable["w"]), 4)
    2.0
    """

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        if not isinstance(loss, losses.Proximal):
            raise TypeError(f"proximal_descent solves losses.proximal(...), not {loss!r}; use descent")

        def pull(update: Array, param: Array, anchor: Array, stiffness: Array | float = 1.0) -> Array:
            strength = lr * (loss.lam * stiffness)
            return (param + update + strength * anchor) / (1 + strength) - param

        held = [loss.anchor] if loss.stiffness is None else [loss.anchor, loss.stiffness]
        towards = optax.stateless(lambda updates, params: jax.tree.map(pull, updates, params, *held))
        return descent(optax.chain(optax.sgd(lr), towards), plan)(loss.loss, params, data, key)

    return solve


def within(low: float, high: float) -> optax.GradientTransformation:
    """The end of a chain: what is trained stays in `[low, high]`.

    >>> step = optax.chain(optax.sgd(1.0), within(0.0, 1.0))
    >>> w = {"w": jnp.array([0.25, 0.5])}
    >>> step.update({"w": jnp.array([2.0, 0.25])}, step.init(w), w)[0]["w"].tolist()
    [-0.25, -0.25]
    """

    def cut(steps: Tree, params: Tree) -> Tree:
        return jax.tree.map(lambda step, w: jnp.clip(w + step, low, high) - w, steps, params)

    return optax.stateless(cut)


def only(mask: Mask, solver: LocalSolver) -> LocalSolver:
    """`solver` on the leaves of `mask`; the others are constants and come back bit for bit.

    >>> from pfljax import masks, quadratics
    >>> from pfljax.learning.plans import full_batch
    >>> task, data = quadratics.problem(body=[8.0], head=[4.0])
    >>> key, solve = jax.random.key(0), descent(optax.sgd(1.0), full_batch(1, 1))
    >>> solved = only(masks.named("head"), solve)(task.loss, task.init(key), data.client(0), key)
    >>> {name: float(leaf) for name, leaf in solved.trainable.items()}
    {'body': 0.0, 'head': 4.0}
    """

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        chosen, fixed = tree.split(mask(params), params)
        return tree.merge(solver(losses.given(loss, fixed), chosen, data, key), fixed)

    return solve


def average(of: Callable[[Batch, Array], Tree], data: ClientData, batch_size: int) -> Tree:
    """The mean over the client's examples of `of(batch, its number)`, itself a mean over the rows of a batch.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[3.0], sizes=[10])
    >>> center = lambda batch, number: jnp.sum(batch.x["c"]["w"] * batch.mask) / jnp.sum(batch.mask)
    >>> float(average(center, data.client(0), batch_size=4))
    3.0
    """

    def add(number: Array, total: Tree) -> Tree:
        batch = gather(data, number * batch_size + jnp.arange(batch_size, dtype=number.dtype))
        return tree.axpy(jnp.sum(batch.mask), of(batch, number), total)

    probe = jax.eval_shape(lambda: of(gather(data, jnp.arange(batch_size)), jnp.asarray(0)))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), probe)
    total = jax.lax.fori_loop(0, -(-data.size // batch_size), add, zeros)
    return tree.scale(1 / jnp.maximum(data.size, 1).astype(float), total)


def mean_loss(loss: LossFn, params: Params, data: ClientData, key: Array, batch_size: int = 128) -> Array:
    """`f_i(w)`: the mean loss over all examples of the client, 0 without any.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0], sizes=[3])
    >>> key = jax.random.key(0)
    >>> float(mean_loss(task.loss, task.init(key), data.client(0), key))
    32.0
    """
    return average(lambda batch, number: loss(params, batch, jax.random.fold_in(key, number))[0], data, batch_size)


def mean_gradient(loss: LossFn, params: Params, data: ClientData, key: Array, batch_size: int = 128) -> Tree:
    """`grad f_i(w)` over all examples of the client, 0 without any.

    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[8.0], sizes=[3])
    >>> key = jax.random.key(0)
    >>> float(mean_gradient(task.loss, task.init(key), data.client(0), key)["w"])
    -8.0
    """

    def of(batch: Batch, number: Array) -> Tree:
        return losses.gradient(loss, params, batch, jax.random.fold_in(key, number))[0]

    return average(of, data, batch_size)
