"""Points of a sweep: which run each is, which share a program, which shard runs them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from pfljax.engine import ensemble
from pfljax.engine.site import Hyper
from pfljax.experiment.build import hyperparameters
from pfljax.experiment.changes import overridden
from pfljax.experiment.config import Config, from_config_dict
from pfljax.experiment.sweeps import spaces
from pfljax.experiment.sweeps.spaces import Setting, Space
from pfljax.learning import schedules

SEEDS = ("run.seed", "data.seed")
"""Fields that repeat an experiment; means and intervals are over them."""


class Point(NamedTuple):
    """One run of a sweep."""

    id: str  # of the whole configuration: the same in every process, however its numbers are spelled
    group: str  # points of one group differ in traced numbers and in the seed only: one program serves them
    setting: Setting  # the fields that the sweep sets
    config: Config

    @property
    def chosen(self) -> Setting:
        """The part of the setting that is selected."""
        return {name: value for name, value in self.setting.items() if name not in SEEDS}


def lay_out(config: Config | Mapping[str, Any], space: Space | Mapping[str, Any]) -> list[Point]:
    """The points of a space, each once.

    Args:
      config: what the points share. In a dictionary a solver section follows `local` in what it leaves out, as on the
        command line; a `Config` states all.
      space: settings (`spaces.grid`, `points`, `random`), or a dictionary for `grid`.

    Raises:
      ValueError: if the space is empty, a field is unknown, or a configuration is not valid.
    """
    values = plain_values(config)
    settings = spaces.grid(space) if isinstance(space, Mapping) else spaces.points(space)
    if not settings:
        raise ValueError("the space is empty: give at least one point")
    laid = {}
    for setting in settings:
        point = _point(values, setting)
        laid.setdefault(point.id, point)
    return list(laid.values())


def check_effect(points: Sequence[Point], changes: Iterable[str]) -> None:
    """Refuses fields that change nothing in any of the points.

    Raises:
      ValueError: with the field and what it is for.
    """
    idle = [point.config.idle([point.config.algorithm.name]) for point in points]
    for path in changes:
        if all(path in reasons for reasons in idle):
            raise ValueError(f"{path} {idle[0][path]}")


def plain_values(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain values, as it was given.

    Raises:
      ValueError: if it is not valid.
    """
    if isinstance(config, Config):
        return config.to_dict()
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    from_config_dict(values)
    return spaces.plain(values)


def deal(points: Sequence[Point], shard: tuple[int, int] | None) -> list[Point]:
    """The points of one shard: neighbours by group, in numbers that differ by one at most.

    All shards together have every point once, and N shards of G groups compile at most G + N - 1 programs.

    Raises:
      ValueError: if there is no such shard.
    """
    index, count = shard or (0, 1)
    if not 0 <= index < count:
        raise ValueError(f"shard {index}/{count}: the first number must be from 0 to {count - 1}")
    ordered = [point for group in by_group(points) for point in group]
    return ordered[index * len(ordered) // count : (index + 1) * len(ordered) // count]


def by_group(points: Iterable[Point]) -> list[list[Point]]:
    """Points that one program serves; groups on the same data are neighbours."""
    groups: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        groups.setdefault(digest(point.config.to_dict()["data"]), {}).setdefault(point.group, []).append(point)
    return [group for same_data in groups.values() for group in same_data.values()]


def digest(content: Any) -> str:
    """A short name for plain values; 1 and 1.0, and any order of keys, have the same."""
    text = json.dumps(_canonical(content), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _point(values: dict[str, Any], setting: Setting) -> Point:
    try:
        config = from_config_dict(overridden(values, setting)).resolved()
        content = config.to_dict()
        static = _static(content, hyperparameters(config))
        return Point(digest(content), digest(static), setting, config)
    except ValueError as error:
        raise ValueError(f"point {spaces.spell(setting)}: {error}") from error


def hyper_point(point: Point) -> ensemble.Point:
    """What the engine needs to know of a point."""
    return ensemble.Point(point.config.run.seed, hyperparameters(point.config))


def _static(content: dict[str, Any], hyper: Mapping[str, Hyper]) -> dict[str, Any]:
    """What a program is compiled for: all but the seed, traced numbers, and solvers that the method does not use."""
    content = copy.deepcopy(content)
    del content["run"]["seed"]
    for name in ("tune", "head_local", "personal_local", "server"):
        if f"{name}.lr" not in hyper:
            del content[name]
    for name in hyper:
        section, dot, field = name.rpartition(".")
        for traced in (field, "decay") if field == "lr" else (field,):
            (content[section] or {} if dot else content["algorithm"]).pop(traced, None)
    kinds = {name: schedules.plain(value)["schedule"] for name, value in hyper.items() if callable(value)}
    return content | {"hyper": sorted(hyper)} | ({"schedules": kinds} if kinds else {})


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
