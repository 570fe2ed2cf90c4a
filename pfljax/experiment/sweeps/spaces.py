"""Spaces: which points a sweep visits.

A space is a list of settings; a setting gives values to fields of a configuration, by the dotted names that the command
line has (`local.lr`, `algorithm.lam`, `run.seed`, `data.partition`). Lists add up: `grid(...) + points(...)`.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from pfljax import checks
from pfljax.algorithms import method

Setting = dict[str, Any]
Space = list[Setting]


class Distribution(Protocol):
    """What values are drawn from: a `Range`, or any frozen distribution of `scipy.stats`."""

    def ppf(self, q: Any) -> Any:
        """The quantile function."""
        ...


class Range(NamedTuple):
    """Numbers between two bounds."""

    low: float
    high: float
    log: bool = False  # uniform in the logarithm
    whole: bool = False  # whole numbers, both bounds included

    def ppf(self, q: Any) -> Any:
        """The value below which the share `q` of all draws lies."""
        if self.whole:
            return np.minimum(np.floor(self.low + q * (self.high - self.low + 1)), self.high).astype(int)
        if self.log:
            return np.exp(math.log(self.low) + q * (math.log(self.high) - math.log(self.low)))
        return self.low + q * (self.high - self.low)


@checks.by_hints()
def uniform(low: float, high: float) -> Range:
    """Numbers between `low` and `high`.

    Raises:
      ValueError: unless low < high.
    """
    return _ordered(Range(float(low), float(high)))


@checks.by_hints()
def loguniform(low: checks.Positive, high: float) -> Range:
    """Numbers between `low` and `high`, uniform in their logarithm.

    Raises:
      ValueError: unless 0 < low < high.
    """
    return _ordered(Range(float(low), float(high), log=True))


@checks.by_hints()
def integers(low: int, high: int) -> Range:
    """Whole numbers from `low` to `high`, both included.

    Raises:
      ValueError: unless low < high.
    """
    return _ordered(Range(low, high, whole=True))


def grid(values: Mapping[str, Any]) -> Space:
    """All combinations.

    Args:
      values: field -> its values, or one value.

    >>> grid({"local.lr": [0.01, 0.1], "run.seed": range(2)})
    [{'local.lr': 0.01, 'run.seed': 0}, {'local.lr': 0.01, 'run.seed': 1},
     {'local.lr': 0.1, 'run.seed': 0}, {'local.lr': 0.1, 'run.seed': 1}]

    Raises:
      ValueError: if a field has no values, or a distribution.
    """
    columns = {name: _values(name, column) for name, column in values.items()}
    return points(dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values()))


def points(settings: Iterable[Mapping[str, Any]]) -> Space:
    """The settings as they are given.

    >>> points([{"local.lr": 0.1, "local.epochs": 1}, {"local.lr": 0.02, "local.epochs": 5}])
    [{'local.lr': 0.1, 'local.epochs': 1}, {'local.lr': 0.02, 'local.epochs': 5}]
    """
    known = checks.value(list(settings), list[Mapping[str, Any]], "settings")
    return [{str(name): plain(value) for name, value in setting.items()} for setting in known]


def random(
    count: int, ranges: Mapping[str, Distribution | Iterable[Any]], *, seed: int = 0, seeds: Iterable[int] | None = None
) -> Space:
    """`count` settings at random, each with every one of `seeds`.

    A larger `count` extends the same list, and another field leaves the draws of the others as they were.

    Args:
      count: number of draws.
      ranges: field -> `uniform`, `loguniform`, `integers`, a frozen distribution of `scipy.stats`, or a list of values.
      seed: of the draws.
      seeds: values of `run.seed` that each draw is run with; left as the configuration has it if None.

    >>> [s["run.seed"] for s in random(2, {"local.lr": loguniform(1e-3, 1)}, seeds=range(3))]
    [0, 1, 2, 0, 1, 2]

    Raises:
      ValueError: if `count` is below 1, or a field has no values.
    """
    checks.each(checks.Count, count=count)
    checks.each(checks.Size, seed=seed)
    columns = {}
    for name, values in ranges.items():
        quantiles = np.random.default_rng([seed, *name.encode()]).random(count)
        if callable(getattr(values, "ppf", None)):
            columns[name] = values.ppf(quantiles)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            choices = _values(name, values)
            columns[name] = [choices[int(q * len(choices))] for q in quantiles]
    drawn = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if seeds is None:
        return points(drawn)
    return points({**setting, "run.seed": number} for setting in drawn for number in list(seeds))


def of(name: str) -> dict[str, Range]:
    """The usual ranges of a method's hyperparameters and of the local learning rate, for `random`.

    Bounds that are a factor of ten or more apart are uniform in the logarithm.

    >>> of("ditto")
    {'algorithm.lam': Range(low=0.01, high=2.0, log=True, whole=False),
     'local.lr': Range(low=0.001, high=1.0, log=True, whole=False)}

    Raises:
      ValueError: if the method is unknown.
    """
    row = method(name)
    ranges = {
        f"algorithm.{key}": loguniform(low, high) if low > 0 and high / low >= 10 else uniform(low, high)
        for key, (low, high) in row.sweep.items()
    }
    solved = {"local", "optimizer"} & set(inspect.signature(row.factory).parameters)
    return ranges | ({"local.lr": loguniform(1e-3, 1.0)} if solved else {})


def parse(text: str) -> tuple[str, Any]:
    """A field and its values from `NAME=VALUES`, as the command line has them.

    >>> parse("local.lr=0.01,0.1"), parse("run.seed=0:3"), parse("algorithm.name=ditto,fedavg")
    (('local.lr', [0.01, 0.1]), ('run.seed', [0, 1, 2]), ('algorithm.name', ['ditto', 'fedavg']))
    >>> parse("model.hidden=(50,),(100,50)"), parse("algorithm.lam=uniform(0, 2)")
    (('model.hidden', [(50,), (100, 50)]), ('algorithm.lam', Range(low=0.0, high=2.0, log=False, whole=False)))

    Raises:
      ValueError: if it is of no such form.
    """
    name, equals, values = text.partition("=")
    if not equals or not name or not values:
        raise ValueError(f"{text!r}: write NAME=VALUE,VALUE,... or NAME=FIRST:END or NAME=loguniform(LOW, HIGH)")
    if re.fullmatch(r"-?\d+:-?\d+(:-?0*[1-9]\d*)?", values):
        return name, list(range(*map(int, values.split(":"))))
    if call := re.fullmatch(r"(\w+)\((.*)\)", values):
        kinds = {kind.__name__: kind for kind in (uniform, loguniform, integers)}
        checks.choice(call[1], kinds, name)
        bounds = [literal(bound.strip()) for bound in call[2].split(",")]
        if len(bounds) != 2 or any(isinstance(bound, str) for bound in bounds):
            raise ValueError(f"{text!r}: write {call[1]}(LOW, HIGH)")
        return name, kinds[call[1]](*bounds)
    listed = literal(f"[{values}]")
    return name, listed if isinstance(listed, list) else [literal(part.strip()) for part in values.split(",")]


def literal(text: str) -> Any:
    """A value as Python writes it; anything else is text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def spell(setting: Setting) -> str:
    """A setting in one line."""
    return ", ".join(f"{name}={brief(value)}" for name, value in setting.items())


def brief(value: Any) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Numbers of arrays as Python has them, at any depth."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value


def _ordered(bounds: Range) -> Range:
    if not bounds.low < bounds.high:
        raise ValueError(f"a range from {bounds.low} to {bounds.high}: the first bound must be below the second")
    return bounds


def _values(name: str, values: Any) -> Sequence[Any]:
    if callable(getattr(values, "ppf", None)):
        raise ValueError(f"{name}={values}: a grid needs values; distributions are for spaces.random")
    listed = [values] if isinstance(values, str | Mapping) or not isinstance(values, Iterable) else list(values)
    if not listed:
        raise ValueError(f"{name}: there are no values to sweep over")
    return listed
