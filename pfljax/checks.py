"""Values at the door: a name, a number or a choice that cannot be meant is refused in one sentence with the remedy."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from pfljax.types import LocalSolver, Mask, Sampler

Called = TypeVar("Called", bound=Callable[..., Any])

_PLAIN = {float: "a number", int: "a whole number", bool: "True or False", str: "text", types.NoneType: "None"}

_FUNCTIONS: dict[Any, str] = {
    LocalSolver: "a solver, such as pfl.descent(optax.sgd(0.1), pfl.epochs(1, batch_size=10))",
    Mask: "a mask, such as pfl.masks.head(model)",
    Sampler: "a sampler, such as pfl.sampling.uniform(5)",
}
_MADE = {
    "Algorithm": "an algorithm, such as pfl.algorithms.fedavg(task, local)",
    "Callback": "a callback, such as pfl.callbacks.Printing()",
    "Choice": "a Choice, such as Choice('ditto', {'lam': 0.5})",
    "Config": "a Config, such as pfl.experiment.from_config_dict({'run': {'rounds': 20}})",
    "FederatedData": "a federation, such as pfl.federate(pfl.load('digits'), pfl.dirichlet(20, 0.1))",
    "GradientTransformation": "an optimizer, such as optax.sgd(0.1)",
    "Model": "a model, such as pfl.models.mlp((8, 8, 1), 10) or pfl.models.from_linen(module, shape)",
    "Plan": "a plan, such as pfl.epochs(1, batch_size=10)",
    "Reduce": "a reduction, such as pfl.reduce.mean",
    "State": "a state, such as result.state",
    "ServerOptimizer": "a server optimizer, such as pfl.fedopt(optax.adam(0.01))",
    "Task": "a task, such as pfl.classification(model)",
}


class Bounds(NamedTuple):
    """Where a number lies; `above` and `below` are not reached themselves."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def hold(self, value: float) -> bool:
        """Whether `value` lies there; NaN never does."""
        least, most, above, below = self
        value = float(value)  # an array of JAX would be traced, where others are
        return (
            (least is None or value >= least)
            and (most is None or value <= most)
            and (above is None or value > above)
            and (below is None or value < below)
        )

    def sign(self) -> str:
        """In signs: `>= 0, < 1`."""
        signs = {">=": self.least, ">": self.above, "<=": self.most, "<": self.below}
        return ", ".join(f"{sign} {bound}" for sign, bound in signs.items() if bound is not None)

    def __str__(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}"
        words = {"of at least": self.least, "of at most": self.most, "above": self.above, "below": self.below}
        return " and ".join(f"{word} {bound}" for word, bound in words.items() if bound is not None)


class When(NamedTuple):
    """Of a field that counts only where another one has one of these values; without values, where it is not 0."""

    field: str
    values: tuple[str, ...] = ()

    def met(self, config: Mapping[str, Any]) -> bool:
        """Whether the field counts."""
        return config[self.field] in self.values if self.values else bool(config[self.field])

    def __str__(self) -> str:
        return f"{self.field}={' or '.join(map(repr, self.values))}" if self.values else f"{self.field} above 0"


Count = Annotated[int, Bounds(least=1)]
Size = Annotated[int, Bounds(least=0)]
Seed = Annotated[int, Bounds(least=0, most=2**32 - 1)]
"""Larger ones repeat the random numbers of smaller ones in JAX."""
Share = Annotated[float, Bounds(least=0, most=1)]
Part = Annotated[float, Bounds(least=0, below=1)]
Positive = Annotated[float, Bounds(above=0)]
NotNegative = Annotated[float, Bounds(least=0)]


def classes(labels: Any, method: str) -> None:
    """Refuses labels [T, ...] that are not one class for each example.

    Raises:
      ValueError: for real numbers, and for several labels an example.

    >>> classes(np.zeros((4, 2)), "fedrod")
    Traceback (most recent call last):
    ValueError: fedrod needs one class for each example, and labels are float64[., 2]: choose other data, or fedavg
    """
    kind, shape = np.dtype(labels.dtype), np.shape(labels)[1:]
    if kind.kind not in "iu" or shape:
        text = ", ".join([".", *map(str, shape)])
        raise ValueError(
            f"{method} needs one class for each example, and labels are {kind}[{text}]: choose other data, or fedavg"
        )


