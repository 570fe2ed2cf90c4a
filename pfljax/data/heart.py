"""Heart disease in four hospitals, as FLamby deals its patients (Fed-Heart-Disease).

Source: Ogier du Terrail et al., "FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning in Realistic
Healthcare Settings", NeurIPS 2022; the patients are of Janosi et al., UCI Machine Learning Repository, 1988.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.layouts import npz
from pfljax.data.published import stratified
from pfljax.data.readers.common import numbers

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = ("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak")
"""Of the 13 in the files; `slope`, `ca` and `thal` follow, which two hospitals hardly have."""

FILES = "processed.cleveland.data and its three companions (https://archive.ics.uci.edu/dataset/45)"
"""What a folder holds, for messages."""

_CATEGORIES = ("cp", "restecg")


def heart(path: str | Path) -> Dataset:
    """740 patients of four hospitals, who train or test as FLamby has it: disease or none from 13 numbers.

    Patients with gaps in the first ten columns are left out, which leaves 303, 261, 46 and 130. Two thirds of each
    hospital's train, by scikit-learn's `train_test_split(random_state=43, train_size=0.66, stratify=y)`. Chest pain and
    the electrocardiogram are columns of 0 and 1 for each of their kinds but the first.

    Args:
      path: a folder with UCI's `processed.cleveland.data` and the three others, or an `.npz` file with their 13 columns
        `x` (NaN where one is missing), `y`, and `hospital`, of which `hospitals` are the names.

    Returns:
      Who trains, with who tests as the official test set: `federate(heart(path), natural(), test="mirror")`.

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: if one is damaged or holds something else.
      ImportError: if scikit-learn is not installed.
    """
    raw = _arrays(Path(path)) if Path(path).is_file() else _folder(Path(path))
    rows = {name: np.column_stack([x[:, : len(COLUMNS)], y]) for name, (x, y) in raw.items()}
    rows = {name: held[~np.isnan(held).any(axis=1)] for name, held in rows.items()}
    x = _encoded({name: held[:, :-1] for name, held in rows.items()})
    y = {name: (held[:, -1] > 0).astype(np.int32) for name, held in rows.items()}
    trains = {name: np.isin(np.arange(len(held)), stratified(held)[0]) for name, held in y.items()}

    def part(mask: Mapping[str, np.ndarray], name: str, test: Dataset | None = None) -> Dataset:
        groups = np.repeat(list(rows), [mask[hospital].sum() for hospital in rows])
        held, labels = (np.concatenate([of[hospital][mask[hospital]] for hospital in rows]) for of in (x, y))
        return from_arrays(held.astype(np.float32), labels, groups=groups, num_classes=2, name=name, test=test)

    return part(trains, "heart_disease", part({name: ~mask for name, mask in trains.items()}, "heart_disease (test)"))


def _encoded(x: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers, then a column of 0 and 1 for each category but the first."""
    pooled = np.concatenate(list(x.values()))
    numbers = [column for column, name in enumerate(COLUMNS) if name not in _CATEGORIES]
    kinds = {COLUMNS.index(name): np.unique(pooled[:, COLUMNS.index(name)])[1:] for name in _CATEGORIES}

    def encoded(rows: np.ndarray) -> np.ndarray:
        flags = [rows[:, column, None] == values for column, values in kinds.items()]
        return np.concatenate([rows[:, numbers], *flags], axis=1)

    return {name: encoded(rows) for name, rows in x.items()}


def _folder(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    files = {name: path / f"processed.{name}.data" for name in HOSPITALS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(f"{path} lacks {', '.join(missing)}: put {FILES} there")
    held = {}
    for name, file in files.items():
        rows = numbers(file, gaps=True, na_values="?")
        held[name] = rows[:, :-1], rows[:, -1]
    return _sound(held, path)


def _arrays(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    arrays = npz.read(path)
    if lacking := [name for name in ("x", "y", "hospital", "hospitals") if name not in arrays]:
        raise ValueError(f"{path} lacks an array ({lacking[0]}): save x, y, hospital, hospitals, or give {FILES}")
    x, y, hospital, names = (arrays[name] for name in ("x", "y", "hospital", "hospitals"))
    if not len(x) == len(y) == len(hospital) or sorted(names.tolist()) != sorted(HOSPITALS):
        raise ValueError(f"{path} is of {', '.join(map(str, names))}: save as many rows x, y and hospital, of the "
                         f"hospitals {', '.join(HOSPITALS)}")  # fmt: skip
    held = {str(name): hospital == number for number, name in enumerate(names)}
    return _sound({name: (x[held[name]].astype(float), y[held[name]].astype(float)) for name in HOSPITALS}, path)


def _sound(held: dict[str, tuple[np.ndarray, np.ndarray]], path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    for name, (x, y) in held.items():
        if x.shape[1:] != (13,) or not len(y) or not np.isin(y, range(5)).all():
            raise ValueError(
                f"{path}: {name} has rows of {x.shape[1]} columns and diagnoses {np.unique(y)[:6].tolist()}: they must "
                "be 13, and whole numbers from 0 to 4"
            )
    return held
