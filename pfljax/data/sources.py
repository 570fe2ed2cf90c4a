"""The door to data sets: a name, and wherever its bytes can be found.

All sources of a data set give the same examples, each in its own order, on which partitions do not depend.
"""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pfljax import checks
from pfljax.data import synthetic, tfds
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.heart import FILES, heart

_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
_TFDS = ("mnist", "fashion_mnist", "kmnist", "emnist/byclass", "emnist/balanced", "cifar10", "cifar100", "svhn_cropped")
_IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

NAMES = ("digits", "synthetic", "heart", *_TFDS)
"""Data sets known by name. Any other can be loaded from a `path`, or with `source="tfds"`."""


def load(
    name: str,
    *,
    path: str | Path | None = None,
    source: Literal["auto", "files", "tfds"] = "auto",
    download: bool = False,
    groups: str | None = None,
    units: str | None = None,
    times: str | None = None,
) -> Dataset:
    """A data set by name, or from a file.

    `"digits"` (8x8 images, 1,797 of them, from scikit-learn) and `"synthetic"` (`synthetic_v2` with its defaults) need
    no files; `"heart"` is FLamby's, see `heart.heart`. Others are looked for, in this order:
      1. `path`: an `.npz` file, a folder with the four idx files of MNIST (`.gz` or not), or a torchvision root;
      2. without `path`, the same at `$PFLJAX_DATA/<name>.npz` and `$PFLJAX_DATA/<name>/`, then where Debian's
         `dataset-fashion-mnist` installs;
      3. what `tensorflow_datasets` has prepared in the `array_record` format (at `path`, if `source="tfds"`).

    Args:
      name: one of `NAMES`; any name with `path`, any name of the TFDS catalogue with `source="tfds"`; or a path itself.
      path: a file or folder instead of the usual places.
      source: look everywhere, only for files, or only in TFDS.
      download: let TFDS download and prepare what is found nowhere; needs TensorFlow and the internet.
      groups: which array of an `.npz` file, or which feature of a TFDS data set, names the natural client
        (`groups` or `writer` if None and the file has one). Where the file has `writer_train` and `writer_test`, it is
        `"writer"`.
      units: which array of an `.npz` file names what must stay together in a split.
      times: which array of an `.npz` file says when each example was made.

    Returns:
      Arrays in their storage dtype; grey images are [T, H, W, 1].

    Raises:
      ValueError: if the name is unknown, or a file is not what it should be.
      FileNotFoundError: if the data are nowhere; the message lists the places and what to do.
      ImportError: if a package is missing.
    """
    if source not in ("auto", "files", "tfds"):
        raise ValueError(f"source={source!r}: choose 'auto', 'files' or 'tfds'")
    checks.each(str | Path, name=name)
    keys = {"groups": groups, "units": units, "times": times}
    if source == "tfds":
        _unused(keys, ("units", "times"), f"{name} of TFDS")
        return tfds.load(str(name), data_dir=path, download=download, groups=groups)
    if path is None and name not in NAMES and (Path(name).suffix == ".npz" or Path(name).exists()):
        name, path = Path(name).stem, name
    name = str(name)
    if path is None and name not in NAMES:
        advice = checks.nearest(name, NAMES, "choose one of")
        raise ValueError(f"no data set is named {name!r}: {advice}; or give a path, or source='tfds'")
    if path is None and name in ("digits", "synthetic"):
        _unused(keys, keys, name)
        return _digits() if name == "digits" else synthetic.synthetic_v2()
    places = [Path(path)] if path is not None else _places(name)
    if name == "heart":
        _unused(keys, keys, name)
        return _heart(places)
    for place in places:
        if place.is_file():
            return read_npz(place, name, groups=groups, units=units, times=times)
        for folder in (place, place / "raw", place / _TORCHVISION.get(name, "") / "raw"):
            if _idx_file(folder, "train-images-idx3-ubyte"):
                _unused(keys, keys, f"the idx files in {folder}")
                return _idx_folder(folder, name)
    searched = ", ".join(map(str, places)) or "$PFLJAX_DATA (not set)"
    if source == "auto" and path is None:
        _unused(keys, ("units", "times"), f"{name} of TFDS")
        try:
            return tfds.load(name, download=download, groups=groups)
        except (ImportError, FileNotFoundError) as error:
            debian = "on Debian: apt-get install dataset-fashion-mnist; " if name in _DEBIAN else ""
            raise FileNotFoundError(
                f"{name} is not in {searched}, nor in TFDS. {debian}elsewhere: put its files into one of these places "
                f"or give path=...; TFDS says: {error}"
            ) from error
    raise FileNotFoundError(
        f"{name} is not in {searched}: expected an .npz file, or a folder with train-images-idx3-ubyte[.gz] and its "
        "three companions"
    )


def read_npz(
    path: str | Path,
    name: str,
    *,
    groups: str | None = None,
    units: str | None = None,
    times: str | None = None,
) -> Dataset:
    """An `.npz` file with `x`, `y`, or `x_train`, `y_train` and perhaps `x_test`, `y_test`. See `load`.

    Raises:
      ValueError: if the file is damaged or has other arrays.
    """
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {key: content[key] for key in content.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a sound .npz file ({error}): write it again with np.savez") from error

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


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an idx file, gzipped if its name ends in `.gz`.

    Raises:
      ValueError: if the file is damaged or of another format.
    """
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch it again") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_TYPES:
        raise ValueError(f"{path} is not an idx file, it begins with {content[:4]!r}: delete it and fetch it again")
    header = 4 + 4 * content[3]
    dtype = np.dtype(_IDX_TYPES[content[2]])
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, header, 4))
    if len(content) != header + dtype.itemsize * prod(shape):
        raise ValueError(
            f"{path} has {len(content)} bytes where shape {shape} needs {header + dtype.itemsize * prod(shape)}: "
            "delete it and fetch it again"
        )
    return np.frombuffer(content, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))


def _unused(keys: Mapping[str, str | None], names: Iterable[str], where: str) -> None:
    """Refuses names of arrays where none can be named."""
    for name in names:
        if keys[name] is not None:
            raise ValueError(f"{name}={keys[name]!r}: {where} has no such array; it is for .npz files")


def _digits() -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'pfljax[demo]'") from error
    x, y = load_digits(return_X_y=True)
    images = np.rint(np.asarray(x) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return from_arrays(images, np.asarray(y), name="digits", num_classes=10)


def _heart(places: Iterable[Path]) -> Dataset:
    if held := [place for place in places if place.exists()]:
        return heart(held[0])
    searched = ", ".join(map(str, places)) or "$PFLJAX_DATA (not set)"
    raise FileNotFoundError(f"heart is not in {searched}: put {FILES} into a folder, and give path=...")


def _places(name: str) -> list[Path]:
    root = os.environ.get("PFLJAX_DATA")
    own = [Path(root) / f"{name}.npz", Path(root) / name] if root else []
    return own + ([_DEBIAN[name]] if name in _DEBIAN else [])


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()), None)


def _idx_folder(folder: Path, name: str) -> Dataset:
    arrays = []
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        file = _idx_file(folder, f"{stem}-ubyte")
        if file is None:
            raise FileNotFoundError(f"{folder} has no {stem}-ubyte[.gz]: all four files of {name} must be there")
        arrays.append(read_idx(file))
    x, y, test_x, test_y = arrays
    return from_arrays(_grey(x), y, test=(_grey(test_x), test_y), name=name)


def _grey(x: np.ndarray) -> np.ndarray:
    """Bytes [T, H, W] are grey images: [T, H, W, 1]."""
    return x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x
