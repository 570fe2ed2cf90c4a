"""Values at the door: a name, a number or a choice that cannot be meant is refused in one sentence with the remedy."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np


class Bounds(NamedTuple):
    """Where a number lies; `above` and `below` are not reached themselves."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether `value` lies there; NaN never does."""
        least, most, above, below = self
        return (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        words = {"of at least": self.least, "of at most": self.most, "above": self.above, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)


Count = Annotated[int, Bounds(least=1)]
Size = Annotated[int, Bounds(least=0)]
Seed = Annotated[int, Bounds(least=0, most=2**32 - 1)]
"""Larger ones repeat the random numbers of smaller ones in JAX."""
Share = Annotated[float, Bounds(least=0, most=1)]
Part = Annotated[float, Bounds(least=0, below=1)]
Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(least=0)]


def each(hint: Any, **values: Any) -> None:
    """Checks named values by one hint, see `value`.

    >>> each(Count, rounds=3, eval_every=0)
    Traceback (most recent call last):
    ValueError: eval_every=0: it must be a whole number of at least 1

    Raises:
      ValueError: with the name, the value and what it must be.
    """
    for name, given in values.items():
        value(given, hint, name)


def value(given: Any, hint: Any, where: str) -> Any:
    """`given` as a type hint has it: whole numbers become floats, lists tuples, numbers of arrays those of Python.

    Numbers are finite, and within the `Bounds` of an annotation. What JAX traces is left alone.

    >>> value(1, Share, "rate"), value([1, 2], tuple[int, ...], "hidden")
    (1.0, (1, 2))

    Raises:
      ValueError: with `where`, the value and what it must be.
    """
    origin = typing.get_origin(hint)
    if origin is Literal:
        return choice(given, typing.get_args(hint), where)
    if origin in (typing.Union, types.UnionType):
        for kind in typing.get_args(hint):
            try:
                return value(given, kind, where)
            except ValueError:
                continue
        _refuse(given, hint, where)
    if origin is Annotated:
        kind, *bounds = typing.get_args(hint)
        made = value(given, kind, where) if _fits(given, kind) else _refuse(given, hint, where)
        if not isinstance(made, jax.core.Tracer) and not all(bound.hold(made) for bound in bounds):
            _refuse(given, hint, where)
        return made
    if not _fits(given, hint):
        _refuse(given, hint, where)
    if hint in (float, int) and not isinstance(given, jax.core.Tracer):
        return hint(given)
    if _lists(origin):
        inner = typing.get_args(hint)
        return tuple(value(item, inner[0], where) for item in given)
    return dict(given) if origin is dict else given


def choice(given: Any, choices: Iterable[Any], where: str) -> Any:
    """`given` if it is one of `choices`.

    Raises:
      ValueError: with the nearest choice, or all of them.
    """
    choices = list(choices)
    if not any(isinstance(given, type(known)) and given == known for known in choices):
        raise ValueError(f"{where}={given!r}: {nearest(given, choices, 'choose')}")
    return given


def names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses names that are not known.

    Raises:
      ValueError: with the nearest known name, or all of them.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(f"unknown {name!r} in {where}: {nearest(name, known)}")


def nearest(given: Any, known: Iterable[Any], otherwise: str = "there are") -> str:
    """`did you mean 'lam'?`, or all that is known where nothing is near.

    >>> nearest("lma", ["mu", "lam"]), nearest("x", ["mu", "lam"])
    ("did you mean 'lam'?", "there are 'mu', 'lam'")
    """
    known = list(known)
    near = difflib.get_close_matches(str(given).lower(), [str(name) for name in known], n=1)
    return f"did you mean {near[0]!r}?" if near else f"{otherwise} {', '.join(map(repr, known)) or 'none'}"


def arguments(factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, skip: int = 0) -> dict[str, Any]:
    """Keyword arguments for `factory` whose names and types fit; its first `skip` parameters are not options.

    Raises:
      ValueError: if a name is unknown, one without a default is missing, or a value is of another type.
    """
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    names(options, [parameter.name for parameter in parameters], where)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"{where} lacks {parameter.name!r}: set {where}.{parameter.name}")
    known = hints(factory)
    return {name: value(given, known[name], f"{where}.{name}") for name, given in options.items()}


def fields(config: Any) -> None:
    """Checks the fields of a frozen dataclass by their hints and keeps them as the hints have them.

    Raises:
      ValueError: with the field, the value and what it must be.
    """
    for name, hint in hints(type(config)).items():
        object.__setattr__(config, name, value(getattr(config, name), hint, name))


@functools.cache
def hints(of: Any) -> dict[str, Any]:
    """The type hints of a function's parameters or of a class's fields, with their bounds."""
    return typing.get_type_hints(of, include_extras=True)


def _fits(given: Any, hint: Any) -> bool:
    """Whether the type is right; a number has to be finite."""
    if hint is float:
        return isinstance(given, jax.core.Tracer) or (_scalar(given, numbers.Real) and _finite(given))
    if hint is int:
        return _scalar(given, numbers.Integral)
    if hint is Any:
        return True
    if hint is jax.Array:
        return False
    origin = typing.get_origin(hint) or hint
    if _lists(origin):
        return isinstance(given, list | tuple)
    return isinstance(given, Mapping if origin is dict else origin)


def _lists(origin: Any) -> bool:
    return isinstance(origin, type) and issubclass(tuple, origin)


def _finite(given: Any) -> bool:
    try:
        return math.isfinite(given)
    except OverflowError:
        return False


def _scalar(given: Any, kind: type) -> bool:
    if isinstance(given, np.ndarray | jax.Array) and given.ndim == 0 and not isinstance(given, jax.core.Tracer):
        given = np.asarray(given)[()]
    return isinstance(given, kind) and not isinstance(given, bool | np.bool_)


def _refuse(given: Any, hint: Any, where: str) -> typing.NoReturn:
    wanted = spell(hint)
    if isinstance(given, float) and not math.isfinite(given):
        wanted = wanted.replace("a number", "a finite number")
    words = [word for kind in typing.get_args(hint) for word in typing.get_args(kind) if isinstance(word, str)]
    near = f"; {hint}" if isinstance(given, str) and "did" in (hint := nearest(given, words)) else ""
    raise ValueError(f"{where}={given!r}: it must be {wanted}{near}")


def spell(hint: Any) -> str:
    """What a hint asks for, in words.

    >>> spell(int | None), spell(Share)
    ('a whole number or None', 'a number from 0 to 1')
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return f"{spell(inner[0])} {inner[1]}"
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spell(kind) for kind in inner if kind is not jax.Array)
    plain = {float: "a number", int: "a whole number", bool: "True or False", str: "text", types.NoneType: "None"}
    if hint in plain:
        return plain[hint]
    if dict in (hint, origin):
        return "a section"
    return "a list" if origin else f"a {getattr(hint, '__name__', hint)}"
