"""Changes of a configuration: some fields set by dotted names, and what of them has an effect."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pfljax import checks, models
from pfljax.experiment.config import PARTITIONS, SOLVED, SOLVERS, CohortConfig, Config
from pfljax.experiment.recipe import (
    ServerConfig,
    SolverConfig,
)
from pfljax.experiment.wrapping import WrappersConfig

_CHOICES: dict[str, Callable[[str], Iterable[str]]] = {
    "algorithm.name": lambda name: (),
    "model.name": lambda name: _options(models.MODELS[name], 2) if name in models.MODELS else (),
    "data.partition.name": lambda name: _options(PARTITIONS[name]) if name in PARTITIONS else (),
}
"""Fields that choose something -> the options that stay when another one is chosen."""


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a configuration with some fields changed, by dotted names.

    What a change makes idle is left behind: options of another method, model or partition, fields of another plan.

    >>> overridden({"algorithm": {"name": "ditto", "lam": 0.1}}, {"algorithm.name": "fedprox", "algorithm.mu": 0.3})
    {'algorithm': {'name': 'fedprox', 'mu': 0.3}}

    Raises:
      ValueError: if there is no such section.
    """
    values, defaults = copy.deepcopy(dict(values)), Config().to_dict()
    for path in sorted(changes, key=lambda path: (path.count("."), not path.endswith(".name"))):
        *sections, last = path.split(".")
        checks.names(sections[:1] or [last], defaults, "config")
        section, default = values, defaults
        for name in sections:
            default = default.get(name)
            default = default if isinstance(default, dict) else {}
            if section.get(name) is None or isinstance(section[name], int | float):
                section[name] = copy.deepcopy(default)
            section = section[name]
            if not isinstance(section, dict):
                raise ValueError(f"{path}: {name!r} is a value, not a section")
        if path in _CHOICES and section.get("name") != changes[path]:
            for option in section.keys() - {*_CHOICES[path](changes[path])}:
                del section[option]
        section[last] = changes[path]
    for name in {path.split(".")[0] for path in changes} & {*SOLVED, "wrappers", "cohort"}:
        for section in SOLVERS if name == "local" else (name,):
            _drop_idle(values, section, changes)
    return values


def check_effect(config: Config, methods: Iterable[str], changes: Iterable[str] | None = None) -> None:
    """Refuses what was set and changes nothing in runs of these methods.

    Args:
      config: the configuration.
      methods: which are run.
      changes: the fields that were set, by dotted names; all that are not as by default if None. A configuration with
        `methods` describes more than one of them, and its sections may be for others.

    Raises:
      ValueError: with the field, its value and what it is for.
    """
    methods = list(methods)
    idle = config.idle(methods)
    if changes is None:
        changes = [] if config.methods else [path for path in idle if _differs(config, path)]
    for path in changes:
        section, _, name = path.partition(".")
        if path in idle:
            raise ValueError(f"config.{path}{f'={_value(config, path)!r}' if name else ''} {idle[path]}")
        if section == "algorithm" and config.algorithm.name not in methods:
            raise ValueError(f"config.{path} is for {config.algorithm.name}, which is not run: set config.methods")
        if section == "methods" and name and name.split(".")[0] not in methods:
            raise ValueError(f"config.{path} is for {name.split('.')[0]}, which is not run: leave it out")


def _options(factory: Callable[..., Any], skip: int = 0) -> list[str]:
    return list(inspect.signature(factory).parameters)[skip:]


def _drop_idle(values: dict[str, Any], section: str, changes: Mapping[str, Any]) -> None:
    cls = {"server": ServerConfig, "wrappers": WrappersConfig, "cohort": CohortConfig}.get(section, SolverConfig)
    if section in changes or not isinstance(given := values.get(section), dict):
        return
    shared = values.get("local") if cls is SolverConfig else None
    for name in checks.idle(cls, {**(shared or {}), **given}):
        if f"{section}.{name}" not in changes:
            given.pop(name, None)


def _value(config: Config, path: str) -> Any:
    section, _, name = path.partition(".")
    return getattr(getattr(config, section), name, None) if name else getattr(config, section)


def _differs(config: Config, path: str) -> bool:
    """Whether a section or a field is not as by default; one of a section that may be left out follows `local`."""
    section, _, name = path.partition(".")
    follows = bool(name) and getattr(Config(), section) is None
    return not follows and _value(config, path) != _value(Config(), path)
