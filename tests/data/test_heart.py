"""Patients of four hospitals in UCI's files and in arrays; `tests/reproduce` holds them against FLamby's own code."""

from __future__ import annotations

import numpy as np
import pytest

import pfljax as pfl
from pfljax.data.heart import HOSPITALS, heart

SIZES = {"cleveland": 40, "hungarian": 33, "switzerland": 12, "va": 25}


def write(folder):
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
        (folder / f"processed.{name}.data").write_text("\n".join(map(",".join, rows)) + "\n")
    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder of such files."""
    return write(tmp_path)


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
    with pytest.raises(ValueError, match=r"va has rows of 2 columns"):
        heart(folder)
    (folder / "processed.va.data").write_text("1,2,3\n4,five,6\n")
    with pytest.raises(ValueError, match=r"processed.va.data is damaged .* fetch it again"):
        heart(folder)
    (folder / "processed.va.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks processed.va.data: put processed.cleveland.data"):
        heart(folder)
    with pytest.raises(FileNotFoundError, match=r"heart_disease is not in .*nowhere: a copy is .*processed.cleveland"):
        pfl.load("heart_disease", path=tmp_path / "nowhere")
