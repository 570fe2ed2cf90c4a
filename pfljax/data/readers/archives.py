"""Arrays in `.npz` files, and the four idx files of MNIST."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data.columns import Columns
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.door import Labels
from pfljax.data.layouts import idx, npz
from pfljax.data.readers.common import as_test
from pfljax.files import write

_PREPARED = "pfljax"
_KEYS = ("groups", "units", "times", "split")
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST", "emnist": "EMNIST"}
_KINDS = ("images-idx3", "labels-idx1")


def read_npz(
    path: str | Path,
    name: str,
    *,
    groups: str | None = None,
    units: str | None = None,
    times: str | None = None,
) -> Dataset:
    """An `.npz` file with `x`, `y`, or `x_train`, `y_train` and perhaps `x_test`, `y_test`; or what `write_npz` wrote.

    Args:
      path: the file.
      name: how reports call it.
      groups, units, times: names of arrays, see `load`.

    Raises:
      ValueError: if the file is damaged or has other arrays.
    """
    arrays = npz.read(path)
    if _PREPARED in arrays:
        for argument, key in {"groups": groups, "units": units, "times": times}.items():
            if key is not None:
                raise ValueError(f"{argument}={key!r}: {path} is prepared and knows its own: leave it out")
        return _prepared(arrays, path, name)

    def part(suffix: str) -> dict[str, Any] | None:
        if f"x{suffix}" not in arrays or f"y{suffix}" not in arrays:
            return None
        found = {"x": _grey(arrays[f"x{suffix}"]), "y": arrays[f"y{suffix}"]}
        for argument, key in {"groups": groups, "units": units, "times": times}.items():
            names = [] if key is None else [f"{key}{suffix}", f"{key.removesuffix('_train')}{suffix}"]
            held = [name for name in names if name in arrays]
            if names and not held:
                raise ValueError(f"{path} has no array {names[-1]!r} for {argument}: it has {', '.join(arrays)}")
            if held:
                found[argument] = arrays[held[0]]
        if groups is None and (named := [key for key in ("groups", "writer") if f"{key}{suffix}" in arrays]):
            found["groups"] = arrays[f"{named[0]}{suffix}"]
        return found

    train = part("_train") or part("")
    if train is None:
        raise ValueError(f"{path} has {', '.join(arrays) or 'no arrays'}: name them x and y, or x_train and y_train")
    test = part("_test")
    return from_arrays(**train, test=None if test is None else from_arrays(**test, name=f"{name} (test)"), name=name)


def write_npz(path: str | Path, dataset: Dataset) -> Path:
    """Writes a data set as one file that `read_npz` reads without being told anything.

    Raises:
      ValueError: if an example is several arrays.
      PermissionError, OSError: if it cannot be written.
    """
    if not hasattr(dataset.x, "dtype"):
        raise ValueError(f"an example of {dataset.name} is several arrays, which no .npz file of examples holds")
    about = {"classes": dataset.num_classes, "names": dataset.class_names, "ignore": dataset.ignore}
    about |= {"columns": None if dataset.columns is None else dataset.columns._asdict()}
    arrays: dict[str, Any] = {_PREPARED: np.array(json.dumps(about))}
    for suffix, part in {"_train": dataset, "_test": dataset.test}.items():
        held = {} if part is None else {name: getattr(part, name) for name in ("x", "y", *_KEYS)}
        arrays |= {f"{name}{suffix}": array for name, array in held.items() if array is not None}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return write(path, stream.getvalue())


def _prepared(arrays: dict[str, np.ndarray], path: str | Path, name: str) -> Dataset:
    """What `write_npz` wrote."""
    try:
        about = json.loads(str(arrays[_PREPARED]))
        names = None if about["names"] is None else tuple(about["names"])
        columns = None if about["columns"] is None else Columns.of_plain(about["columns"])
        shared = {"num_classes": None if names else about["classes"], "ignore": about["ignore"]}
        parts = []
        for suffix in ("_train", "_test"):
            if f"x{suffix}" in arrays:
                keys = {key: arrays.get(f"{key}{suffix}") for key in _KEYS}
                labels = Labels(arrays[f"y{suffix}"], about["classes"], names)
                parts.append({"x": arrays[f"x{suffix}"], "y": labels, "columns": columns, **keys, **shared})
        test = as_test(parts[1], name) if len(parts) > 1 else None
    except (KeyError, TypeError, json.JSONDecodeError, IndexError) as error:
        raise ValueError(f"{path} is not as pfljax wrote it ({error}): prepare it again") from error
    return from_arrays(**parts[0], test=test, name=name)


def idx_folder(path: Path, name: str) -> Dataset | None:
    """The four files of MNIST, in the folder, its `raw`, or in a torchvision root.

    Raises:
      FileNotFoundError: if only some of them are there.
    """
    family = name.partition("/")[0]
    for folder in (path, path / "raw", path / _TORCHVISION.get(family, "") / "raw"):
        for stems in _stems(name):
            if _idx_file(folder, stems[0]):
                return _read_idx(folder, stems, name)
    return None


def _read_idx(folder: Path, stems: list[str], name: str) -> Dataset:
    arrays = []
    for stem in stems:
        file = _idx_file(folder, stem)
        if file is None:
            raise FileNotFoundError(f"{folder} has no {stem}-ubyte[.gz]: all four files of {name} must be there")
        arrays.append(idx.read(file))
    x, y, test_x, test_y = arrays
    return from_arrays(_grey(x), y, test=(_grey(test_x), test_y), name=name)


def _stems(name: str) -> list[list[str]]:
    """What the four files may be called: as MNIST's, or for `emnist/letters` `emnist-letters-train-...`."""
    own = name.replace("/", "-")
    return [[f"{split}-{kind}" for split in splits for kind in _KINDS]
            for splits in (("train", "t10k"), (f"{own}-train", f"{own}-test"))]  # fmt: skip


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / f"{stem}-ubyte", folder / f"{stem}-ubyte.gz") if file.is_file()), None)


def _grey(x: np.ndarray) -> np.ndarray:
    """Bytes [T, H, W] are grey images: [T, H, W, 1]."""
    return x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x
