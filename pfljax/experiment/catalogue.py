"""The methods for people: what each does, by family, and all about one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from pfljax import checks
from pfljax.algorithms import FAMILIES, METHODS, Method, method


class Entry(NamedTuple):
    """A method of the catalogue."""

    family: str
    about: str
    sweep: dict[str, tuple[float, float]]  # what is usually tuned, in which range
    needs: list[str]
    down: str  # numbers that a client receives in a round, a formula of those of the model `w` and its parts
    up: str


def entries(family: str | None = None) -> dict[str, Entry]:
    """The methods by name, in the order of their families; those of one family if it is named.

    Raises:
      ValueError: if there is no such family.

    >>> "reptile" in entries("meta-learning"), "ditto" in entries("meta-learning")
    (True, False)
    """
    if family is not None and family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}: {checks.nearest(family, FAMILIES)}")
    order = list(FAMILIES)
    rows = sorted(METHODS.items(), key=lambda item: order.index(item[1].family))
    return {name: _entry(row) for name, row in rows if family in (None, row.family)}


def named(text: str) -> list[str]:
    """The methods that are meant by names, by families, or by `all`, with commas between.

    >>> named("fedavg, memory")
    ['fedavg', 'knn_per']
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    meant = ([*METHODS] if word == "all" else entries(word) if word in FAMILIES else [word] for word in words)
    return list(itertools.chain.from_iterable(meant))


def page(name: str) -> str:
    """All about one method: its equations, arguments, state, wire and source, what it needs, and ranges to tune in.

    Raises:
      ValueError: if there is none of that name.
    """
    row, entry = method(name), _entry(method(name))
    facts: Mapping[str, Any] = {
        "family": f"{row.family}: {FAMILIES[row.family]}",
        "needs": ", ".join(row.needs) or "nothing",
        "ranges": ", ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in entry.sweep.items()) or "none",
        "wire": f"down {row.down}, up {row.up}, in numbers of a model w and its parts",
    }
    told = "\n".join(f"{key + ':':<8} {value}" for key, value in facts.items())
    return f"{name}{inspect.signature(row.factory)}\n\n{inspect.getdoc(row.factory)}\n\n{told}"


def _entry(row: Method) -> Entry:
    return Entry(row.family, _about(row), dict(row.sweep), list(row.needs), row.down, row.up)


def _about(row: Method) -> str:
    """The first sentence of the docstring, without its formulas."""
    return (inspect.getdoc(row.factory) or "").split("\n")[0].split(": ")[0].replace("`", "").rstrip(".")
