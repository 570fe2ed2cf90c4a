"""Who takes part in a round: cohorts, dropouts, stragglers.

A sampler maps `(key, sizes [N])` to a `Draw`. Cohorts are sets: ids ascend, and the id N marks an empty slot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pfljax import checks
from pfljax.learning.shuffle import permute
from pfljax.printing import in_brief
from pfljax.types import Array, Draw, Sampler

_LOST, _SLOW, _SHARE, _INNER = 1, 2, 3, 4


Change = Callable[[Draw, Array, int], Draw]
"""`(draw, key, N) -> draw`: what happens to a cohort."""


@in_brief
class _Sampled(NamedTuple):
    """A draw and what happens to it afterwards, each with a key that nothing else uses."""

    first: Sampler
    then: tuple[Change, ...] = ()

    def __call__(self, key: Array, sizes: Array) -> Draw:
        draw = self.first(key, sizes)
        for layer, happens in enumerate(self.then):
            draw = happens(draw, jax.random.fold_in(key, _INNER + layer) if layer else key, sizes.shape[0])
        return draw


def _after(sampler: Sampler, happens: Change) -> Sampler:
    """`happens` to the draws of `sampler`. One from elsewhere may use its key in any way, and gets one of its own."""
    if isinstance(sampler, _Sampled):
        return sampler._replace(then=(*sampler.then, happens))
    return _Sampled(lambda key, sizes: sampler(jax.random.fold_in(key, _INNER), sizes), (happens,))


def _draw(ids: Array, num_clients: int) -> Draw:
    ids = jnp.sort(ids)
    return Draw(ids, ids < num_clients, jnp.ones(ids.shape, float))


def _fitting(size: int, num_clients: int) -> None:
    if size > num_clients:
        raise ValueError(f"a cohort of {size} out of {num_clients} clients: choose 1 to {num_clients}")


def full() -> Sampler:
    """All clients, every round.

    >>> full()(jax.random.key(0), jnp.array([10, 20, 30])).ids.tolist()
    [0, 1, 2]
    """
    return _Sampled(lambda key, sizes: _draw(jnp.arange(sizes.shape[0]), sizes.shape[0]))


def uniform(size: int) -> Sampler:
    """`size` clients, all sets equally likely, at a cost that does not grow with the population.

    Raises:
      ValueError: if `size` is no whole number, or, when drawn, if the population is smaller.

    >>> uniform(3)(jax.random.key(0), jnp.array([10, 20, 30])).ids.tolist()
    [0, 1, 2]
    """
    checks.each(checks.Count, size=size)

    def sample(key: Array, sizes: Array) -> Draw:
        _fitting(size, sizes.shape[0])
        return _draw(permute(jnp.arange(size), jnp.asarray(sizes.shape[0]), key), sizes.shape[0])

    return _Sampled(sample)


def weighted(size: int, weights: ArrayLike | Sequence[float] | None = None) -> Sampler:
    """`size` clients without replacement, one after the other with probability in proportion to `weights` [N].

    Without `weights`, in proportion to the clients' numbers of examples. Clients of weight 0 are never drawn: where
    fewer than `size` have more, slots stay empty.

    Raises:
      ValueError: if `size` is no whole number, or weights are negative, not finite or all 0; when drawn, if the
        population is smaller, or is not as large as `weights` is long.

    >>> weighted(2)(jax.random.key(0), jnp.array([10, 0, 30])).ids.tolist()
    [0, 2]
    """
    checks.each(checks.Count, size=size)
    given = None if weights is None else _weights(weights)

    def sample(key: Array, sizes: Array) -> Draw:
        _fitting(size, sizes.shape[0])
        if given is not None and len(given) != sizes.shape[0]:
            raise ValueError(f"{len(given)} weights for {sizes.shape[0]} clients: give one for each")
        chances = jnp.asarray(sizes if given is None else given, float)
        scores = jnp.log(chances) + jax.random.gumbel(key, chances.shape, chances.dtype)
        best, ids = jax.lax.top_k(scores, size)
        return _draw(jnp.where(best > -jnp.inf, ids, sizes.shape[0]), sizes.shape[0])

    return _Sampled(sample)


def _weights(weights: ArrayLike | Sequence[float]) -> np.ndarray:
    try:
        given = np.asarray(weights, float)
    except (TypeError, ValueError):
        raise ValueError(f"weights={weights!r}: give a number for each client") from None
    if given.ndim != 1:
        raise ValueError(f"weights of shape {given.shape}: give a number for each client, [N]")
    wrong = ~(np.isfinite(given) & (given >= 0))
    if wrong.any():
        client = int(np.argmax(wrong))
        raise ValueError(f"weights[{client}]={given[client]}: a weight must be finite and not negative")
    if not given.any():
        raise ValueError("weights are all 0, so nobody could be drawn: give at least one that is positive")
    return given


def poisson(rate: float, capacity: int) -> Sampler:
    """Each client on its own with probability `rate`; at most `capacity` slots, a surplus is turned away at random.

    Raises:
      ValueError: if `rate` is no share or `capacity` no whole number, or, when drawn, if the population is smaller.

    >>> draw = poisson(rate=0.0, capacity=2)(jax.random.key(0), jnp.array([10, 20, 30]))
    >>> draw.ids.tolist(), draw.replied.tolist()
    ([3, 3], [False, False])
    """
    checks.each(checks.Share, rate=rate)
    checks.each(checks.Count, capacity=capacity)

    def sample(key: Array, sizes: Array) -> Draw:
        num_clients = sizes.shape[0]
        _fitting(capacity, num_clients)
        scores = jax.random.uniform(key, (num_clients,))
        lowest, ids = jax.lax.top_k(-scores, capacity)
        return _draw(jnp.where(-lowest < rate, ids, num_clients), num_clients)

    return _Sampled(sample)


def dropouts(sampler: Sampler, rate: float) -> Sampler:
    """Each sampled client crashes with probability `rate`: no reply, and its own state stays as it was.

    Around another `dropouts` it is another chance to crash, independent of the first.

    Raises:
      ValueError: if `rate` is no share.

    >>> dropouts(full(), rate=1.0)(jax.random.key(0), jnp.array([10, 20, 30])).replied.tolist()
    [False, False, False]
    """
    checks.each(checks.Share, rate=rate)

    def lose(draw: Draw, key: Array, num_clients: int) -> Draw:
        lost = _each(jax.random.fold_in(key, _LOST), draw.ids) < rate
        return draw._replace(replied=draw.replied & ~lost)

    return _after(sampler, lose)


def stragglers(sampler: Sampler, rate: float, *, partial: bool = True) -> Sampler:
    """Each sampled client is slow with probability `rate` and manages a uniform share of its local steps.

    The server takes the partial work, as in FedProx; with `partial=False` it drops slow clients, as in FedAvg.
    Around another `stragglers` it is a share of what the client manages there, drawn independently.

    Raises:
      ValueError: if `rate` is no share.

    >>> draw = stragglers(full(), rate=1.0)(jax.random.key(0), jnp.array([10, 20, 30]))
    >>> bool(jnp.all(draw.work < 1)), draw.replied.tolist()
    (True, [True, True, True])
    """
    checks.each(checks.Share, rate=rate)

    def slow_down(draw: Draw, key: Array, num_clients: int) -> Draw:
        slow = _each(jax.random.fold_in(key, _SLOW), draw.ids) < rate
        if not partial:
            return draw._replace(replied=draw.replied & ~slow)
        share = _each(jax.random.fold_in(key, _SHARE), draw.ids).astype(draw.work.dtype)
        return draw._replace(work=jnp.where(slow, share * draw.work, draw.work))

    return _after(sampler, slow_down)


Participation = Literal["cohort", "all"]
"""Who trains in a method: whom the run's sampler draws, or everybody."""


def everyone(sampler: Sampler) -> Sampler:
    """All clients train, every round; the server hears those that `sampler` draws, and their uploads alone count.

    Who crashes in `sampler` does not train, and who is slow there does its share.

    >>> draw = everyone(uniform(1))(jax.random.key(0), jnp.array([10, 20, 30]))
    >>> draw.ids.tolist(), draw.replied.tolist(), int(draw.heard.sum())
    ([0, 1, 2], [True, True, True], 1)
    """

    def all_train(draw: Draw, key: Array, num_clients: int) -> Draw:
        def spread(rest: bool | float, drawn: Array) -> Array:
            return jnp.full(num_clients, rest, drawn.dtype).at[draw.ids].set(drawn, mode="drop")

        heard = draw.replied if draw.heard is None else draw.replied & draw.heard
        return Draw(jnp.arange(num_clients), spread(True, draw.replied), spread(1, draw.work), spread(False, heard))

    return _after(sampler, all_train)


def _each(key: Array, ids: Array) -> Array:
    """A uniform number for each client, whoever else is in the cohort."""
    return jax.vmap(lambda id: jax.random.uniform(jax.random.fold_in(key, id)))(ids)