def public(shown: Any, does: str, *, labels: bool = False) -> Any:
    """The public examples, refused where there are none.

    Args:
      shown: of a cohort, or the rows that a client sees.
      does: what they are for.
      labels: whether theirs are read.

    Raises:
      ValueError: if there are none.

    >>> public(None, "feddf distils on")
    Traceback (most recent call last):
    ValueError: feddf distils on examples that everybody sees, and there are none: give them with ...
    """
    if shown is None or (isinstance(shown.size, int) and not shown.size):
        given = "x, y" if labels else "x"
        raise ValueError(
            f"{does} examples that everybody sees, and there are none: give them with data.with_public({given}), or "
            "set some aside with federate(..., public=0.1)"
        )
    return shown


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
        fitting = (kind for kind in typing.get_args(hint) if _fits(given, kind))
        return value(given, next(fitting, None) or _refuse(given, hint, where), where)
    if origin is Annotated:
        kind, *marks = typing.get_args(hint)
        bounds = [mark for mark in marks if isinstance(mark, Bounds)]
        if bounds and not (_fits(given, kind) and (isinstance(given, Tracer) or all(b.hold(given) for b in bounds))):
            _refuse(given, hint, where)
        return value(given, kind, where)
    if not _fits(given, hint):
        _refuse(given, hint, where)
    if hint in (float, int) and not isinstance(given, Tracer):
        return hint(given)
    if _lists(origin):
        inner = typing.get_args(hint)
        return tuple(value(item, inner[0], where) for item in given)
    if _maps(origin):
        inner = typing.get_args(hint)[1]
        return {name: value(item, inner, f"{where}[{name!r}]") for name, item in given.items()}
    return given


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
            raise ValueError(f"{where} takes no {name!r}: {nearest(name, known)}")


def nearest(given: Any, known: Iterable[Any], otherwise: str = "there are") -> str:
    """`did you mean 'lam'?`, or all that is known where nothing is near.

    >>> nearest("lma", ["mu", "lam"]), nearest("x", ["mu", "lam"])
    ("did you mean 'lam'?", "there are 'mu', 'lam'")
    """
    known = list(known)
    close = near(given, known)
    return f"{otherwise} {', '.join(map(repr, known)) or 'none'}" if close is None else f"did you mean {close!r}?"


def near(given: Any, known: Iterable[Any]) -> str | None:
    """The known name that is spelled almost like `given`, if there is one."""
    close = difflib.get_close_matches(str(given).lower(), [str(name) for name in known], n=1)
    return close[0] if close else None


def arguments(factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, skip: int = 0) -> dict[str, Any]:
    """Keyword arguments for `factory` whose names and types fit; its first `skip` parameters are not options.

    Raises:
      ValueError: if a name is unknown, one without a default is missing, or a value is of another type.
    """
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    names(options, [parameter.name for parameter in parameters], where)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"{where} lacks {parameter.name!r}: give it, as {where}.{parameter.name}=...")
    known = hints(factory)
    return {name: value(given, known[name], f"{where}.{name}") for name, given in options.items()}


def fields(config: Any) -> None:
    """Checks the fields of a frozen dataclass by their hints and keeps them as the hints have them.

    Raises:
      ValueError: with the field, the value and what it must be, or why it has no effect.
    """
    for name, hint in hints(type(config)).items():
        object.__setattr__(config, name, value(getattr(config, name), hint, name))
    values = vars(config)
    for name, reason in idle(type(config), values).items():
        if values[name] != defaults(type(config))[name]:
            raise ValueError(f"{name}={values[name]!r} {reason}")


def idle(cls: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a dataclass with these values that have no effect, each with the reason."""
    values = {**defaults(cls), **values}
    reasons = {}
    for name, hint in hints(cls).items():
        for mark in typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ():
            if isinstance(mark, When) and not mark.met(values):
                reasons[name] = f"is for {mark}, not {values[mark.field]!r}: set {mark.field} or leave it out"
    return reasons


def defaults(cls: type) -> dict[str, Any]:
    """What the fields of a dataclass are where they are left out; those without a default are missing."""
    made = {}
    for each in dataclasses.fields(cls):
        if each.default is not dataclasses.MISSING:
            made[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            made[each.name] = each.default_factory()
    return made


def spelled(*, rest: Callable[..., Any] | None = None) -> Callable[[Called], Called]:
    """A decorator: a call with a wrong name, or without what is needed, gets a sentence with the nearest right name.

    Args:
      rest: where the `**options` of a function go, whose names are known too.
    """
    return functools.partial(_guarded, rest=rest, known={})


def by_hints(
    *, rest: Callable[..., Any] | None = None, known: Mapping[str, Any] | None = None
) -> Callable[[Called], Called]:
    """`spelled`, and every argument is checked by its type hint, see `value`.

    Args:
      rest: where the `**options` of a function go.
      known: hints that take the place of those that are written.
    """
    return functools.partial(_guarded, rest=rest, known=known)


def _guarded(of: Called, rest: Callable[..., Any] | None, known: Mapping[str, Any] | None) -> Called:
    made = isinstance(of, type)
    call: Any = of.__init__ if made else of
    label = getattr(of, "__name__", type(of).__name__).replace("<lambda>", "the function")
    signature = inspect.signature(of)
    named = _named(of) if rest is None else list(dict.fromkeys([*_named(of), *_named(rest)]))
    takes_any = rest is None and any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())

    @functools.wraps(call)
    def checked(*args: Any, **options: Any) -> Any:
        for name in () if takes_any else options:
            if name not in named:
                raise ValueError(f"{label} takes no {name!r}: {nearest(name, named)}")
        try:
            given = signature.bind(*args[made:], **options).arguments
        except TypeError as error:
            raise ValueError(f"{label}: {error}; it takes {', '.join(named)}") from None
        wanted = hints(call) if known is None else known
        for name, argument in given.items():
            if name in wanted:
                value(argument, wanted[name], f"{label}: {name}")
        return call(*args, **options)

    vars(checked)["named"] = named
    if not made:
        return checked  # pyright: ignore[reportReturnType]
    of.__init__ = checked
    return of  # pyright: ignore[reportReturnType]


def _named(of: Callable[..., Any]) -> list[str]:
    """The parameters that have a name, with those of what `**options` go to."""
    passed = getattr(of.__init__ if isinstance(of, type) else of, "named", None)
    return passed or [
        name for name, each in inspect.signature(of).parameters.items() if each.kind is not each.VAR_KEYWORD
    ]


@contextmanager
def within(where: str, joint: str = ".") -> Iterator[None]:
    """What is refused of a section says where it stands."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}{joint}{error}") from error


