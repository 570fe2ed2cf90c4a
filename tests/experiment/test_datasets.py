"""`pfljax data`: what is listed, shown and prepared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pfljax import cli
from pfljax.data import from_arrays, load
from pfljax.data.known import KNOWN
from pfljax.experiment.config import DataConfig
from pfljax.experiment.datasets import drawn


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PFLJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ratings(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t1\t878887116\n")
    return folder


def test_every_row_says_all() -> None:
    """What a copy looks like, where it is from, under which licence, and whom to cite."""
    for name, known in KNOWN.items():
        for field in ("about", "task", "shape", "copy", "url", "licence", "cite"):
            assert getattr(known, field), (name, field)
        assert known.read or known.tfds or name in ("digits", "synthetic")


def test_prepared_once_it_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `$PFLJAX_DATA` where that is set, else in the cache; the copy may go."""
    copy = ratings(tmp_path / "copy")
    for place, root in (("cache/pfljax/data", None), ("mine", tmp_path / "mine")):
        if root is not None:
            monkeypatch.setenv("PFLJAX_DATA", str(root))
        assert cli.main(["data", "prepare", "movielens", f"--from={copy}"]) == 0
        assert capsys.readouterr().out == f"3 examples of movielens in {tmp_path / place / 'movielens.npz'}\n"
    for file in copy.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"groups='who': .* is prepared and knows its own: leave it out"):
        load("movielens", groups="who")
    dataset = load("movielens")
    assert dataset.groups is not None
    assert (dataset.groups.tolist(), dataset.y.tolist()) == ([196, 186, 196], [3, 3, 1])
    assert cli.main(["data", "list"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in KNOWN)


def test_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its copies and licence, and what is in it."""
    assert cli.main(["data", "show", "movielens", f"--path={ratings(tmp_path / 'copy')}"]) == 0
    told = capsys.readouterr().out
    for part in (
        "u.data of ml-100k",
        "no redistribution",
        "Harper and Konstan",
        "found    nowhere",
        "2 clients of 1 to 2",
    ):
        assert part in told
    assert cli.main(["data", "show", "har"]) == 0
    assert "nowhere: pfljax data prepare har --from FOLDER" in capsys.readouterr().out
    assert cli.main(["data", "show", "digits"]) == 0
    assert "1,797 examples" in capsys.readouterr().out


def test_bars() -> None:
    """As long as counts: of 30 blocks 30, 15, and 7 and a half."""
    people = from_arrays(np.zeros((7, 1)), ["a", "b", "a", "a", "b", "a", "c"], groups=[5, 5, 5, 5, 7, 7, 9])
    lines = [*drawn(people)]
    assert lines[:2] == ["  7 examples", "  3 clients of 1 to 4 examples, half of them of 2 or more"]
    assert [line.split() for line in lines[2:5]] == [
        ["5", "4", "█" * 30],
        ["7", "2", "█" * 15],
        ["9", "1", "█" * 7 + "▌"],
    ]
    assert lines[5] == "  3 classes"
    assert [line.split()[:2] for line in lines[6:]] == [["a", "4"], ["b", "2"], ["c", "1"]]
    many = from_arrays(np.zeros((50, 1)), np.linspace(0, 1, 50), groups=np.arange(50), name="many")
    assert [*drawn(many)][-2:] == ["    and 30 more", "  targets from 0 to 1, mean 0.5"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "moveilens"], "NAME='moveilens': did you mean 'movielens'?"),
        (["prepare", "movielens", "--from=nowhere"], "movielens is not in nowhere: a copy is u.data of ml-100k"),
    ],
)
def test_slips(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_size_of_images_in_a_configuration() -> None:
    assert DataConfig("pacs", options={"size": 32}).options == {"size": 32}
    with pytest.raises(ValueError, match="are for synthetic data"):
        DataConfig("pacs", options={"sizes": 32})
