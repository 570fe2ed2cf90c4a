"""Who takes part in a round: cohorts, dropouts, stragglers, selectors.

A sampler maps `(key, sizes [N])` to a `Draw`. Cohorts are sets: ids ascend, and the id N marks an empty slot.
A selector is a sampler with a memory of what the clients have reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pfljax import checks
from pfljax.learning.local import mean_loss
from pfljax.learning.shuffle import permute
from pfljax.printing import brief, in_brief
from pfljax.types import Algorithm, Array, ClientData, Draw, Reply, Sampler, Selector, Task, Tree

_LOST, _SLOW, _SHARE, _INNER, _TIES, _REPORT = 1, 2, 3, 4, 1 << 16, 2**32 - 2


Chooser = TypeVar("Chooser", Sampler, Selector)

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


def _after(sampler: Any, happens: Change) -> Any:
    """`happens` to the draws of `sampler`. One from elsewhere may use its key in any way, and gets one of its own."""
    if isinstance(sampler, Selector):
        return sampler._replace(sampler=lambda memory: _after(sampler.sampler(memory), happens))
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


def dropouts(sampler: Chooser, rate: float) -> Chooser:
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


def stragglers(sampler: Chooser, rate: float, *, partial: bool = True) -> Chooser:
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


def selector(chooser: Sampler | Selector) -> Selector:
    """A sampler as a selector that remembers nothing; a selector as it is.

    >>> selector(full()).init(3)
    ()
    """
    if isinstance(chooser, Selector):
        return chooser
    return Selector(lambda num_clients: (), lambda memory: chooser, lambda memory, draw, metrics: memory)


def power_of_choice(size: int, candidates: int) -> Selector:
    """Of `candidates` clients, drawn by their numbers of examples, the `size` with the highest losses.

    The variant rpow-d: a client's loss is the last that it reported, infinite before it took part; equals are told
    apart at random. A larger d = `candidates` favours high losses more; d = `size` is `weighted(size)`.

    Args:
      size: clients of a round, m.
      candidates: d, from `size` to the population.

    Raises:
      ValueError: if `candidates` is below `size`, or, when drawn, above the population.

    Deviations from the source: the loss is that of the model received, over all examples of the client (see
    `reporting`); there it is the mean over the minibatches of the last local training. Source: Cho et al., "Client
    Selection in Federated Learning: Convergence Analysis and Power-of-Choice Selection Strategies", 2020, section 4.

    >>> losses = jnp.array([1.0, 3.0, 2.0])
    >>> power_of_choice(1, candidates=3).sampler(losses)(jax.random.key(0), jnp.array([10, 20, 30])).ids.tolist()
    [1]
    """
    checks.each(checks.Count, size=size, candidates=candidates)
    if candidates < size:
        raise ValueError(f"candidates={candidates} for a cohort of {size}: draw at least {size}")
    drawn = weighted(candidates)

    def sampler(losses: Array) -> Sampler:
        def sample(key: Array, sizes: Array) -> Draw:
            num_clients = sizes.shape[0]
            if candidates > num_clients:
                raise ValueError(f"candidates={candidates} of {num_clients} clients: choose {size} to {num_clients}")
            ids = drawn(key, sizes).ids
            chance = jax.random.uniform(jax.random.fold_in(key, _TIES), ids.shape)
            known = jnp.where(ids < num_clients, jnp.take(losses, ids, mode="clip"), -jnp.inf)
            return _draw(ids[jnp.lexsort((-chance, -known))[:size]], num_clients)

        return _Sampled(sample)

    def observe(losses: Array, draw: Draw, metrics: Mapping[str, Array]) -> Array:
        heard = draw.replied if draw.heard is None else draw.heard
        told = jnp.where(heard, metrics["loss"], jnp.take(losses, draw.ids, mode="clip"))
        return losses.at[draw.ids].set(told.astype(losses.dtype), mode="drop")

    return Selector(lambda num_clients: jnp.full(num_clients, jnp.inf), sampler, observe, ("loss",))


def reporting(algorithm: Algorithm, task: Task) -> Algorithm:
    """`algorithm` whose clients also report the `loss` f_i(w) of the common model as they receive it.

    Raises:
      ValueError: if the algorithm has no common model.
    """
    common = algorithm.server_model
    if common is None:
        raise ValueError(
            f"{brief(algorithm.client_update)} has no common model whose loss its clients could report: choose "
            "a sampler that needs no reports"
        )

    def client_update(download: Tree, client: Tree, data: ClientData, key: Array) -> Reply:
        reply = algorithm.client_update(download, client, data, key)
        loss = mean_loss(task.loss, common(download, client), data, jax.random.fold_in(key, _REPORT))
        return reply._replace(metrics={**reply.metrics, "loss": loss})

    return algorithm._replace(client_update=client_update)


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
