"""Plans: which minibatches a client visits in a round."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.checks import Count
from pfljax.learning.shuffle import permute
from pfljax.types import Array, Batch, ClientData, Plan


def gather(data: ClientData, places: Array) -> Batch:
    """The client's examples at `places` [B]; places beyond its size are padding.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[2])[1].client(0)
    >>> gather(data, jnp.arange(3)).mask.tolist()
    [1.0, 1.0, 0.0]
    """
    places = places.astype(data.size.dtype)
    valid = places < data.size
    rows = data.start + jnp.where(valid, places, 0)
    x, y = jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0, mode="clip"), data.examples)
    return Batch(x, y, valid.astype(float), places)


def _worked(steps: Array, data: ClientData) -> Array:
    """The part of `steps` that the client manages, none without examples."""
    managed = jnp.ceil(steps.astype(float) * jnp.asarray(data.work, float)).astype(jnp.int32)
    return jnp.where(data.size > 0, managed, 0)


def epochs(count: int, batch_size: int, *, drop_last: bool = False) -> Plan:
    """`count` passes over the client's examples in a fresh random order each, without replacement.

    A pass takes `ceil(size / batch_size)` steps, the last one short; with `drop_last` `floor(size / batch_size)`, but
    at least one.

    Raises:
      ValueError: if a count is below 1.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[10])[1].client(0)
    >>> int(epochs(2, batch_size=4).steps(data)), int(epochs(2, batch_size=4, drop_last=True).steps(data))
    (6, 4)
    """
    checks.each(Count, count=count, batch_size=batch_size)

    def per_epoch(data: ClientData) -> Array:
        return jnp.maximum(data.size // batch_size if drop_last else -(-data.size // batch_size), 1)

    def batch(data: ClientData, key: Array, step: Array) -> Batch:
        epoch, number = step // per_epoch(data), step % per_epoch(data)
        places = number * batch_size + jnp.arange(batch_size, dtype=number.dtype)
        shuffled = permute(places, data.size, jax.random.fold_in(key, epoch))
        return gather(data, jnp.where(places < data.size, shuffled, places))

    return Plan(lambda data: _worked(count * per_epoch(data), data), batch)


def steps(count: int, batch_size: int) -> Plan:
    """`count` minibatches; the examples are reshuffled each time they are used up.

    Raises:
      ValueError: if a count is below 1.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[10])[1].client(0)
    >>> int(steps(7, batch_size=4).steps(data))
    7
    """
    checks.each(Count, count=count)
    return lasting(count, epochs(1, batch_size))


def lasting(count: Array | int, plan: Plan) -> Plan:
    """`count` steps along the minibatches of `plan`; it may be traced.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[10])[1].client(0)
    >>> int(lasting(jnp.asarray(7), epochs(1, batch_size=4)).steps(data))
    7
    """
    return plan._replace(steps=lambda data: _worked(jnp.asarray(count), data))


def full_batch(count: int, capacity: int) -> Plan:
    """`count` steps, each on all examples of the client, of which there are at most `capacity`.

    Raises:
      ValueError: if a count is below 1.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[2])[1].client(0)
    >>> full_batch(5, capacity=3).batch(data, jax.random.key(0), jnp.asarray(0)).mask.tolist()
    [1.0, 1.0, 0.0]
    """
    checks.each(Count, count=count, capacity=capacity)

    def batch(data: ClientData, key: Array, step: Array) -> Batch:
        del key, step
        return gather(data, jnp.arange(capacity))

    return Plan(lambda data: _worked(jnp.asarray(count), data), batch)


def same(batch: Batch, count: int) -> Plan:
    """`count` steps on one and the same minibatch.

    Raises:
      ValueError: if `count` is below 1.

    >>> from pfljax import quadratics
    >>> data = quadratics.problem(w=[3.0], sizes=[2])[1].client(0)
    >>> plan = same(gather(data, jnp.arange(2)), count=4)
    >>> int(plan.steps(data)), plan.batch(data, jax.random.key(0), jnp.asarray(3)).mask.tolist()
    (4, [1.0, 1.0])
    """
    checks.each(Count, count=count)
    return Plan(lambda data: jnp.asarray(count), lambda data, key, step: batch)
