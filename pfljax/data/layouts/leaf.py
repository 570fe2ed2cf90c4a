"""LEAF's JSON: `train/*.json` and `test/*.json`, each with users, their inputs and their labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pfljax.data import limits
from pfljax.printing import brief


class Part(NamedTuple):
    """The examples of one split, client by client."""

    x: list[Any]  # T
    y: list[Any]  # T
    clients: np.ndarray  # [T] names


def find(path: Path) -> Path | None:
    """The folder with `train` and `test`: the given one, or its `data`, as LEAF has it."""
    folders = (folder for folder in (path, path / "data") if (folder / "train").is_dir())
    return next((folder for folder in folders if any((folder / "train").glob("*.json"))), None)


def read(folder: Path) -> dict[str, Part]:
    """The examples of `train` and, if it is there, of `test`.

    Raises:
      ValueError: if a file is damaged, larger than allowed, or lacks a user's examples; in one sentence.
    """
    found = {split: sorted((folder / split).glob("*.json")) for split in ("train", "test")}
    return {split: _joined([_read(file) for file in files]) for split, files in found.items() if files}


def _read(path: Path) -> Part:
    try:
        held = json.loads(limits.content(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no sound JSON ({error}): delete it and make it again") from error
    if not isinstance(held, Mapping) or not isinstance(held.get("users"), list) or not _maps(held.get("user_data")):
        raise ValueError(
            f"{path} has {brief(list(held)[:5])}, where LEAF has users, num_samples, user_data: make it again"
        )
    x, y, clients, counts = [], [], [], held.get("num_samples")
    for n, user in enumerate(held["users"]):
        own = held["user_data"].get(user)
        if not _maps(own) or not all(isinstance(own.get(key), list) for key in "xy"):
            raise ValueError(f"{path} names the user {user!r} and has no x and y of them: make it again")
        if len(own["x"]) != len(own["y"]) or (
            isinstance(counts, list) and counts[n : n + 1] not in ([], [len(own["y"])])
        ):
            raise ValueError(
                f"{path} has {len(own['x'])} inputs and {len(own['y'])} labels of the user {user!r}, which must agree "
                "with each other and with num_samples: make it again"
            )
        x.extend(own["x"])
        y.extend(own["y"])
        clients.extend([str(user)] * len(own["y"]))
    return Part(x, y, np.array(clients, str))


def _joined(parts: list[Part]) -> Part:
    x, y = ([row for part in parts for row in getattr(part, name)] for name in "xy")
    return Part(x, y, np.concatenate([part.clients for part in parts]))


def _maps(value: Any) -> bool:
    return isinstance(value, Mapping)
