"""Who takes part in a round: cohorts, dropouts, stragglers.

A sampler maps `(key, sizes [N])` to a `Draw`. Cohorts are sets: ids ascend, and the id N marks an empty slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax.shuffle import permute
from pfljax.types import Array


class Draw(NamedTuple):
    """The clients of one round."""

    ids: Array  # [M] ascending, N for an empty slot
    replied: Array  # [M] bool; an empty slot does not reply
    work: Array  # [M] share of its local steps that the client manages


Sampler = Callable[[Array, Array], Draw]
"""`(key, sizes [N]) -> Draw`."""


def _draw(ids: Array, num_clients: int) -> Draw:
    ids = jnp.sort(ids)
    return Draw(ids, ids < num_clients, jnp.ones(ids.shape, float))


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value}: a share lies in [0, 1]")


def _fitting(size: int, num_clients: int) -> None:
    if not 1 <= size <= num_clients:
        raise ValueError(f"a cohort of {size} out of {num_clients} clients: choose 1 to {num_clients}")


def full() -> Sampler:
    """All clients, every round.

    >>> full()(jax.random.key(0), jnp.array([10, 20, 30])).ids.tolist()
    [0, 1, 2]
    """
    return lambda key, sizes: _draw(jnp.arange(sizes.shape[0]), sizes.shape[0])


def uniform(size: int) -> Sampler:
    """`size` clients, all sets equally likely, at a cost that does not grow with the population.

    Raises:
      ValueError: when drawn, if the population is smaller.

    >>> uniform(3)(jax.random.key(0), jnp.array([10, 20, 30])).ids.tolist()
    [0, 1, 2]
    """

    def sample(key: Array, sizes: Array) -> Draw:
        _fitting(size, sizes.shape[0])
        return _draw(permute(jnp.arange(size), jnp.asarray(sizes.shape[0]), key), sizes.shape[0])

    return sample


def weighted(size: int, weights: Array | None = None) -> Sampler:
    """`size` clients without replacement, one after the other with probability in proportion to `weights` [N].

    Without `weights`, in proportion to the clients' numbers of examples.

    Raises:
      ValueError: when drawn, if the population is smaller.

    >>> weighted(2)(jax.random.key(0), jnp.array([10, 0, 30])).ids.tolist()
    [0, 2]
    """

    def sample(key: Array, sizes: Array) -> Draw:
        _fitting(size, sizes.shape[0])
        chances = jnp.asarray(sizes if weights is None else weights, float)
        scores = jnp.log(chances) + jax.random.gumbel(key, chances.shape, chances.dtype)
        best, ids = jax.lax.top_k(scores, size)
        return _draw(jnp.where(best > -jnp.inf, ids, sizes.shape[0]), sizes.shape[0])

    return sample


def poisson(rate: float, capacity: int) -> Sampler:
    """Each client on its own with probability `rate`; at most `capacity` slots, a surplus is turned away at random.

    Raises:
      ValueError: if `rate` is no share, or, when drawn, if `capacity` does not fit the population.

    >>> draw = poisson(rate=0.0, capacity=2)(jax.random.key(0), jnp.array([10, 20, 30]))
    >>> draw.ids.tolist(), draw.replied.tolist()
    ([3, 3], [False, False])
    """
    _share("rate", rate)

    def sample(key: Array, sizes: Array) -> Draw:
        num_clients = sizes.shape[0]
        _fitting(capacity, num_clients)
        scores = jax.random.uniform(key, (num_clients,))
        lowest, ids = jax.lax.top_k(-scores, capacity)
        return _draw(jnp.where(-lowest < rate, ids, num_clients), num_clients)

    return sample


def dropouts(sampler: Sampler, rate: float) -> Sampler:
    """Each sampled client crashes with probability `rate`: no reply, and its own state stays as it was.

    Raises:
      ValueError: if `rate` is no share.

    >>> dropouts(full(), rate=1.0)(jax.random.key(0), jnp.array([10, 20, 30])).replied.tolist()
    [False, False, False]
    """
    _share("rate", rate)

    def sample(key: Array, sizes: Array) -> Draw:
        draw = sampler(key, sizes)
        lost = _each(jax.random.fold_in(key, 1), draw.ids) < rate
        return draw._replace(replied=draw.replied & ~lost)

    return sample


def stragglers(sampler: Sampler, rate: float, *, partial: bool = True) -> Sampler:
    """Each sampled client is slow with probability `rate` and manages a uniform share of its local steps.

    The server takes the partial work, as in FedProx; with `partial=False` it drops slow clients, as in FedAvg.

    Raises:
      ValueError: if `rate` is no share.

    >>> draw = stragglers(full(), rate=1.0)(jax.random.key(0), jnp.array([10, 20, 30]))
    >>> bool(jnp.all(draw.work < 1)), draw.replied.tolist()
    (True, [True, True, True])
    """
    _share("rate", rate)

    def sample(key: Array, sizes: Array) -> Draw:
        draw = sampler(key, sizes)
        slow = _each(jax.random.fold_in(key, 2), draw.ids) < rate
        if not partial:
            return draw._replace(replied=draw.replied & ~slow)
        share = _each(jax.random.fold_in(key, 3), draw.ids).astype(draw.work.dtype)
        return draw._replace(work=jnp.where(slow, share, draw.work))

    return sample


def _each(key: Array, ids: Array) -> Array:
    """A uniform number for each client, whoever else is in the cohort."""
    return jax.vmap(lambda id: jax.random.uniform(jax.random.fold_in(key, id)))(ids)
