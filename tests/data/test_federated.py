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


PEOPLE = np.repeat(["cy", "al", "bo", "di"], 30)


def of_people(**more: Any) -> Dataset:
    return from_arrays(np.arange(120)[:, None], np.arange(120) % 2, groups=PEOPLE, name="people", **more)


def test_index_lists_mean_the_rows_as_given() -> None:
    """As lists, as a function, as an array; named by a dictionary."""
    lists = [[5, 3, 100], [40, 41]]
    for partitioner in (p.by_index(lists), lambda dataset, generator: lists):
        data = federate(of_people(), partitioner, test=0.0)
        assert [sorted(rows) for rows in held(data, "train")] == [[3, 5, 100], [40, 41]]
        assert data.names == ("0", "1")
    square = federate(of_people(), p.by_index(np.arange(120).reshape(4, 30)), test=0.0)
    assert sorted(held(square, "train")[1]) == list(range(30, 60))
    assert square.names == ("cy", "al", "bo", "di")
    named = federate(of_people(), p.by_index({"north": [1, 2], "south": [7]}), test=0.0, unseen=0.5, seed=1)
    assert dict(zip(named.names, map(sorted, held(named, "train")), strict=True)) == {"north": [1, 2], "south": [7]}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0, 120]], r"rows of client 0 lie in 0\.\.120, and there are 120 examples"),
        ([[0], [-1]], r"rows of client 1 lie in -1\.\.-1"),
        ([[0, 1, 0]], "row 0 is held twice, by clients 0 and 0"),
        ([[0, 1], [2, 1]], "row 1 is held twice, by clients 0 and 1"),
        ([PEOPLE == "al"], "np.flatnonzero makes them of a mask"),
        ([[0.0, 1.0]], r"float64\[2\]: give whole numbers"),
        ([1, 2], r"int64\[\]: give whole numbers"),
        ([], "must return the rows of each client"),
        (None, "the partitioner returned None"),
        ([[]], "client 0 holds 0 examples"),
    ],
)
def test_bad_index_lists(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        federate(of_people(), p.by_index(rows))


@pytest.mark.parametrize("unseen", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("clients", [None, 3])
def test_clients_that_are_groups_keep_their_names(clients: int | None, unseen: float) -> None:
    """However they are chosen and numbered; a client of several groups, or of a part of one, has its number."""
    data = federate(of_people(), p.natural(clients), unseen=unseen, seed=3)
    assert len(data.names) == data.num_clients + data.num_unseen
    for name, *parts in zip(data.names, held(data, "train"), held(data, "test"), strict=True):
        assert set(PEOPLE[joined(parts)]) == {name}
    assert federate(of_people(), p.iid(3)).names == ("0", "1", "2")
    assert federate(of_people(), p.by_index([range(10), range(10, 20)])).names == ("0", "1")
    assert data.pooled().names == ("pooled",)
    numbers = from_arrays(np.zeros((6, 1)), np.zeros(6, int), groups=np.array([7, 7, 7, 5, 5, 5]))
    assert federate(numbers, p.natural()).names == ("5", "7")


def test_names_change_neither_fingerprints_nor_programs() -> None:
    """Federations that differ in names only are one program's arguments; each keeps its own."""
    pairs = [([[1.0], [2.0]], ["a", "b"]), ([[3.0], [4.0]], ["b", "a"])]
    plain = from_clients([(x, [int(label == "b") for label in y]) for x, y in pairs])
    one, other = (from_clients(pairs, names=names) for names in (["n", "s"], ["e", "w"]))
    assert plain.fingerprint == one.fingerprint == other.fingerprint
    traced = []
    sizes = jax.jit(lambda data: traced.append(data) or data.train.size)
    for data in (plain, one, other):
        assert sizes(data).tolist() == [2, 2]
        assert jax.device_put(data).names == data.names
    assert len(traced) == 1
    assert (one.names, other.names, one.class_names, plain.class_names) == (("n", "s"), ("e", "w"), ("a", "b"), None)
    for names in (["n"], ["n", "n"], "ns", 5):
        with pytest.raises(ValueError, match="give one name for each of 2 clients, all different"):
            from_clients(pairs, names=names)  # type: ignore[arg-type]


def test_official_examples_of_the_same_person() -> None:
    """Each client gets those of its group and no other; without any there is an error that says so."""
    tested = np.repeat(["bo", "al", "eve"], 10)
    official = from_arrays(1000 + np.arange(30)[:, None], np.arange(30) % 2, groups=tested)
    data = federate(of_people(test=official), p.natural(), test="mirror", unseen=0.25, seed=2)
    for name, rows in zip(data.names, held(data, "test"), strict=True):
        assert sorted(rows) == (1000 + np.flatnonzero(tested == name)).tolist()
    assert sorted(data.sizes("test").tolist()) == [0, 0, 10, 10]
    assert sum(federate(of_people(test=official), p.iid(4), test="mirror").sizes("test")) == 30
    assert "eve" in federate(of_people(test=official), p.natural(), test="pooled").names
    others = from_arrays(np.arange(30)[:, None], np.arange(30) % 2, groups=np.repeat("eve", 30))
    with pytest.raises(ValueError, match="of other groups, such as eve, than the clients, such as al: give a share"):
        federate(of_people(test=others), p.natural(), test="mirror")


@quick
@given(
    labels=st.lists(st.integers(0, 4), min_size=4, max_size=60),
    test=st.sampled_from([0.1, 0.25, 0.5, 0.9]),
    validation=st.sampled_from([0.0, 0.3]),
    chronological=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stratified(labels: list[int], test: float, validation: float, chronological: bool, seed: int) -> None:
    """Each class of each client in proportion; with two examples it is on both sides; nothing is lost."""
    y = np.array(labels)
    dataset = from_arrays(np.arange(len(y))[:, None], y)
    options = {"test": test, "validation": validation, "chronological": chronological, "seed": seed}
    data = federate(dataset, p.iid(2), stratify=True, **options)
    dealt = joined(joined(held(data, split)) for split in ("train", "validation", "test"))
    assert sorted(dealt) == list(range(len(y)))
    train, validating, testing = (data.label_counts(split) for split in ("train", "validation", "test"))
    count = train + validating + testing
    assert (np.abs(testing - np.clip(test * count, np.minimum(1, count - 1), count - 1))[count > 0] <= 0.5).all()
    assert (train[count > 0] > 0).all()
    assert ((testing > 0) == (count > 1)).all()
    assert ((validating > 0) == ((count - testing > 1) & (validation > 0))).all()


def test_stratified_digits() -> None:
    """Where the random split leaves classes of a client untested or untrained, the stratified one does not."""
    y = np.random.default_rng(0).integers(0, 10, 600)
    dataset = from_arrays(np.arange(600)[:, None], y)
    for stratify in (False, True):
        data = federate(dataset, p.dirichlet(20, 0.1, min_size=5), stratify=stratify, seed=0)
        train, test = data.label_counts("train"), data.label_counts("test")
        assert bool(((train == 0) & (test > 0)).any() or ((train > 2) & (test == 0)).any()) is not stratify


@pytest.mark.parametrize("stratify", [False, True])
def test_chronological(stratify: bool) -> None:
    """Trained on the past, validated on what follows, tested on the last; by times, or in the order given."""
    times = np.random.default_rng(0).permutation(120)
    stamps = np.datetime64("2024-01-01") + times
    for dataset, when in ((of_people(times=stamps), times), (of_people(), np.arange(120))):
        data = federate(dataset, p.natural(), validation=0.2, stratify=stratify, chronological=True)
        assert data.sizes("test").tolist() == [8 if stratify else 7] * 4
        for parts in zip(*(held(data, split) for split in ("train", "validation", "test")), strict=True):
            train, validating, testing = (when[rows] for rows in parts)
            assert (np.diff(train) > 0).all()
            for label in (0, 1) if stratify else (slice(None),):
                mine = [w if isinstance(label, slice) else w[np.asarray(rows) % 2 == label] for w, rows in
                        zip((train, validating, testing), parts, strict=True)]  # fmt: skip
                assert mine[0].max() < mine[1].min()
                assert mine[1].max() < mine[2].min()


def test_units_in_time() -> None:
    """A unit is tested as a whole, if it ends among the last."""
    units = np.repeat([3, 1, 0, 2], 5)[np.array([0, 6, 1, 7, 2, 8, 3, 9, 4, 5, *range(10, 20)])]
    dataset = from_arrays(np.arange(20)[:, None], np.zeros(20, int), units=units)
    data = federate(dataset, p.iid(1), test=0.5, chronological=True)
    assert sorted(held(data, "test")[0]) == list(range(10, 20))


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (from_arrays(np.zeros((4, 1)), np.linspace(0, 1, 4)), "needs one class for each example"),
        (from_arrays(np.zeros((4, 1)), np.zeros((4, 2), int)), "needs one class for each example"),
        (from_arrays(np.zeros((4, 1)), [0, 1, 0, 0], units=["a", "b", "b", "a"]), "would tear the unit b"),
    ],
)
def test_what_cannot_be_stratified(dataset: Dataset, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        federate(dataset, p.iid(1), stratify=True)


def test_units_of_one_class_are_stratified() -> None:
    units = np.arange(60) // 5
    data = federate(from_arrays(np.arange(60)[:, None], units % 2, units=units), p.iid(1), stratify=True, test=0.3)
    assert data.label_counts("test").tolist() == [[10, 10]]
    assert len(set(units[held(data, "test")[0]])) == 4


SLIPS: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "no brackets": (of_people(), p.natural, {}, r"natural makes a partitioner: call it, as in pfl\.natural"),
    "a name": (of_people(), "dirichlett", {}, "'dirichlett' is a name, .* did you mean 'dirichlet'"),
    "lists": (of_people(), [[1], [2]], {}, r"use pfl\.by_index for lists of rows"),
    "nothing": (of_people(), None, {}, "is no function .dataset, generator."),
    "one argument": (of_people(), lambda dataset: [[1]], {}, "is no function .dataset, generator."),
    "the other way round": (p.iid(3), of_people(), {}, "federate deals a data set, not iid"),
    "arrays": ((np.zeros((3, 1)), [0, 1, 2]), p.iid(3), {}, "make one with load or from_arrays"),
    "a federation": (federate(of_people(), p.iid(2)), p.iid(3), {}, "make one with load or from_arrays"),
    "no seed": (of_people(), p.iid(3), {"seed": -1}, "seed=-1: it must be a whole number"),
    "a huge seed": (of_people(), p.iid(3), {"seed": 2**70}, "seed=1180591620717411303424: it must be"),
    "True": (of_people(), p.iid(3), {"test": True}, "test=True: it must be a number"),
    "None": (of_people(), p.iid(3), {"validation": None}, "validation=None: it must be a number"),
    "below 0": (of_people(), p.iid(3), {"unseen": -1}, "unseen=-1: it must be a whole number of at least 0"),
    "a word": (of_people(), p.iid(3), {"stratify": "yes"}, "stratify='yes': it must be True or False"),
    "a negative size": (of_people(), p.iid(3), {"min_size": -1}, "min_size=-1: it must be a whole number"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_slips(slip: str) -> None:
    dataset, partitioner, options, message = SLIPS[slip]
    with pytest.raises(ValueError, match=message) as error:
        federate(dataset, partitioner, **options)
    assert len(str(error.value)) < 250


def shown(data: FederatedData) -> list[int]:
    assert data.public is not None
    start, size = int(data.public.start), int(data.public.size)
    return np.asarray(data.examples.x)[start : start + size, 0].tolist()


@quick
@given(
    examples=st.integers(10, 80),
    public=st.sampled_from([0.05, 0.3, 0.6]),
    unseen=st.sampled_from([0.0, 0.4]),
    validation=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 99),
)
def test_public_examples_are_nobodys(examples: int, public: float, unseen: float, validation: float, seed: int) -> None:
    """Each example is somebody's or public, never both; about as many are public as was said; labels stay with x."""
    data = federate(numbered(examples), p.iid(3), public=public, unseen=unseen, validation=validation, seed=seed)
    own = joined(rows for split in ("train", "validation", "test") for rows in held(data, split))
    assert sorted([*own, *shown(data)]) == list(range(examples))
    assert abs(len(shown(data)) - public * examples) <= 0.5
    np.testing.assert_array_equal(data.examples.y, np.asarray(data.examples.x)[:, 0] % 3)


def test_public_examples_have_a_stream_of_their_own() -> None:
    """Without them a federation keeps its fingerprint; others than those left are public by another seed."""
    dataset = numbered(60)
    assert federate(dataset, p.dirichlet(3, 1.0), public=0.0).fingerprint == "299d8d6069ccf60a"
    first, second = (federate(dataset, p.iid(3), public=0.2, seed=seed) for seed in (0, 1))
    assert sorted(shown(first)) != sorted(shown(second))
    assert first.fingerprint != second.fingerprint != federate(dataset, p.iid(3)).fingerprint
    # what is left is dealt as a data set of its own
    left = np.setdiff1d(np.arange(60), shown(first))
    assert held(federate(dataset.take(left), p.iid(3)), "test") == held(first, "test")


def test_public_examples_do_not_depend_on_the_order_of_the_source_and_tear_no_unit() -> None:
    x, order = np.arange(40)[:, None], np.random.default_rng(0).permutation(40)
    y, units = np.arange(40) % 3, np.arange(40) // 4
    one, other = (
        federate(from_arrays(x[rows], y[rows], units=units[rows]), p.iid(3), public=0.3)
        for rows in (np.arange(40), order)
    )
    assert sorted(shown(one)) == sorted(shown(other))
    assert len(shown(one)) == 12
    assert set(np.bincount(np.array(shown(one)) // 4, minlength=10)) == {0, 4}
    plain = (federate(from_arrays(x[rows], y[rows]), p.iid(3), public=0.3) for rows in (np.arange(40), order))
    assert len({data.fingerprint for data in plain}) == 1


def test_public_examples_beside_an_official_test_set_and_labels_that_do_not_count() -> None:
    """None of the test examples is public, nor one without a label that counts; labels that mark nothing stay."""
    x, y = np.arange(30)[:, None], np.tile([[0, 1], [2, 255], [255, 255]], (10, 1))
    data = federate(from_arrays(x, y, ignore=255), p.iid(2), public=0.4)
    assert len(shown(data)) == 8
    assert all(row % 3 < 2 for row in shown(data))
    official = from_arrays(x, y[:, 0] % 3, test=(x + 100, y[:, 0] % 3))
    for test in ("mirror", "pooled"):
        data = federate(official, p.iid(2), public=0.4, test=test)
        assert len(shown(data)) == {"mirror": 12, "pooled": 24}[test]
        assert (max(shown(data)) < 100) == (test == "mirror")


def test_a_share_that_cannot_be_public_is_refused() -> None:
    with pytest.raises(ValueError, match=r"public=1\.0: it must be a number"):
        federate(numbered(9), p.iid(2), public=1.0)
    with pytest.raises(ValueError, match=r"public=0\.5 leaves nothing to deal: toy is a single unit"):
        federate(numbered(9, units=np.zeros(9, int)), p.iid(2), public=0.5)


def test_traits_that_cannot_be_meant() -> None:
    data = from_clients([([[1.0]], [0]), ([[2.0]], [1])], unseen=1)
    with pytest.raises(ValueError, match="have 3 rows: give one for each of 2 clients"):
        data.with_traits([1, 2, 3])
    with pytest.raises(ValueError, match="traits of clients"):
        data.with_traits({"age": [1.0, np.nan]})
    older = data.with_traits({"age": [31, 58]})
    assert older.fingerprint not in (data.fingerprint, data.with_traits({"age": [31, 59]}).fingerprint)
    assert [int(older.client(id).traits["age"]) for id in range(2)] == [31, 58]
    assert older.pooled().traits == ()


def test_views_of_validation_and_public_examples() -> None:
    """Both are rows of the examples that a client's view has already."""
    data = from_clients([([[1.0], [2.0]], [0, 1]), ([[3.0]], [1])], None, [([[4.0]], [0]), ([], [])])
    data = data.with_public([[5.0], [6.0], [7.0]])
    view = data.client(0)
    own, seen = view.on(view.validation), view.on(view.public)
    x = np.asarray(data.examples.x)[:, 0]
    assert x[int(own.start) : int(own.start + own.size)].tolist() == [4]
    assert x[int(seen.start) : int(seen.start + seen.size)].tolist() == [5, 6, 7]
    assert int(data.client(1).validation.size) == 0
    with pytest.raises(ValueError, match="has public examples already"):
        data.with_public([[8.0]])