@functools.cache
def hints(of: Any) -> dict[str, Any]:
    """The type hints of a function's parameters or of a class's fields, with their bounds."""
    return typing.get_type_hints(of, include_extras=True)


def _fits(given: Any, hint: Any) -> bool:
    """Whether the type is right; a number has to be finite."""
    if hint is float:
        return isinstance(given, Tracer) or (_scalar(given, numbers.Real) and _finite(given))
    if hint is int:
        return _scalar(given, numbers.Integral)
    if hint is Any:
        return True
    origin, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is Annotated:
        return _fits(given, inner[0])
    if origin is Literal:
        return any(type(given) is type(word) and given == word for word in inner)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(given, kind) for kind in inner)
    if origin is Callable:
        return _callable(given, inner[0])
    if _lists(origin):
        fixed = origin is tuple and ... not in inner
        listed = isinstance(given, list | tuple | range) and not hasattr(given, "_fields")  # what has names is no list
        return listed and (len(given) == len(inner) or not fixed)
    return isinstance(given, Mapping if hint is dict or _maps(origin) else origin)


def _callable(given: Any, parameters: Any) -> bool:
    """Whether `given` can be called with so many arguments; what is to be made by a call first cannot."""
    if not callable(given) or isinstance(given, type):
        return False
    try:
        if parameters is not ...:
            inspect.signature(given).bind(*parameters)
    except TypeError:
        return False
    except ValueError:  # a builtin does not say
        return True
    return True


def _lists(origin: Any) -> bool:
    return origin is list or (isinstance(origin, type) and issubclass(tuple, origin))


def _maps(origin: Any) -> bool:
    return origin in (dict, Mapping)


def _finite(given: Any) -> bool:
    try:
        return math.isfinite(given)
    except OverflowError:
        return False


def _scalar(given: Any, kind: type) -> bool:
    if isinstance(given, np.ndarray | jax.Array) and given.ndim == 0 and not isinstance(given, Tracer):
        given = np.asarray(given)[()]
    return isinstance(given, kind) and not isinstance(given, bool | np.bool_)


def _refuse(given: Any, hint: Any, where: str) -> typing.NoReturn:
    wanted = spell(hint)
    if isinstance(given, float) and not math.isfinite(given):
        wanted = wanted.replace("a number", "a finite number")
    words = [word for kind in typing.get_args(hint) for word in typing.get_args(kind) if isinstance(word, str)]
    hinted = f"; {nearest(given, words)}" if isinstance(given, str) and near(given, words) else ""
    raise ValueError(f"{where}{_shown(given)}: it must be {wanted}{hinted}")


def _shown(given: Any) -> str:
    if isinstance(given, str | numbers.Number | None) or (type(given) in (list, tuple, dict) and len(repr(given)) < 80):
        return f"={given!r}"
    if inspect.isroutine(given) or isinstance(given, type):
        return f" is {'the class' if isinstance(given, type) else 'the function'} {given.__name__}"
    return f" is {'an' if type(given).__name__[0] in 'AEIOU' else 'a'} {type(given).__name__}"


def spell(hint: Any) -> str:
    """What a hint asks for, in words.

    >>> spell(int | None), spell(Share)
    ('a whole number or None', 'a number from 0 to 1')
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([spell(inner[0]), *(str(mark) for mark in inner[1:] if isinstance(mark, Bounds))])
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spell(kind) for kind in inner if kind is not jax.Array)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if hint is dict or _maps(origin):
        return f"a dictionary, each {spell(inner[1])}" if inner and inner[1] is not Any else "a dictionary"
    if origin is None or origin is Callable:
        name = getattr(hint, "__name__", str(hint))
        return _MADE.get(name, f"a {name}") if origin is None else _FUNCTIONS.get(hint, "a function")
    return f"a list of {len(inner)}" if origin is tuple and ... not in inner else "a list"
