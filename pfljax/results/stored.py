"""Results in files, whole and with digests of what matters."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from pfljax import files
from pfljax.results.scores import Scores

REMEDY = "pfljax resume finishes a run that was interrupted, else run it again"


class Stored:
    """A dataclass of a result that writes and reads itself."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    names: Sequence[str]
    groups: Sequence[int]
    rounds: np.ndarray
    scores: Scores
    sizes: dict[str, np.ndarray]
    log: dict[str, np.ndarray]
    config: dict[str, Any]
    summary: Callable[..., dict[str, Any]]

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes `clients.npz` (all arrays, the axes of each under `axes`), `config.json` and `summary.json`.

        The summary is written last, with digests of the others: without it there is no result.

        Args:
          folder: made if missing.
          replace: write over another result.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
          PermissionError, OSError: if a file cannot be written.
        """
        folder = files.named(folder)
        if not replace:
            vacant(folder)
        files.write(folder / "clients.npz", self.arrays())
        files.write_json(folder / "config.json", plain(self.config))
        files.write_json(folder / "summary.json", self.sealed(self.summary()))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """What `save` wrote.

        Raises:
          FileNotFoundError: if the folder holds no result.
          OSError: if a file cannot be read.
          ValueError: if a file is damaged, or belongs to another result.
        """
        folder = Path(folder)
        for name in ("summary.json", "clients.npz", "config.json"):
            if not os.path.isfile(folder / name):
                raise FileNotFoundError(f"{folder} holds no result: {name} is missing; {REMEDY}")
        summary, config = (files.read_json(folder / name, REMEDY) for name in ("summary.json", "config.json"))
        try:
            return cls.restored(summary, config, files.read(folder / "clients.npz"))
        except ValueError as error:
            raise ValueError(f"the result in {folder} is damaged ({error}): {REMEDY}") from error

    def arrays(self) -> bytes:
        """All arrays as the bytes of an `.npz` file, the axes of each under `axes`."""
        arrays = self._arrays()
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays, axes=np.array(json.dumps(_axes(arrays))))  # pyright: ignore[reportArgumentType]
        return stream.getvalue()

    @classmethod
    def restored(cls, summary: Mapping[str, Any], config: dict[str, Any], arrays: bytes) -> Self:
        """The result whose `summary()`, `config` and `arrays()` these are.

        Raises:
          ValueError: if they are damaged.
        """
        try:
            with np.lib.npyio.NpzFile(io.BytesIO(arrays)) as file:
                named = {name: file[name] for name in file.files if name != "axes"}
            rounds = named.pop("rounds")
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"clients.npz cannot be read: {error or type(error).__name__}") from error
        rest = {f.name: summary[f.name] for f in fields(cls) if f.name in summary}
        rest |= {"rounds": rounds, "config": config}

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}

        rest |= {"scores": part("scores/"), "sizes": part("sizes/"), "log": part("log/")}
        rest |= {name: named.get(name, np.array(())).tolist() for name in ("names", "groups")}
        if lacking := [f.name for f in fields(cls) if f.name not in rest and f.default_factory is f.default is MISSING]:
            raise ValueError(f"summary.json lacks {', '.join(lacking)}")
        result = cls(**rest)
        result.match(summary)
        return result

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"scores/{score}": values for score, values in self.scores.items()}
        arrays |= {f"sizes/{name}": values for name, values in self.sizes.items()}
        arrays |= {f"log/{name}": values for name, values in self.log.items()} | {"rounds": self.rounds}
        arrays |= {"groups": np.array(self.groups)} if len(self.groups) else {}
        return arrays | {"names": np.array(self.names, str)}

    def _digests(self) -> dict[str, str]:
        return {"clients.npz": files.digest(self._arrays()), "config.json": files.digest(plain(self.config))}

    def match(self, summary: Mapping[str, Any]) -> None:
        """Raises `ValueError` if a summary stands for another result."""
        digests = self._digests()
        for name, stored in summary.get("digests", {}).items():
            if digests.get(name) != stored:
                raise ValueError(f"{name} was changed, or belongs to another summary.json")

    def sealed(self, summary: dict[str, Any]) -> dict[str, Any]:
        """A summary as it is written, with the digests of what it stands for."""
        return files.sealed(summary | {"digests": self._digests()})


def vacant(folder: str | Path) -> None:
    """Refuses a folder that holds a run already.

    Raises:
      FileExistsError: if it does.
    """
    for name in ("summary.json", "clients.npz", "config.json", "checkpoint"):
        if os.path.exists(Path(folder) / name):
            raise FileExistsError(f"{folder} holds another run ({name}): resume it or choose another folder")


def _axes(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    kinds = {
        "scores": ["evaluation", "client"],
        "sizes": ["client"],
        "log": ["round", "slot"],
        "rounds": ["evaluation"],
        "names": ["client"],
        "groups": ["client"],
    }
    return {name: kinds[name.split("/")[0]][: array.ndim] for name, array in arrays.items()}


def plain(value: Any) -> Any:
    """`value` as JSON has it: NaN and infinity become None, NumPy numbers plain ones."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
