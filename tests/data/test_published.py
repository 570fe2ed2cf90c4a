"""Partitions of published codes, index for index: lists that those codes made when they were run, see `source` of each.

The labels are random, the codes were run as they stand on the numbers of the examples in place of the images.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfljax.data import Dataset, FederatedData, federate, from_arrays, published

GOLDEN = json.loads((Path(__file__).parent / "golden" / "partitions.json").read_text())
CASES: dict[str, dict[str, Any]] = GOLDEN["cases"]
OFFICIAL = {"niid_bench", "pfllib", "pfedme", "ifca"}


def dataset(case: dict[str, Any]) -> Dataset:
    options, y = case["options"], np.array(GOLDEN["y"])
    tiles = options.pop("tiled", 1)
    y, groups = np.tile(y, tiles), np.tile(list(GOLDEN["groups"]), tiles)
    if options.pop("wide", False):
        groups = np.where(groups < "g", "x", "y")
    if options.pop("binary", False):
        y = np.minimum(y, 1)
    return numbered(y, np.array(GOLDEN["y_test"]) if case["maker"] in OFFICIAL else None, groups)


def numbered(y: Any, test: Any = None, groups: Any = None) -> Dataset:
    """A data set whose inputs are the numbers of its rows."""
    y = np.asarray(y)
    rows = np.arange(len(y) + (0 if test is None else len(test)), dtype=np.int32)[:, None]
    official = None if test is None else (rows[len(y) :], test)
    return from_arrays(rows[: len(y)], y, test=official, groups=groups, num_classes=10)


def held(data: FederatedData, split: Any) -> list[list[int]]:
    rows, x = getattr(data, split), np.asarray(data.examples.x)[:, 0]
    return [x[start : start + size].tolist() for start, size in zip(rows.start, rows.size, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_the_published_code(name: str) -> None:
    case = CASES[name]
    source = dataset(case)
    data = federate(source, getattr(published, case["maker"])(**case["options"]), test="given", min_size=0)
    clients = case["clients"]
    if isinstance(clients, dict):
        assert data.names == tuple(clients)
        clients = list(clients.values())
    everybodys = list(range(len(source), len(source) + len(GOLDEN["y_test"])))
    assert held(data, "train") == [train for train, _ in clients]
    assert held(data, "test") == [everybodys if test is None else test for _, test in clients]


def test_sizes_that_the_paper_of_pfedme_states() -> None:
    """1,165 to 3,834 training examples, of the class sizes of MNIST."""
    sizes = [6903, 7877, 6990, 7141, 6824, 6313, 6876, 7293, 6825, 6958]
    data = federate(numbered(np.repeat(np.arange(10), sizes)), published.pfedme("2020"), test="given")
    assert (data.sizes().min(), data.sizes().max()) == (1165, 3834)
    shipped = federate(numbered(np.repeat(np.arange(10), sizes)), published.pfedme(), test="given")
    assert sum(len(mine) for split in ("train", "test") for mine in held(shipped, split)) == 14_780
    meant = federate(numbered(np.repeat(np.arange(10), sizes)), published.pfedme("disjoint"), test="given")
    assert sorted(row for split in ("train", "test") for mine in held(meant, split) for row in mine) == [*range(70_000)]


def test_validation_examples_are_of_the_training_rows() -> None:
    case = CASES["PFLlib pat"]
    data = federate(dataset(case), published.pfllib(clients=10, partition="pat"), test="given", validation=0.2)
    for kept, shown, (train, _) in zip(held(data, "train"), held(data, "validation"), case["clients"], strict=True):
        assert shown
        assert sorted(kept + shown) == sorted(train)


Y = np.arange(100) % 10


@pytest.mark.parametrize(
    ("partitioner", "options", "message"),
    [
        (published.pfllib(), {}, "set test='given'"),
        (lambda dataset, generator: [np.arange(9)], {"test": "given"}, r"set test=0\.25"),
        (published.niid_bench(5, "homo"), {"test": "given", "public": 0.1}, "leave public out"),
        (published.leaf(), {"test": "given"}, "has no natural clients"),
        (published.ifca(7, 2), {"test": "given"}, "do not share"),
        (published.niid_bench(50, "mixed"), {"test": "given"}, "one for each of 10 classes"),
        (published.niid_bench(5, "labels"), {"test": "given"}, "use more clients"),
        (published.niid_bench(50, "labeldir"), {"test": "given"}, "not 10 for each"),
        (published.niid_bench(5, "labels", labels=11), {"test": "given"}, "at most 10"),
        (published.pfllib(3, "exdir", classes=11), {"test": "given"}, "at most 10"),
        (published.pfllib(90, "pat"), {"test": "given"}, "fewer clients"),
        (published.pfedme(clients=15), {"test": "given"}, "multiple of 10"),
        (published.pfedme("disjoint", clients=500), {"test": "given"}, "fewer clients"),
        (lambda dataset, generator: [published.Parts([1, 2], [2])], {"test": "given"}, "trains on row 2"),
        (lambda dataset, generator: [published.Parts([1], [2]), [3]], {"test": "given"}, "some clients only"),
    ],
)
def test_mistakes(partitioner: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        federate(numbered(Y), partitioner, **options)


def test_what_never_ends_in_the_code_is_an_error() -> None:
    """The last client's only free class is its own."""
    with pytest.raises(ValueError, match="go on for ever"):
        federate(numbered(np.repeat(Y, 20)), published.niid_bench(10, "mixed", beta=5.0, seed=4), test="given")
