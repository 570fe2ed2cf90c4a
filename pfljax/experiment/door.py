"""The two ways to say a run: names on a federation, or a task and algorithms as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from pfljax import engine
from pfljax.data import FederatedData
from pfljax.experiment import named, runs

Names = ParamSpec("Names")
Values = ParamSpec("Values")
Given = TypeVar("Given", covariant=True)


class Either(Protocol[Names, Values, Given]):
    """What is called both ways."""

    @overload
    def __call__(self, *args: Names.args, **options: Names.kwargs) -> Given: ...
    @overload
    def __call__(self, *args: Values.args, **options: Values.kwargs) -> Given: ...


def either(by_names: Callable[Names, Given], by_values: Callable[Values, Given]) -> Either[Names, Values, Given]:
    """`by_names` where a federation or a section comes first, else `by_values`, whose first argument is a task."""

    def called(*args: Any, **options: Any) -> Any:
        first = args[0] if args else options.get("task", options.get("data"))
        chosen: Callable[..., Any] = by_names if isinstance(first, FederatedData | Mapping) else by_values
        return chosen(*args, **options)

    name = by_values.__name__
    called.__name__ = called.__qualname__ = name
    called.__doc__ = f"""`{name}(data, model, ...)` by names, or `{name}(task, ..., data)` of values.

    By names: {by_names.__doc__}
    Of values: {by_values.__doc__}"""
    return called


simulate = either(named.simulate, engine.simulate)
compare = either(named.compare, runs.compare)
