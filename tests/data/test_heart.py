"""FLamby's patients: a table of four hospitals in UCI's layout, read, split and scaled as FLamby's own code does it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import train_test_split

import pfljax as pfl
from pfljax.data.heart import HOSPITALS, heart

SIZES = {"cleveland": 40, "hungarian": 33, "switzerland": 12, "va": 25}


@pytest.fixture
def folder(tmp_path):
    """Files in the layout of archive.ics.uci.edu/dataset/45."""
    draw = np.random.default_rng(5)
    for name, n in SIZES.items():
        x = np.column_stack(
            [draw.integers(30, 70, n), draw.integers(0, 2, n), draw.integers(1, 5, n), draw.integers(100, 180, n),
             np.zeros(n) if name == "switzerland" else draw.integers(150, 300, n), draw.integers(0, 2, n),
             draw.integers(0, 3, n), draw.integers(90, 190, n), draw.integers(0, 2, n), draw.integers(0, 40, n) / 10,
             draw.integers(1, 4, n), draw.integers(0, 4, n), draw.integers(3, 8, n)]
        )  # fmt: skip
        y = np.ones(n, int) if name == "switzerland" else draw.integers(0, 5, n)
        rows = [[f"{v:.1f}" for v in row] + [str(label)] for row, label in zip(x, y, strict=True)]
        for row in rows[::3]:
            row[11] = row[12] = "?"  # gaps in columns that are left out keep their patients
        rows[4][3] = "?"
        (tmp_path / f"processed.{name}.data").write_text("\n".join(map(",".join, rows)) + "\n")
    return tmp_path


def flamby(folder, pooled):
    """`HeartDiseaseRaw` and `FedHeartDisease` of FLamby, without PyTorch: hospital -> (train, test) of (X, y)."""
    features, labels, centers, sets = pd.DataFrame(), pd.DataFrame(), [], []
    for center, name in enumerate(HOSPITALS):
        df = pd.read_csv(folder / f"processed.{name}.data", header=None)
        df = df.replace("?", np.nan).drop([10, 11, 12], axis=1).dropna(axis=0).apply(pd.to_numeric)
        center_x, center_y = df.iloc[:, :-1], df.iloc[:, -1]
        features = pd.concat((features, center_x), ignore_index=True)
        labels = pd.concat((labels, center_y), ignore_index=True)
        centers += [center] * len(center_x)
        current = center_y.where(center_y == 0, 1)
        levels = np.unique(current)
        stratify = current if len(levels) > 1 and all((current == level).sum() > 2 for level in levels) else None
        _, tests = train_test_split(np.arange(len(center_x)), test_size=1.0 - 0.66, train_size=0.66, random_state=43,
                                    shuffle=True, stratify=stratify)  # fmt: skip
        sets += ["test" if i in tests else "train" for i in range(len(center_x))]
    x = pd.get_dummies(features, columns=[2, 6], drop_first=True).to_numpy(float)
    y = (labels.to_numpy().ravel() != 0).astype(int)
    centers, sets, split = np.array(centers), np.array(sets), {}
    for center, name in enumerate(HOSPITALS):
        fitted = x[(sets == "train") & ((centers == center) | pooled)]
        scaled = (x - fitted.mean(0)) / (fitted.std(0, ddof=1) + 1e-9)
        split[name] = [
            (scaled[rows], y[rows]) for rows in ((centers == center) & (sets == s) for s in ("train", "test"))
        ]
    return split


def ordered(x, y):
    """Patients with their diagnoses, in an order of their own."""
    rows = np.column_stack([x, y])
    return rows[np.lexsort(np.round(rows, 3).T)]


@pytest.mark.parametrize("scale", ["hospital", "pooled"])
def test_patients_are_those_of_flamby(folder, scale):
    data = pfl.federate(heart(folder, scale=scale), pfl.natural(), test="mirror")
    assert data.names == HOSPITALS
    for place, (name, parts) in enumerate(flamby(folder, scale == "pooled").items()):
        for split, (x, y) in zip(("train", "test"), parts, strict=True):
            rows = getattr(data, split)
            held = slice(int(rows.start[place]), int(rows.start[place] + rows.size[place]))
            ours, theirs = ordered(data.examples.x[held], data.examples.y[held]), ordered(x, y)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=f"{name} {split}")


def test_arrays_are_read_like_files(folder, tmp_path):
    raw = {name: np.genfromtxt(folder / f"processed.{name}.data", delimiter=",") for name in reversed(HOSPITALS)}
    rows = np.concatenate([*raw.values()])
    hospital = np.repeat(np.arange(4), [len(held) for held in raw.values()])
    np.savez(tmp_path / "heart.npz", x=rows[:, :13], y=rows[:, 13], hospital=hospital, hospitals=list(raw))
    files, arrays = heart(folder), heart(tmp_path / "heart.npz")
    np.testing.assert_array_equal(files.x, arrays.x)
    np.testing.assert_array_equal(files.test.y, arrays.test.y)  # pyright: ignore


def test_files_that_cannot_be_meant(folder, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(ValueError, match=r"lacks an array .*save x, y, hospital, hospitals"):
        heart(tmp_path / "other.npz")
    np.savez(tmp_path / "utah.npz", x=np.zeros((1, 13)), y=[0], hospital=[0], hospitals=["utah"])
    with pytest.raises(ValueError, match=r"is of utah: .*of the hospitals cleveland"):
        heart(tmp_path / "utah.npz")
    text = (folder / "processed.va.data").read_text().splitlines()
    (folder / "processed.va.data").write_text("\n".join([*text[1:], text[0][:-1] + "7"]))
    with pytest.raises(ValueError, match=r"va has rows of 13 columns and diagnoses .*7"):
        heart(folder)
    (folder / "processed.va.data").write_text("1,2,3\n4,5\n")
    with pytest.raises(ValueError, match=r"processed.va.data is damaged .* fetch it again"):
        heart(folder)
    (folder / "processed.va.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks processed.va.data: put processed.cleveland.data"):
        heart(folder)
    with pytest.raises(FileNotFoundError, match=r"heart_disease is not in .*nowhere: a copy is .*processed.cleveland"):
        pfl.load("heart_disease", path=tmp_path / "nowhere")
