"""Partitions in files: ours, and in the layouts of other programs."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfljax.data import deal, federate, from_arrays, from_clients, lists, published
from pfljax.data.partition import by_index, dirichlet, natural
from pfljax.experiment import from_config_dict

Y = np.arange(60) % 3
DATA = from_arrays(np.arange(60.0)[:, None], Y, groups=np.repeat(["b", "a"], 30))


@pytest.mark.parametrize("partitioner", [dirichlet(4, 0.5), natural(), published.flamby()])
def test_saved_and_loaded_is_the_same_federation(partitioner: Any, tmp_path: Path) -> None:
    held, test = deal(DATA, partitioner, seed=3), "given" if partitioner.__qualname__.startswith("flamby") else 0.25
    path = lists.save(tmp_path / "p.json", held, DATA)
    again = lists.by_file(str(path))
    federated = [federate(DATA, by, test=test, seed=3) for by in (partitioner, again)]
    assert federated[0].fingerprint == federated[1].fingerprint
    assert federated[0].names == federated[1].names
    assert json.loads(path.read_text())["fingerprint"] == lists.fingerprint(held)


def test_fingerprints_are_of_who_holds_what() -> None:
    same = lists.fingerprint([[0, 1], [2]])
    assert same == lists.fingerprint([[1, 0], [2]]) == lists.fingerprint({"0": [0, 1], 1: [2]})
    others = [[[0], [1, 2]], [[2], [0, 1]], [[0, 1], [2], []], {"a": [0, 1], "b": [2]}]
    assert len({same, *map(lists.fingerprint, others)}) == 5


ROWS = {n: np.arange(n, 60, 11) for n in (10, 9, 2, 0)}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickled_dictionaries_of_fedlab(protocol: int, tmp_path: Path) -> None:
    for content in (ROWS, OrderedDict(ROWS), {name: rows.tolist() for name, rows in ROWS.items()}):
        path = tmp_path / "client_dict.pkl"
        path.write_bytes(pickle.dumps(content, protocol))
        held = deal(DATA, lists.by_file(str(path)))
        assert list(held) == ["0", "2", "9", "10"]
        assert all(np.array_equal(held[str(name)], rows) for name, rows in ROWS.items())


def test_json_of_flower_and_npz(tmp_path: Path) -> None:
    lists_of = {str(name): rows.tolist() for name, rows in ROWS.items()}
    (tmp_path / "a.json").write_text(json.dumps(lists_of))
    (tmp_path / "b.json").write_text(json.dumps(list(lists_of.values())))
    arrays: dict[str, Any] = {name: np.array(rows) for name, rows in lists_of.items()}
    np.savez(tmp_path / "c.npz", **arrays)
    for file, names in (
        ("a.json", ["0", "2", "9", "10"]),
        ("b.json", ["0", "1", "2", "3"]),
        ("c.npz", ["0", "2", "9", "10"]),
    ):
        held = deal(DATA, lists.by_file(str(tmp_path / file)))
        assert list(held) == names
        assert sorted(map(len, held.values())) == sorted(map(len, ROWS.values()))
    config = {"data": {"partition": {"name": "by_file", "path": str(tmp_path / "a.json")}}}
    assert from_config_dict(config).data is not None


def test_a_folder_of_pfllib(tmp_path: Path) -> None:
    """Written as its `save_file` does: a pickled dictionary in each .npz."""
    draw, expected = np.random.default_rng(0), {}
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for n in range(2):
            x, y = draw.normal(size=(3 + n, 1, 4, 5)).astype(np.float32), draw.integers(0, 3, 3 + n)
            expected[part, n] = x, y
            with open(tmp_path / part / f"{n}.npz", "wb") as file:
                np.savez_compressed(file, data=np.array({"x": x, "y": y}))
    data = from_clients(*lists.pfllib_clients(tmp_path))
    assert data.sizes().tolist() == [3, 4]
    x, y = expected["test", 1]
    own = data.client(1, "test")
    rows = slice(int(own.start), int(own.start) + int(own.size))
    np.testing.assert_array_equal(np.asarray(own.examples.x)[rows, ..., 0], x[:, 0])
    np.testing.assert_array_equal(np.asarray(own.examples.y)[rows], y)
    (tmp_path / "test" / "1.npz").unlink()
    with pytest.raises(FileNotFoundError, match="numbered from 0"):
        lists.pfllib_clients(tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch evil",)


def test_no_file_runs_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("evil.pkl").write_bytes(pickle.dumps({0: Evil()}))
    with pytest.raises(ValueError, match="neither a number"):
        deal(DATA, lists.by_file("evil.pkl"))
    for part in ("train", "test"):
        Path(part).mkdir()
        np.savez(Path(part) / "0.npz", data=np.array({"x": Evil(), "y": 0}))
    with pytest.raises(ValueError, match="neither a number"):
        lists.pfllib_clients(tmp_path)
    assert not Path("evil").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "no sound"),
        ("a.json", b"3", "must hold the rows"),
        ("a.json", b"[]", "must hold the rows"),
        ("a.json", b'{"0": [0, 60]}', "0..59"),
        ("a.json", b'{"0": [0], "1": [0]}', "held twice"),
        ("a.pkl", b"abc", "no sound"),
        ("a.npz", b"abc", "no sound"),
        ("a.csv", b"0,1", "name a .json"),
    ],
)
def test_mistakes(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        deal(DATA, lists.by_file(str(tmp_path / name)))


@pytest.mark.parametrize("name", ["a.json", "a.pkl", "a.npz"])
def test_what_unpacks_to_more_than_it_may_is_not_called_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it read: a thousand rows that pack well, and a limit of a hundred bytes."""
    monkeypatch.setenv("PFLJAX_DATA_LIMIT", "100")
    np.savez_compressed(tmp_path / "a.npz", np.zeros(1000))
    (tmp_path / "a.json").write_text(json.dumps([0] * 1000))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([0] * 1000))
    with pytest.raises(
        ValueError, match=rf"^\S*{name} would unpack to .* set PFLJAX_DATA_LIMIT to more if you trust it$"
    ):
        lists.read(tmp_path / name)


def test_another_data_set_or_no_file(tmp_path: Path) -> None:
    path = lists.save(tmp_path / "p.json", deal(DATA, by_index([[0], [1]])), DATA)
    with pytest.raises(ValueError, match="give the data set that it was saved for"):
        deal(from_arrays(np.arange(60.0)[:, None], Y[::-1]), lists.by_file(str(path)))
    with pytest.raises(FileNotFoundError, match="there is no file"):
        deal(DATA, lists.by_file(str(tmp_path / "q.json")))
