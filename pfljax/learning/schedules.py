"""Schedules: hyperparameters as functions of the round.

Where a hyperparameter is a number, a function of the round ([], 0 in the first round) will do: one of these, or
any optax schedule. The numbers of these are traced, so one compiled program serves all their values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from pfljax import checks
from pfljax.types import Array, Tree

Number = Array | float
Schedule = Callable[[Any], Any]
"""`round [] -> value []`."""


def constant(value: Number, *, warmup: Number = 0) -> Schedule:
    """The same value in every round, after `warmup` rounds of rising to it: `value min(1, (t + 1) / warmup)`.

    >>> [float(constant(0.5, warmup=2)(round)) for round in range(3)]
    [0.25, 0.5, 0.5]
    """
    return Partial(_constant, value=value, warmup=warmup)


def linear(start: Number, end: Number = 0.0, *, rounds: Number, warmup: Number = 0) -> Schedule:
    """From `start` to `end` in a straight line: `start + (end - start) min(t / rounds, 1)`; warm-up as in `constant`.

    >>> [float(linear(1.0, 0.5, rounds=2)(round)) for round in range(4)]
    [1.0, 0.75, 0.5, 0.5]
    """
    return Partial(_linear, start=start, end=end, rounds=rounds, warmup=warmup)


def cosine(start: Number, end: Number = 0.0, *, rounds: Number, warmup: Number = 0) -> Schedule:
    """From `start` to `end` along half a cosine: `end + (start - end) (1 + cos(pi min(t / rounds, 1))) / 2`.

    Warm-up as in `constant`. Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5.

    >>> [round(float(cosine(1.0, rounds=2)(number)), 6) for number in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    """
    return Partial(_cosine, start=start, end=end, rounds=rounds, warmup=warmup)


def exponential(start: Number, decay: Number, *, every: Number = 1, warmup: Number = 0) -> Schedule:
    """`start decay^(t / every)`; warm-up as in `constant`.

    >>> [float(exponential(1.0, 0.5)(round)) for round in range(3)]
    [1.0, 0.5, 0.25]
    """
    return Partial(_exponential, start=start, decay=decay, every=every, warmup=warmup)


def step(start: Number, decay: Number, *, every: Number, warmup: Number = 0) -> Schedule:
    """`start decay^floor(t / every)`; warm-up as in `constant`.

    >>> [float(step(1.0, 0.5, every=2)(round)) for round in range(4)]
    [1.0, 1.0, 0.5, 0.5]
    """
    return Partial(_step, start=start, decay=decay, every=every, warmup=warmup)


KINDS: dict[str, Callable[..., Schedule]] = {
    make.__name__: make for make in (constant, linear, cosine, exponential, step)
}
"""Name -> schedule, as a configuration means it."""


_SPELLED = {"start": "from", "end": "to"}
"""Arguments that a configuration calls otherwise."""

_HINTS = dict.fromkeys(("rounds", "every", "decay"), checks.Positive) | {"warmup": checks.NotNegative}


def read(described: Mapping[str, Any], hint: Any, where: str, rounds: int) -> Schedule:
    """The schedule that a configuration describes.

    Args:
      described: `{"schedule": name, argument: number, ...}`, with `from` and `to` for `start` and `end`.
      hint: what the values must be, see `checks.value`.
      where: the hyperparameter's name, for messages.
      rounds: of the run, which a schedule lasts unless it says otherwise.

    >>> schedule = read({"schedule": "linear", "from": 1.0, "to": 0.5}, float, "local.lr", rounds=10)
    >>> float(schedule(jnp.asarray(5)))
    0.75

    Raises:
      ValueError: if there is no such schedule, a name is unknown or missing, or a number is out of range.
    """
    if "schedule" not in described:
        raise ValueError(f"{where}={dict(described)!r}: give a number, or say which, as {where}.schedule='cosine' does")
    make = KINDS[checks.choice(described["schedule"], KINDS, f"{where}.schedule")]
    parameters = inspect.signature(make).parameters
    known = {_SPELLED.get(name, name): name for name in parameters}
    given = {"rounds": rounds} if "rounds" in known else {}
    given |= {name: number for name, number in described.items() if name != "schedule"}
    checks.names(given, known, where)
    for name, argument in known.items():
        if name not in given and parameters[argument].default is inspect.Parameter.empty:
            raise ValueError(f"{where} lacks {name!r}: set {where}.{name}")
    return make(
        **{
            known[name]: checks.value(number, _HINTS.get(name, hint), f"{where}.{name}")
            for name, number in given.items()
        }
    )


def number(value: Any, hint: Any, where: str, rounds: int) -> float | Schedule:
    """A hyperparameter as a configuration has it: a number, or what `read` takes; arguments as there.

    >>> number(1, float, "local.lr", rounds=10)
    1.0
    """
    return read(value, hint, where, rounds) if isinstance(value, Mapping) else float(value)


def traced(value: Any) -> Tree:
    """A hyperparameter as a tree whose leaves are arrays: a number, or a schedule with its numbers."""
    tree = Partial(value) if callable(value) and not isinstance(value, Partial) else value
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), tree)


def at(values: Mapping[str, Tree], round: Array | int) -> dict[str, Any]:
    """The hyperparameters of one round."""
    return {name: value(round) if callable(value) else value for name, value in values.items()}


def plain(value: Any) -> Any:
    """A hyperparameter for a report: a number, or what describes a schedule, as `read` takes it."""
    if not callable(value):
        return float(value)
    if not isinstance(value, Partial):
        return {"schedule": getattr(value, "__qualname__", type(value).__name__)}
    numbers = {_SPELLED.get(name, name): float(number) for name, number in value.keywords.items()}
    return {"schedule": value.func.__name__.removeprefix("_")} | numbers


def _warmed(value: Array, t: Array, warmup: Array) -> Array:
    return value * jnp.minimum((t + 1) / jnp.maximum(warmup, 1), 1)


def _constant(round: Array, *, value: Array, warmup: Array) -> Array:
    return _warmed(jnp.asarray(value, float), jnp.asarray(round, float), warmup)


def _linear(round: Array, *, start: Array, end: Array, rounds: Array, warmup: Array) -> Array:
    t = jnp.asarray(round, float)
    return _warmed(start + (end - start) * jnp.minimum(t / rounds, 1), t, warmup)


def _cosine(round: Array, *, start: Array, end: Array, rounds: Array, warmup: Array) -> Array:
    t = jnp.asarray(round, float)
    return _warmed(end + (start - end) * (1 + jnp.cos(jnp.pi * jnp.minimum(t / rounds, 1))) / 2, t, warmup)


def _exponential(round: Array, *, start: Array, decay: Array, every: Array, warmup: Array) -> Array:
    t = jnp.asarray(round, float)
    return _warmed(start * decay ** (t / every), t, warmup)


def _step(round: Array, *, start: Array, decay: Array, every: Array, warmup: Array) -> Array:
    t = jnp.asarray(round, float)
    return _warmed(start * decay ** jnp.floor(t / every), t, warmup)
