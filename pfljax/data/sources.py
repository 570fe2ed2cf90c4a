"""The door to data sets: a name, and wherever its bytes can be found.

All sources of a data set give the same examples, each in its own order, on which partitions do not depend.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pfljax import checks
from pfljax.data import tfds
from pfljax.data.dataset import Dataset
from pfljax.data.known import KNOWN
from pfljax.data.readers.archives import idx_folder, read_npz
from pfljax.data.readers.images import by_folder
from pfljax.data.readers.texts import any_leaf
from pfljax.data.table import ENDINGS, from_frame, read_table, tables

_DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}

NAMES = tuple(KNOWN)
"""Data sets known by name. Any other can be loaded from a `path`, or with `source="tfds"`."""


@checks.spelled(rest=from_frame)
def load(
    name: str,
    *,
    path: str | Path | None = None,
    source: Literal["auto", "files", "tfds"] = "auto",
    download: bool = False,
    groups: str | None = None,
    units: str | None = None,
    times: str | None = None,
    target: str | None = None,
    size: checks.Count | None = None,
    **table: Any,
) -> Dataset:
    """A data set by name, or from a file.

    `"digits"` (8x8 images, 1,797 of them, from scikit-learn) and `"synthetic"` (`synthetic_v2` with its defaults) need
    no files. Others are looked for, in this order:
      1. `path`: the files that the data set's authors publish (`pfljax data show NAME`), an `.npz` file, a folder with
         the four idx files of MNIST (`.gz` or not), or a torchvision root; whatever the name, a table or a folder of
         tables (see `table.read_table`), images in folders of classes or of clients and classes, LEAF's JSON;
      2. without `path`, the same at `<name>.npz` and `<name>/` in `$PFLJAX_DATA` and in `~/.cache/pfljax/data`, where
         `pfljax data prepare` puts it, then where Debian's `dataset-fashion-mnist` installs;
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
      times: which array of an `.npz` file, or column of a table, says when each example was made.
      target: the column of a table that is learned.
      size: height and width that images of files are brought to.
      **table: what else `from_frame` takes, such as `client`; `client="file"` or `"folder"`: each file, or folder of
        files, is a client, and `split="file"`: files are called `train` and `test`.

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
    if path is None and name not in NAMES and (str(name).endswith((".npz", *ENDINGS)) or Path(name).exists()):
        name, path = Path(name).stem, name
    name = str(name)
    checks.each(checks.Count | None, size=size)
    if path is not None and (target is not None or name not in KNOWN) and tables(Path(path)):
        if groups is not None:
            raise ValueError(f"groups={groups!r} is for arrays, and {path} is a table: say client={groups!r}")
        return _table(Path(path), name, target, {"units": units, "times": times, **table})
    _no_table(target, table, name)
    if path is None and name not in NAMES:
        advice = checks.nearest(name, NAMES, "choose one of")
        raise ValueError(f"no data set is named {name!r}: {advice}; or give a path, or source='tfds'")
    known = KNOWN.get(name)
    if path is None and known is not None and known.make is not None:
        _unused(keys, keys, name)
        return known.make()
    places = [Path(path)] if path is not None else _places(name)
    for place in places:
        if (dataset := _read(place, name, size, keys)) is not None:
            return dataset
    unset = path is None and not os.environ.get("PFLJAX_DATA")
    searched = ", ".join([*["$PFLJAX_DATA (not set)"][:unset], *map(str, places)])
    if known is not None and (path is not None or not known.tfds):
        raise FileNotFoundError(
            f"{name} is not in {searched}: a copy is {known.copy}, from {known.url}; give path=..., or run pfljax data "
            f"prepare {name} --from FOLDER once"
        )
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
        f"{name} is not in {searched}: expected an .npz file, a table or a folder of tables, images in folders of "
        "classes, LEAF's JSON, or a folder with train-images-idx3-ubyte[.gz] and its three companions"
    )


def _read(place: Path, name: str, size: int | None, keys: Mapping[str, str | None]) -> Dataset | None:
    """What is at a place, None if it is nothing that is known."""
    if not place.exists():
        return None
    known = KNOWN.get(name)
    readers = [known.read] if known is not None and known.read is not None else []
    readers += [lambda place, size: idx_folder(place, name)]
    readers += [] if known is not None else [any_leaf, by_folder]
    dataset = next((found for read in readers if (found := read(place, size)) is not None), None)
    if dataset is not None:
        _unused(keys, keys, f"what is in {place}")
    elif place.suffix == ".npz" and place.is_file():
        return read_npz(place, name, **keys)
    elif place.is_file():
        raise ValueError(f"{place} is no file of {name}: give an .npz file, a table, or the folder that it is in")
    return dataset


def _table(path: Path, name: str, target: str | None, options: dict[str, Any]) -> Dataset:
    """A table of rows, or a folder of tables."""
    frame = read_table(path, [value for value in options.values() if isinstance(value, str)])
    if target is None:
        raise ValueError(
            f"{path} is a table: say target=..., which of {', '.join(map(repr, frame.columns))} is learned"
        )
    return from_frame(frame, target, name=name, **options)


def _no_table(target: str | None, options: Mapping[str, Any], name: str) -> None:
    """Refuses parts of columns where there are none."""
    for option, value in {"target": target, **options}.items():
        if value is not None:
            raise ValueError(f"{option}={value!r} is for tables, and {name} is none: leave it out, or give path=...")


def _unused(keys: Mapping[str, str | None], names: Iterable[str], where: str) -> None:
    """Refuses names of arrays where none can be named."""
    for name in names:
        if keys[name] is not None:
            raise ValueError(f"{name}={keys[name]!r}: {where} has no such array; it is for .npz files")


def _places(name: str) -> list[Path]:
    roots = [Path(root) for root in (os.environ.get("PFLJAX_DATA"), prepared()) if root]
    own = [place for root in roots for place in (root / f"{name}.npz", root / name)]
    return own + ([_DEBIAN[name]] if name in _DEBIAN else [])


def located(name: str) -> Path | None:
    """The first of the usual places of a data set where there is anything."""
    return next((place for place in _places(name) if place.exists()), None)


def prepared() -> Path:
    """Where `pfljax data prepare` puts what `$PFLJAX_DATA` does not say."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pfljax" / "data"
