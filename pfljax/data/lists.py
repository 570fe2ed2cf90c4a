"""Partitions in files: who holds which rows, saved, fingerprinted, and read from what other programs write."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pfljax import checks, files
from pfljax.data import door, limits
from pfljax.data.dataset import Dataset
from pfljax.data.dealt import Held, Partitioner, Parts
from pfljax.data.layouts import npz
from pfljax.data.pickles import DAMAGE, unpickled

_DAMAGE = (*DAMAGE, zipfile.BadZipFile)


def save(path: str | Path, held: Held, dataset: Dataset) -> Path:
    """Writes a partition as JSON: `{"clients": {name: [row, ...]}}`, or `{"train": [...], "test": [...]}` for each.

    Args:
      path: of the file.
      held: rows of each client, as `deal` gives them.
      dataset: whose rows they are; `by_file` refuses another one.

    Raises:
      PermissionError, OSError: if it cannot be written.
    """
    clients = {
        name: {part: _plain(rows) for part, rows in mine._asdict().items()} if isinstance(mine, Parts) else _plain(mine)
        for name, mine in _named(held).items()
    }
    about = {"fingerprint": fingerprint(held), "examples": len(dataset), "labels": _labels(dataset)}
    return files.write(path, json.dumps({**about, "clients": clients}).encode())


def fingerprint(held: Held) -> str:
    """16 hex digits of who holds which rows, whatever the order of a client's rows.

    >>> fingerprint([[2, 0], [1]]) == fingerprint({"0": np.array([0, 2]), "1": np.array([1])})
    True
    """
    digest = sha256()
    for name, mine in _named(held).items():
        for rows in mine if isinstance(mine, Parts) else [mine]:
            ordered = np.sort(np.asarray(rows, "<i8"))
            digest.update(f"{name} {len(ordered)} ".encode() + ordered.tobytes())
    return digest.hexdigest()[:16]


def by_file(path: str) -> Partitioner:
    """The partition of a file: one that `save` wrote, or that another program did.

    Files are told apart by their endings:
      .json: ours; a dictionary of lists by the clients' names, such as Flower's `partition_id_to_indices`; or a list of
        lists.
      .pkl, .pickle: such a dictionary in Python's format, as FedLab's `save_dict` and LEAF's descendants write it.
        Nothing but numbers, text and arrays is read, and nothing in it is called.
      .npz: an array of rows for each client, by its name.

    Names that are all whole numbers are in their order. Rows count the examples in the order of their files.

    Raises:
      ValueError: if the file is damaged or of another kind, or, when dealt, if it is of another data set.
      FileNotFoundError: if there is none.
    """
    checks.each(str, path=path)

    def deal(dataset: Dataset, generator: np.random.Generator) -> Held:
        found = read(path)
        if isinstance(found, dict) and "clients" in found and isinstance(found["clients"], dict):
            if (found.get("examples"), found.get("labels")) != (len(dataset), _labels(dataset)):
                raise ValueError(
                    f"{path} is a partition of {found.get('examples')} examples, not of the {len(dataset)} of "
                    f"{dataset.name} in this order: give the data set that it was saved for"
                )
            found = {name: Parts(**mine) if isinstance(mine, dict) else mine for name, mine in found["clients"].items()}
        if not isinstance(found, list | dict) or not found:
            raise ValueError(f"{path} holds {type(found).__name__}: it must hold the rows of each client")
        named = _named(found)
        if all(name.isdecimal() for name in named):
            named = {name: named[name] for name in sorted(named, key=int)}
        return named

    return deal


def read(path: str | Path) -> Any:
    """What a file of lists holds, see `by_file`.

    Raises:
      ValueError: if it is damaged or of another kind.
      FileNotFoundError: if there is none.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path} of a partition: name a .json, .pkl or .npz file")
    try:
        if file.suffix == ".json":
            return json.loads(limits.content(file))
        if file.suffix in (".pkl", ".pickle"):
            return unpickled(limits.content(file))
        if file.suffix == ".npz":
            return npz.read(file)
    except limits.TooLarge:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{path} is no sound {file.suffix} file of a partition ({error}): write it again") from error
    raise ValueError(f"{path} ends in {file.suffix!r}: name a .json, .pkl or .npz file")


def pfllib_clients(folder: str | Path) -> tuple[list[Any], list[Any]]:
    """What each client trains on and is tested on, pairs (x, y), in a folder that PFLlib's generators wrote.

    Their files hold the examples themselves: `pfl.from_clients(*pfllib_clients("FashionMNIST"))` is the federation.
    Images [n, channels, height, width] become [n, height, width, channels].

    Args:
      folder: with `train/0.npz`, ..., and `test/0.npz`, ...

    Raises:
      ValueError: if a file is damaged.
      FileNotFoundError: if there are none.
    """
    count = len(list(Path(folder).glob("train/*.npz")))
    if not count:
        raise FileNotFoundError(f"{folder} has no train/0.npz: name the folder that PFLlib's generator wrote")
    train, test = ([_pfllib(Path(folder) / part / f"{n}.npz") for n in range(count)] for part in ("train", "test"))
    return train, test


def _pfllib(file: Path) -> tuple[np.ndarray, np.ndarray]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}: clients are numbered from 0, in train and in test")
    try:
        with zipfile.ZipFile(file) as archive, archive.open("data.npy") as content:
            limits.check(file, archive.getinfo("data.npy").file_size)
            np.lib.format.read_magic(content)
            np.lib.format.read_array_header_1_0(content)
            found = unpickled(content.read()).item()
        x, y = np.asarray(found["x"]), np.asarray(found["y"])
    except limits.TooLarge:
        raise
    except _DAMAGE as error:
        raise ValueError(f"{file} is no sound file of PFLlib ({error}): generate it again") from error
    return (np.moveaxis(x, 1, -1) if x.ndim == 4 else x), y.astype(int) if y.dtype.kind in "iuf" else y


def _named(held: Held) -> dict[str, Any]:
    pairs = held.items() if isinstance(held, Mapping) else enumerate(held)
    return {str(name): mine for name, mine in pairs}


def _plain(rows: Any) -> list[int]:
    return door.array(rows, "the rows of a client").astype(int).tolist()


def _labels(dataset: Dataset) -> str:
    """A digest of the labels in their order: the same rows are the same examples."""
    kind = "<i8" if dataset.y.dtype.kind in "iu" else "<f8"
    return sha256(np.ascontiguousarray(dataset.y, kind).tobytes()).hexdigest()[:16]
