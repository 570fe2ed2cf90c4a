"""Patients, viewers, pupils, fields: a row is an example."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.heart import HOSPITALS, heart
from pfljax.data.layouts import npz
from pfljax.data.readers.common import matlab, numbers


def heart_disease(path: Path, size: int | None) -> Dataset | None:
    """As FLamby has it, see `heart.heart`, in the units of the files; or of an archive with all hospitals."""
    if path.suffix == ".npz":
        return heart(path) if "hospitals" in npz.read(path) else None
    found = any((path / f"processed.{hospital}.data").is_file() for hospital in HOSPITALS)
    return heart(path) if found else None


def movielens(path: Path, size: int | None) -> Dataset | None:
    """Ratings from 1 to 5, real targets; the example is the film's number."""
    known = {"u.data": "\t", "ratings.dat": "::"}
    found = [(each / file, sep) for file, sep in known.items() for each in (path, *path.glob("ml-*"))]
    file, separator = next(((each, sep) for each, sep in found if each.is_file()), (None, ""))
    if file is None:
        return None
    held = numbers(file, sep=separator, engine="python").astype(int)
    if held.shape[1] != 4:
        raise ValueError(f"{file} is damaged (a row is viewer, film, rating, time): fetch it again")
    film = np.unique(held[:, 1], return_inverse=True)[1].astype(np.int32)
    return from_arrays(film, held[:, 2].astype(np.float32), groups=held[:, 0], times=held[:, 3], name="movielens")


def school(path: Path, size: int | None) -> Dataset | None:
    """Exam scores of pupils by 28 features, from the file of MALSAR."""
    x, y, task = _tasks(path, "school*.mat") or (None, None, None)
    return None if x is None else from_arrays(x, np.asarray(y, np.float32), groups=task, name="school")


def landmine(path: Path, size: int | None) -> Dataset | None:
    """Mine or clutter by 9 features of radar images."""
    x, y, task = _tasks(path, "[Ll]and*[Mm]ine*.mat") or (None, None, None)
    return None if x is None else from_arrays(x, (np.asarray(y) > 0).astype(np.int32), groups=task, name="landmine")


def _tasks(path: Path, pattern: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Inputs, targets and tasks of a file of Matlab with a cell for each task."""
    file = path if path.suffix == ".mat" else next(iter(sorted(path.glob(pattern))), None)
    if file is None or not file.is_file():
        return None
    held = matlab(file)
    try:
        x, y = (held[next(key for key in keys if key in held)].ravel() for keys in (("X", "feature"), ("Y", "label")))
        sizes = [len(mine) for mine in x]
        joined = np.concatenate(list(x)).astype(np.float32), np.concatenate([np.ravel(mine) for mine in y])
    except (ValueError, TypeError, StopIteration) as error:
        raise ValueError(f"{file} has no cells X and Y, or feature and label ({error}): fetch it again") from error
    return *joined, np.repeat(np.arange(len(sizes)), sizes)
