"""The packed federation: who holds which rows, splits, views, fingerprints."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pfljax.data import Dataset, FederatedData, federate, from_arrays, from_clients
from pfljax.data import partition as p

quick = settings(max_examples=40, deadline=None)


def numbered(examples: int, classes: int = 3, **more: Any) -> Dataset:
    """Example i has x = i."""
    return Dataset("toy", np.arange(examples)[:, None].astype(np.int16), np.arange(examples) % classes, classes, **more)


def held(data: FederatedData, split: Any) -> list[list[int]]:
    rows, x = getattr(data, split), np.asarray(data.examples.x)[:, 0]
    return [x[a : a + n].tolist() for a, n in zip(rows.start, rows.size, strict=True)]


def joined(parts: Iterable[list[int]]) -> list[int]:
    return list(chain.from_iterable(parts))


@quick
@given(
    examples=st.integers(10, 80),
    clients=st.integers(2, 10),
    test=st.sampled_from([0.0, 0.1, 0.25, 0.9]),
    validation=st.sampled_from([0.0, 0.2, 0.99]),
    unseen=st.sampled_from([0.0, 0.2, 0.4]),
    seed=st.integers(0, 99),
)
def test_splits(examples: int, clients: int, test: float, validation: float, unseen: float, seed: int) -> None:
    """Each example in exactly one split of one client; at least one to train, and to test where there are two."""
    dataset, partitioner = numbered(examples), p.power_law(clients, 0.5, min_size=1)
    data = federate(dataset, partitioner, test=test, validation=validation, unseen=unseen, seed=seed)
    parts = {split: held(data, split) for split in ("train", "validation", "test")}
    assert sorted(joined(rows for of in parts.values() for rows in of)) == list(range(examples))
    assert data.num_unseen == round(unseen * clients)
    assert data.num_clients + data.num_unseen == clients == len(parts["train"])
    for train, validating, testing in zip(*parts.values(), strict=True):
        count = len(train) + len(validating) + len(testing)
        assert len(train) >= 1
        wanted = min(max(test * count, 1), count - 1) if test else 0
        assert abs(len(testing) - wanted) <= 0.5
        rest = count - len(testing)
        assert bool(validating) == (rest > 1 and validation > 0)
    assert data.capacity == max(map(len, parts["train"]))
    y = np.asarray(data.examples.y)
    assert (np.asarray(data.examples.x)[:, 0] % 3 == y).all()


def test_layout() -> None:
    """Training rows first, client by client; the pooled training set of the N clients is the first rows."""
    data = federate(numbered(40), p.iid(8), validation=0.2, unseen=0.25)
    for rows in (data.train, data.validation, data.test):
        assert np.array_equal(rows.start[1:], rows.start[0] + np.cumsum(rows.size)[:-1])
    assert data.train.start[0] == 0
    assert data.validation.start[0] == data.sizes("train").sum()
    assert data.test.start[0] == data.validation.start[0] + data.sizes("validation").sum()
    pooled = data.pooled()
    assert (pooled.num_clients, pooled.num_unseen) == (1, 0)
    for split in ("train", "validation", "test"):
        assert held(pooled, split) == [joined(held(data, split)[:6])]
    assert pooled.capacity == pooled.sizes()[0]
    assert pooled.fingerprint != data.fingerprint


def test_streams_are_separate() -> None:
    """Neither a validation share nor unseen clients change who holds what or what is tested."""
    dataset, partitioner = numbered(60), p.dirichlet(6, 1.0, min_size=3)
    plain = federate(dataset, partitioner)
    assert held(federate(dataset, partitioner, validation=0.3), "test") == held(plain, "test")
    everything = [
        {frozenset(a + b) for a, b in zip(held(data, "train"), held(data, "test"), strict=True)}
        for data in (plain, federate(dataset, partitioner, unseen=0.5))
    ]
    assert everything[0] == everything[1]


def test_units_stay_together() -> None:
    """Windows of one recording are never on two sides of a split."""
    units = np.arange(120) // 5
    dataset = numbered(120, units=units, groups=np.arange(120) // 40)
    data = federate(dataset, p.natural(), validation=0.3)
    for train, validation, test in zip(*(held(data, s) for s in ("train", "validation", "test")), strict=True):
        of = [set(units[rows]) for rows in (train, validation, test)]
        assert all(of)
        assert len(of[0] | of[1] | of[2]) == sum(map(len, of))
        assert len(test) == 10


def test_official_test_set() -> None:
    """Mirrored: every official example dealt once, class by class as the training examples are. Pooled: split anew."""
    official = Dataset("toy", np.arange(1000, 1090)[:, None].astype(np.int16), np.arange(90) % 3, 3)
    dataset = numbered(300, test=official)
    assert sum(federate(dataset, p.iid(5)).sizes("test")) == 75
    mirrored = federate(dataset, p.dirichlet(5, 0.5, min_size=1), test="mirror")
    assert mirrored.sizes().sum() == 300
    assert sorted(joined(held(mirrored, "test"))) == list(range(1000, 1090))
    exact = mirrored.label_counts() * 30 / 100
    assert (np.abs(mirrored.label_counts("test") - exact) < 1).all()
    pooled = federate(dataset, p.iid(5), test="pooled")
    assert pooled.sizes("train").sum() + pooled.sizes("test").sum() == 390
    with pytest.raises(ValueError, match="has no official test set"):
        federate(numbered(30), p.iid(3), test="pooled")
    with pytest.raises(ValueError, match="needs an official test set"):
        federate(numbered(30), p.iid(3), test="mirror")


def test_small_clients() -> None:
    """A single example is trained on; none at all is an error that names the client, unless allowed."""
    data = federate(numbered(6), p.iid(3, [1, 2, 3]))
    assert data.sizes("train").tolist() == [1, 1, 2]
    assert data.sizes("test").tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match=r"client 1 holds 0 examples, fewer than min_size=1: use fewer clients"):
        federate(numbered(6), p.iid(3, [3, 0, 3]))
    assert federate(numbered(6), p.iid(3, [3, 0, 3]), min_size=0).sizes("train").tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    "options",
    [
        *({"test": share} for share in (1.0, -0.1, float("nan"), "mirrored")),
        *({"validation": 1.5}, {"unseen": 1.0}, {"unseen": 0.99}),
    ],
)
def test_bad_shares(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        federate(numbered(30), p.iid(3), **options)


def test_fingerprint_changes_with_data_or_partition_only() -> None:
    dataset, partitioner = numbered(40), p.iid(4)
    first = federate(dataset, partitioner)
    assert len(first.fingerprint) == 16
    assert first.fingerprint == federate(dataset, partitioner).fingerprint
    assert first.fingerprint == jax.device_put(first).fingerprint
    changed = dataset.x.copy()
    changed[7] += 1
    others = [
        federate(Dataset("toy", changed, dataset.y, 3), partitioner),
        federate(Dataset("toy", dataset.x, (dataset.y + 1) % 3, 3), partitioner),
        federate(Dataset("toy", dataset.x.astype(np.int32), dataset.y, 3), partitioner),
        federate(dataset, partitioner, seed=1),
        federate(dataset, partitioner, validation=0.2),
        federate(dataset, partitioner, unseen=0.25),
        federate(dataset, p.iid(5)),
    ]
    prints = [first.fingerprint, *(data.fingerprint for data in others)]
    assert len(set(prints)) == len(prints)


def test_view_under_jit_and_beyond_the_population(strict: None) -> None:
    data = jax.device_put(from_clients([([[1.0], [2.0]], [0, 1]), ([[3.0]], [1]), ([[4.0]] * 3, [0] * 3)], unseen=1))
    view = jax.jit(lambda data, id: data.client(id))
    for id, (start, size) in enumerate([(0, 2), (2, 1), (3, 3)]):
        got = view(data, id)
        assert (int(got.start), int(got.size), int(got.id)) == (start, size, id)
    assert int(view(data, 3).size) == int(view(data, 10**6).size) == 0
    assert int(data.client(1, "test").size) == 0
    starts = jax.vmap(lambda id: data.client(id).start)(np.arange(3))
    assert starts.tolist() == [0, 2, 3]
    with pytest.raises(ValueError, match="split='valid': choose train, validation, test"):
        data.client(0, "valid")  # type: ignore[arg-type]


def test_from_clients_trees_and_empty_clients() -> None:
    """Inputs may be trees; a client without examples takes the dtypes of the others; dtypes are kept."""
    pair = ({"a": np.ones((2, 3), np.uint8), "b": np.zeros((2,))}, [0, 4])
    none = ({"a": [], "b": []}, [])
    data = from_clients([none, pair], test=[pair, none])
    assert data.examples.x["a"].dtype == np.uint8
    assert data.examples.x["a"].shape == (4, 3)
    assert data.examples.y.dtype == np.int32
    assert data.sizes().tolist() == [0, 2]
    assert data.sizes("test").tolist() == [2, 0]
    assert data.num_classes == 5
    assert data.label_counts().tolist() == [[0] * 5, [1, 0, 0, 0, 1]]
    assert from_clients([([[1.0]], [0.5])]).num_classes is None


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ([([[1.0]], [0])], {"unseen": 1}, "unseen=1 of 1"),
        ([], {}, "unseen=0 of 0"),
        ([([[1.0]], [0])], {"test": []}, "test lists 0 clients"),
        ([([[1.0]], [0]), ([[1.0, 2.0]], [0])], {}, r"client 1 \(train\) has rows"),
        ([([[1.0]], [0]), ([[1.0]], [0, 1])], {}, r"client 1 \(train\) has 1 inputs and 2 labels"),
        ([([[1.0]], [0]), ({"a": [[1.0]]}, [0])], {}, r"client 1 \(train\) has PyTreeDef"),
    ],
)
def test_from_clients_errors(train: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_clients(train, **options)


def test_describe() -> None:
    data = from_clients([([[1.0], [2.0]], [0, 1]), ([[3.0]], [1]), ([[4.0]] * 3, [0] * 3)], unseen=1)
    assert data.describe() == {
        "clients": 2,
        "unseen": 1,
        "examples": 6,
        "train_examples": 6,
        "validation_examples": 0,
        "test_examples": 0,
        "size_min": 1,
        "size_median": 2.0,
        "size_max": 3,
        "classes": 2,
        "labels_per_client": 4 / 3,
    }
    with pytest.raises(ValueError, match="no classes to count"):
        from_clients([([[1.0]], [0.5])]).label_counts()


@quick
@given(order=st.permutations(range(12)))
def test_rows_keep_their_order_and_partitions_forget_it(order: list[int]) -> None:
    x = np.random.default_rng(0).integers(0, 256, (12, 4), np.uint8)
    x[6:9] = x[5]  # equal inputs are told apart by their labels
    y, groups = np.arange(12) % 4, np.arange(12)
    one, other = (
        from_arrays(x, y, groups=groups),
        from_arrays(x[order], y[order].astype(np.uint8), groups=groups[order]),
    )
    assert (one.x == x).all()
    assert (other.x == x[order]).all()
    one, other = (data.take(data.order) for data in (one, other))  # type: ignore[arg-type]
    for a, b in ((one.x, other.x), (one.y, other.y), (one.groups, other.groups), (one.order, np.arange(12))):
        assert np.array_equal(a, b)  # type: ignore[arg-type]
    assert (one.x == x[one.groups]).all()
    dealt = (federate(data, p.iid(3)).fingerprint for data in (from_arrays(x, y), from_arrays(x[order], y[order])))
    assert len(set(dealt)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": np.zeros((3, 1))}, "has 3 rows and y has 2"),
        ({"groups": np.zeros(3)}, "groups has 3 rows and y has 2"),
        ({"x": np.array([[0.0], [np.nan]])}, "not finite in row 1"),
        ({"y": np.array([0.0, np.inf])}, "y is not finite in row 1"),
        ({"y": np.array([0, 2]), "num_classes": 2}, r"labels lie in 0\.\.2"),
        ({"y": np.array([0, -1])}, r"labels lie in -1\.\.0"),
    ],
)
def test_bad_arrays(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(**({"x": np.zeros((2, 1)), "y": np.array([0, 1])} | options))
