"""Local training: plans say which minibatches, solvers say what is done with them."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from pfljax import losses, tree
from pfljax.shuffle import permute
from pfljax.types import Array, Batch, ClientData, LocalSolver, LossFn, Mask, Params, Plan, Tree


def gather(data: ClientData, places: Array) -> Batch:
    """The client's examples at `places` [B]; places beyond its size are padding."""
    valid = places < data.size
    rows = data.start + jnp.where(valid, places, 0)
    x, y = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), data.examples)
    return Batch(x, y, valid.astype(float))


def _worked(steps: Array, data: ClientData) -> Array:
    """The part of `steps` that the client manages, none without examples."""
    managed = jnp.ceil(steps * jnp.asarray(data.work, float)).astype(jnp.int32)
    return jnp.where(data.size > 0, managed, 0)


def _positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}={count}: it must be at least 1")


def epochs(count: int, batch_size: int, *, drop_last: bool = False) -> Plan:
    """`count` passes over the client's examples in a fresh random order each, without replacement.

    A pass takes `ceil(size / batch_size)` steps, the last one short; with `drop_last` `floor(size / batch_size)`, but
    at least one.

    Raises:
      ValueError: if a count is below 1.
    """
    _positive(count=count, batch_size=batch_size)

    def per_epoch(data: ClientData) -> Array:
        whole, rest = data.size // batch_size, data.size % batch_size
        return jnp.maximum(whole if drop_last else whole + (rest > 0), 1)

    def batch(data: ClientData, key: Array, step: Array) -> Batch:
        epoch, number = step // per_epoch(data), step % per_epoch(data)
        places = number * batch_size + jnp.arange(batch_size)
        shuffled = permute(places, data.size, jax.random.fold_in(key, epoch))
        return gather(data, jnp.where(places < data.size, shuffled, places))

    return Plan(lambda data: _worked(count * per_epoch(data), data), batch)


def steps(count: int, batch_size: int) -> Plan:
    """`count` minibatches; the examples are reshuffled each time they are used up.

    Raises:
      ValueError: if a count is below 1.
    """
    _positive(count=count)
    return Plan(lambda data: _worked(jnp.asarray(count), data), epochs(1, batch_size).batch)


def full_batch(count: int, capacity: int) -> Plan:
    """`count` steps, each on all examples of the client, of which there are at most `capacity`.

    Raises:
      ValueError: if a count is below 1.
    """
    _positive(count=count, capacity=capacity)

    def batch(data: ClientData, key: Array, step: Array) -> Batch:
        del key, step
        return gather(data, jnp.arange(capacity))

    return Plan(lambda data: _worked(jnp.asarray(count), data), batch)


def same(batch: Batch, count: int) -> Plan:
    """`count` steps on one and the same minibatch.

    Raises:
      ValueError: if `count` is below 1.
    """
    _positive(count=count)
    return Plan(lambda data: jnp.asarray(count), lambda data, key, step: batch)


def descent(optimizer: optax.GradientTransformation, plan: Plan) -> LocalSolver:
    """Minibatch descent: `w <- w + optimizer(grad f(w; batch))` for the client's own number of steps.

    The optimizer's state is fresh at each call. Statistics are what the loss last measured.

    Args:
      optimizer: any optax transformation; its hyperparameters may be traced.
      plan: which minibatches.
    """

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        def step(number: Array, carry: tuple[Params, optax.OptState]) -> tuple[Params, optax.OptState]:
            params, opt_state = carry
            batch = plan.batch(data, key, number)
            grads, stats = losses.gradient(loss, params, batch, jax.random.fold_in(key, number))
            updates, opt_state = optimizer.update(grads, opt_state, params.trainable)
            return Params(optax.apply_updates(params.trainable, updates), stats), opt_state

        start = params, optimizer.init(params.trainable)
        return jax.lax.fori_loop(0, plan.steps(data), step, start)[0]

    return solve


def proximal_descent(lr: Array | float, plan: Plan) -> LocalSolver:
    """Descent that takes the quadratic part of a `losses.Proximal` exactly, so that no `lam` is too large.

    `w <- (w - lr grad f(w; batch) + lr lam anchor) / (1 + lr lam)`
    """

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        if not isinstance(loss, losses.Proximal):
            raise TypeError(f"proximal_descent solves losses.proximal(...), not {loss!r}; use descent")

        def pull(update: Array, param: Array, anchor: Array) -> Array:
            return (param + update + lr * loss.lam * anchor) / (1 + lr * loss.lam) - param

        towards = optax.stateless(lambda updates, params: jax.tree.map(pull, updates, params, loss.anchor))
        return descent(optax.chain(optax.sgd(lr), towards), plan)(loss.loss, params, data, key)

    return solve


def only(mask: Mask, solver: LocalSolver) -> LocalSolver:
    """`solver` on the leaves of `mask`; the others are constants and come back bit for bit."""

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        chosen, fixed = tree.split(mask(params), params)
        return tree.merge(solver(losses.given(loss, fixed), chosen, data, key), fixed)

    return solve


def average(of: Callable[[Batch], Tree], data: ClientData, batch_size: int) -> Tree:
    """The mean over the client's examples of `of(batch)`, itself a mean over the rows of a batch."""

    def add(number: Array, total: Tree) -> Tree:
        batch = gather(data, number * batch_size + jnp.arange(batch_size))
        return tree.axpy(jnp.sum(batch.mask), of(batch), total)

    probe = jax.eval_shape(lambda: of(gather(data, jnp.arange(batch_size))))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), probe)
    total = jax.lax.fori_loop(0, -(-data.size // batch_size), add, zeros)
    return tree.scale(1 / jnp.maximum(data.size, 1), total)


def mean_loss(loss: LossFn, params: Params, data: ClientData, key: Array, batch_size: int = 128) -> Array:
    """`f_i(w)`: the mean loss over all examples of the client, 0 without any."""
    return average(lambda batch: loss(params, batch, key)[0], data, batch_size)


def mean_gradient(loss: LossFn, params: Params, data: ClientData, key: Array, batch_size: int = 128) -> Tree:
    """`grad f_i(w)` over all examples of the client, 0 without any."""
    return average(lambda batch: losses.gradient(loss, params, batch, key)[0], data, batch_size)
