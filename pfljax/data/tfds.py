"""Data sets that `tensorflow_datasets` has prepared. Reading them needs no TensorFlow; preparing them does."""

from __future__ import annotations

import importlib.util
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from pfljax import checks
from pfljax.data.dataset import Dataset, from_arrays

_HOST = "https://storage.googleapis.com"


def load(
    name: str, *, data_dir: str | Path | None = None, download: bool = False, groups: str | None = None
) -> Dataset:
    """A data set of the TFDS catalogue with its official test split.

    Args:
      name: as in `tfds.builder(name)`, for example `"mnist"` or `"emnist/byclass"`.
      data_dir: where TFDS keeps what it prepared; its own default if None.
      download: download and prepare what is not there; needs TensorFlow and the internet.
      groups: the feature that names the natural client, where there is one.

    Raises:
      ImportError: if `tensorflow_datasets` or what it needs is not installed.
      FileNotFoundError: if the data set is not prepared in the `array_record` format, or cannot be downloaded.
      ValueError: if the name is unknown, or examples are not arrays of one shape.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(f"{error}; install it with pip install 'pfljax[tfds]'") from error
    options: dict[str, Any] = {"data_dir": None if data_dir is None else str(data_dir)}
    try:
        builder: Any = tfds.builder(name, file_format="array_record", **options)
    except tfds.core.DatasetNotFoundError as error:
        close = checks.near(name, tfds.list_builders(with_community_datasets=False))
        hint = f": did you mean {close!r}?" if close else "; see tfds.list_builders() for its names"
        raise ValueError(f"TFDS has no data set {name!r}{hint}") from error
    except (ValueError, NotImplementedError) as error:
        raise _unprepared(name, error) from error
    if download and not builder.info.splits:
        _prepare(builder, name)

    keys = builder.info.supervised_keys
    if keys is None or len(keys) != 2:
        raise ValueError(f"TFDS does not say what is input and what is label in {name!r}: read it and use from_arrays")
    classes = getattr(builder.info.features[keys[1]], "num_classes", None)

    def split(which: str, **more: Any) -> Dataset:
        try:
            source = tfds.data_source(
                name, split=which, download=False, builder_kwargs={"file_format": "array_record"}, **options
            )
        except (KeyError, NotImplementedError, ValueError) as error:
            raise _unprepared(name, error) from error
        x, y, group = _read(source, name, keys[0], keys[1], groups)
        return from_arrays(x, y, groups=group, num_classes=classes, name=name, **more)

    splits = builder.info.splits
    return split("train", test=split("test") if not splits or "test" in splits else None)


def _read(source: Any, name: str, x: str, y: str, groups: str | None) -> tuple[np.ndarray, np.ndarray, Any]:
    places = list(range(len(source)))
    try:
        try:
            records = source.__getitems__(places)
        except (TypeError, AttributeError):  # a source that reads one by one only
            records = [source[place] for place in places]
    except ImportError as error:
        raise ImportError("decoding images needs Pillow: pip install 'pfljax[tfds]'") from error
    if groups is not None and records and groups not in records[0]:
        raise ValueError(f"{name} has no feature {groups!r} for groups: it has {', '.join(records[0])}")
    shapes = {np.shape(record[x]) for record in records}
    if len(shapes) > 1 or any(isinstance(record[x], bytes) for record in records[:1]):
        raise ValueError(
            f"{name} has {x} of several shapes or of text: read it with TFDS, make arrays, use from_arrays"
        )
    columns = {key: np.array([record[key] for record in records]) for key in (x, y, *([groups] if groups else []))}
    return columns[x], columns[y], columns.get(groups or "")


def _prepare(builder: Any, name: str) -> None:
    """Downloads and prepares, after checks that fail at once: TFDS itself retries for minutes before it says so."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(f"TFDS needs TensorFlow to prepare {name}: pip install 'pfljax[tfds-prepare]'")
    try:
        urllib.request.urlopen(_HOST, timeout=10).close()
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        raise FileNotFoundError(f"{name} cannot be downloaded, {_HOST} is out of reach ({error})") from error
    builder.download_and_prepare(file_format="array_record")


def _unprepared(name: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"{name} is not prepared in the array_record format ({str(error).splitlines()[0]}): run `tfds build {name} "
        "--file_format=array_record` where TensorFlow and the internet are, or load it with download=True there"
    )
