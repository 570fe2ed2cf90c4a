"""What a configuration has: each field with its type, default and meaning, read from hints and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, is_dataclass
from dataclasses import fields as parts
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pfljax import checks, experiment, models
from pfljax.algorithms import METHODS, method
from pfljax.experiment.config import Choice, Config
from pfljax.experiment.recipe import PLAIN, SolverConfig, options_of, sections_of


class Field(NamedTuple):
    """One field of a configuration."""

    name: str  # dotted, as the command line has it after `--config.`
    type: str
    default: Any
    meaning: str

    @property
    def shown(self) -> str:
        """The default as the command line has it; nothing for None."""
        return "" if self.default is None else str(self.default).replace(" ", "")


def fields(name: str | None = None) -> list[Field]:
    """The fields of a configuration, in its order.

    Args:
      name: a method: its options, and of the solvers what it reads. If None, all sections.

    Raises:
      ValueError: if the method is unknown.
    """
    reads = None if name is None else {section: {"", *names} for section, names in sections_of(name).items()}
    listed = []
    for field in _of(Config, Config().to_dict()):
        section, _, last = field.name.partition(".")
        if reads is None or section not in experiment.SOLVED or last in reads.get(section, ()):
            listed.append(field)
        if field.name == "algorithm.name" and name is not None:
            listed[-1] = field._replace(default=name)
            listed += _options(name)
    return listed


def _of(cls: type, defaults: Mapping[str, Any], within: str = "") -> Iterator[Field]:
    meanings = _meanings(cls)
    for name, hint in checks.hints(cls).items():
        path, default = f"{within}{name}", defaults[name]
        inner = next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
        if inner is Choice:
            known = {"model": models.MODELS, "algorithm": METHODS, "data.partition": experiment.PARTITIONS}[path]
            yield Field(f"{path}.name", " | ".join(known), default["name"], meanings.get(name, ""))
            options = {key: value for key, value in default.items() if key != "name"}
            kinds = checks.hints(known[default["name"]]) if name != "algorithm" else {}
            for key, value in options.items():
                yield Field(f"{path}.{key}", _brief(kinds[key]), value, f"of {default['name']}")
        elif inner is SolverConfig and default is None:
            yield Field(path, "section, with the fields of local", None, meanings.get(name, ""))
        elif isinstance(inner, type) and default is None:
            yield Field(path, "section", None, meanings.get(name, ""))
            given = {part.name: None if part.default is MISSING else part.default for part in parts(inner)}
            yield from _of(inner, given, f"{path}.")
        elif isinstance(inner, type):
            yield from _of(inner, default, f"{path}.")
        else:
            yield Field(path, _brief(hint), default, meanings.get(name, ""))


def _options(name: str) -> Iterator[Field]:
    row, meanings = method(name), _meanings(method(name).factory)
    parameters = inspect.signature(row.factory).parameters
    for key in options_of(name):
        default = parameters[key].default
        plain = None if key in PLAIN or default is inspect.Parameter.empty else default
        hint = PLAIN.get(key, row.hints()[key])
        yield Field(f"algorithm.{key}", _brief(hint), plain, meanings.get(key, ""))


def _brief(hint: Any) -> str:
    """A type for a narrow column: `number >= 0`, `sgd | adam`."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return " ".join([_brief(inner[0]), *(mark.sign() for mark in inner[1:] if isinstance(mark, checks.Bounds))])
    if origin is Literal:
        return " | ".join(inner)
    if origin in (Union, UnionType):
        return " | ".join(map(_brief, inner))
    return {int: "whole", float: "number", bool: "true | false"}.get(hint) or checks.spell(hint).removeprefix("a ")


def _meanings(of: Callable[..., Any]) -> dict[str, str]:
    """What the section `Args:` of a docstring says of each name."""
    text = inspect.getdoc(of) or ""
    _, _, arguments = text.partition("Args:\n")
    arguments = re.split(r"\n\n|\n(?=\S)", arguments)[0]
    found = {}
    for entry in re.split(r"\n(?=  \S)", "\n" + arguments):
        names, _, meaning = " ".join(entry.split()).partition(": ")
        found |= dict.fromkeys(names.split(", "), meaning.replace("`", ""))
    return found
