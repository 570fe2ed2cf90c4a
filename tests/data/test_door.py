"""The one door: arrays of every kind give the same data or one sentence, by whichever way they come in."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from pfljax.data import Dataset, FederatedData, federate, from_arrays, from_clients
from pfljax.data import partition as p

T = 12
X = np.random.default_rng(0).normal(size=(T, 3)).astype(np.float32)
Y = np.arange(T) % 3
ROW = "abcabcabcabc"

WAYS: dict[str, Callable[..., Dataset | FederatedData]] = {
    "arrays": from_arrays,
    "clients": lambda x, y, **more: from_clients([(x, y)], **more),
    "official test set": lambda x, y, **more: from_arrays(x, y, test=(x, y), **more),
}
ways = pytest.mark.parametrize("way", WAYS)


def changed(value: Any) -> np.ndarray:
    """The inputs in float64, with one value in row 2 replaced."""
    x = X.astype(float)
    x[2, 1] = value
    return x


def memory_map(folder: Path) -> np.ndarray:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r")


SAME_INPUTS: dict[str, Callable[[Path], Any]] = {
    "big-endian": lambda _: X.astype(">f4"),
    "in Fortran's order": lambda _: np.asfortranarray(X),
    "a view": lambda _: np.repeat(X, 2, axis=1)[:, ::2],
    "read-only": lambda _: np.frombuffer(X.tobytes(), np.float32).reshape(X.shape),
    "a memory map": memory_map,
    "masked, nothing missing": lambda _: np.ma.array(X),
    "a JAX array": lambda _: jnp.asarray(X),
    "a list of arrays": lambda _: list(X),
    "a table": lambda _: pd.DataFrame(X, index=np.arange(T)[::-1], columns=["a", "b", "c"]),
}
SAME_LABELS: dict[str, Any] = {
    "bytes": Y.astype(np.uint8),
    "big-endian": Y.astype(">i2"),
    "unsigned": Y.astype(np.uint64),
    "a column": Y[:, None],
    "a list": Y.tolist(),
    "a pandas column": pd.Series(Y, index=np.arange(T)[::-1]),
    "nullable": pd.Series(Y, dtype="Int64"),
    "a table of one column": pd.DataFrame({"y": Y}),
    "text": np.array(list(ROW)),
    "text of bytes": np.array([each.encode() for each in ROW]),
    "text in objects": np.array(list(ROW), object),
    "text in a list": list(ROW),
    "text in pandas": pd.Series(list(ROW)),
    "categories": pd.Categorical(list("zyxzyxzyxzyx"), categories=["z", "y", "x"]),
    "categories in pandas": pd.Series(list(ROW), dtype="category"),
    "categories of numbers": pd.Categorical(Y * 10),
}


@pytest.mark.parametrize("kind", SAME_INPUTS)
def test_the_same_inputs(kind: str, tmp_path: Path) -> None:
    """One fingerprint, however the numbers lie in memory."""
    x = SAME_INPUTS[kind](tmp_path)
    assert from_clients([(x, Y)]).fingerprint == from_clients([(X, Y)]).fingerprint
    assert federate(from_arrays(x, Y), p.iid(3)).fingerprint == federate(from_arrays(X, Y), p.iid(3)).fingerprint


@pytest.mark.parametrize("kind", SAME_LABELS)
def test_the_same_labels(kind: str) -> None:
    y = SAME_LABELS[kind]
    for data in (from_clients([(X, y)]), federate(from_arrays(X, y), p.by_index([np.arange(T)]), test=0.0)):
        assert data.num_classes == 3
        assert np.asarray(data.examples.y).dtype == np.int32
    assert from_clients([(X, y)]).fingerprint == from_clients([(X, Y)]).fingerprint


def test_names_of_classes_are_kept() -> None:
    """Text in sorted order, categories in their own with those that do not occur, Booleans as 0 and 1."""
    levels = pd.Categorical(["low", "high", "low"] * 4, categories=["low", "mid", "high"])
    for y, names, first in (
        (["cat", "ant", "bee"] * 4, ("ant", "bee", "cat"), 2),
        (levels, ("low", "mid", "high"), 0),
        (Y > 0, ("False", "True"), 0),
        (np.zeros(T, bool), ("False", "True"), 0),
    ):
        dataset = from_arrays(X, y)
        data = federate(dataset, p.iid(2))
        assert dataset.class_names == data.class_names == from_clients([(X, y)]).class_names == names
        assert dataset.num_classes == len(names)
        assert dataset.y[0] == first
    assert from_arrays(X, Y).class_names is None


def test_parts_are_numbered_alike() -> None:
    """A class that one client or the test set lacks does not shift the numbers of the others."""
    some, others = np.array(["b", "c"] * 6), np.array(["a", "c"] * 6)
    data = from_clients([(X, some), (X, others)], [(X, others), (X, some)])
    assert data.class_names == ("a", "b", "c")
    assert np.asarray(data.examples.y)[:: T // 2].tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
    for test in ((X, others), from_arrays(X, others)):
        dataset = from_arrays(X, some, test=test)
        assert dataset.test is not None
        assert (dataset.y[:2].tolist(), dataset.test.y[:2].tolist()) == ([1, 2], [0, 2])
        assert dataset.test.class_names == ("a", "b", "c")
    ordered = pd.Categorical(["c", "b"] * 6, categories=["c", "b", "a"])
    assert from_clients([(X, ordered), (X, others)]).class_names == ("c", "b", "a")


def test_floats_are_classes_where_their_number_is_given() -> None:
    assert from_arrays(X, Y.astype(float)).num_classes is None
    dataset = from_arrays(X, Y.astype(float), num_classes=3)
    assert dataset.y.dtype == np.int32
    with pytest.raises(ValueError, match=r"y holds 0\.5 in row 0, and classes are whole numbers"):
        from_arrays(X, Y + 0.5, num_classes=3)


STAMPS = 1.7e9 + np.arange(T)[:, None]
BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "NaN": (changed(np.nan), "x.* is not finite in row 2"),
    "infinite": (changed(np.inf), "x.* is not finite in row 2"),
    "beyond float32": (changed(1e39), r"x.* reaches 1e\+39 in row 2"),
    "beyond int32": (np.full((T, 1), 2**32), "beyond the 32 bits"),
    "beyond uint32": (np.full((T, 1), 2**63, np.uint64), "beyond the 32 bits"),
    "time stamps": (STAMPS, "tell hardly anything apart: subtract its mean"),
    "whole time stamps": (STAMPS.astype(int), "tell hardly anything apart: subtract its mean"),
    "below float32": (X.astype(float) * 1e-50, "tell hardly anything apart"),
    "complex": (X + 1j, "x.* holds complex numbers: give real and imaginary parts"),
    "objects": (X.astype(object), r"array of objects, with float in row 0: make it numbers with astype\(float\)"),
    "None among numbers": ([[None, 1.0]] * T, "x.* is missing in row 0"),
    "text": (np.full((T, 2), "a"), "x.* holds text: number it first"),
    "text beside numbers": ([[1.0, "a"]] * T, "array of objects, with float in row 0"),
    "dates": (np.zeros((T, 1), "M8[s]"), "x.* holds dates: give numbers"),
    "dates in a list": ([[datetime.date(2020, 1, 1)]] * T, "array of objects, with date in row 0"),
    "records": (np.zeros(T, [("a", "f4")]), "give one array for each field"),
    "rows without numbers": (np.zeros((T, 0)), r"the shape \[12, 0\]"),
    "fewer rows": (X[:5], r"has 5 (rows and y has 12|inputs and 12 labels)"),
    "a number": (3.0, "x.* is a single value"),
    "nothing": (None, "x.* is one NoneType"),
    "an empty tree": ({}, r"x.* is \{\} and holds no array"),
    "a hole in a tree": ({"a": X, "b": None}, r"x\['b'\].* is one NoneType"),
    "rows of several lengths": ([[1.0], [1.0, 2.0]] * 6, "is no array"),
    "tuples of numbers": (tuple(map(tuple, X.tolist())), r"x\[0\]\[0\].* is a single value"),
    "a sparse matrix": (scipy.sparse.csr_matrix(X), "x.* is one csr_matrix: give an array"),
    "an iterator": ((each for each in X), "x.* is one generator: give an array"),
    "masked values": (np.ma.array(X, mask=X > 1), r"x.* has masked values: fill them in with filled"),
    "a table with text": (pd.DataFrame({"a": Y, "town": list(ROW)}), "columns that are no numbers, town"),
    "a table with dates": (pd.DataFrame({"a": Y, "day": pd.date_range("2020", periods=T)}), "no numbers, day"),
    "a table with a gap": (pd.DataFrame({"a": pd.array([None] + [1] * 11, dtype="Int64")}), "not finite in row 0"),
    "a table without columns": (pd.DataFrame(index=range(T)), "without columns"),
}


@ways
@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_inputs(kind: str, way: str) -> None:
    """The same sentence by every way in, with the row and the remedy."""
    x, message = BAD_INPUTS[kind]
    with pytest.raises(ValueError, match=message) as error:
        WAYS[way](x, Y)
    assert "\n" not in str(error.value)


BAD_LABELS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "from 1": (Y + 1, {"num_classes": 3}, r"labels lie in 1\.\.3 .*num_classes=3.*subtract 1 from all"),
    "C": (Y, {"num_classes": 2}, r"labels lie in 0\.\.2 \(row 2.*say ignore=2"),
    "-1": (Y - 1, {}, r"labels lie in -1\.\.1 \(row 0.*say ignore=-1"),
    "beyond int32": (Y + 2**32, {}, "labels go up to 4294967298, so many classes"),
    "beyond int32 of 3": (Y + 2**32, {"num_classes": 3}, r"labels lie in 4294967296\.\.4294967298"),
    "identifiers": (Y * 10**6, {}, "number those that occur"),
    "NaN": (np.where(Y == 1, np.nan, Y), {}, "y is not finite in row 1"),
    "huge targets": (Y * 1e39, {}, r"y reaches 1e\+39 in row 1"),
    "complex": (Y + 1j, {}, "y.* holds complex numbers"),
    "dates": (np.zeros(T, "M8[D]"), {}, "y.* holds dates"),
    "objects": (Y.astype(object), {}, "array of objects, with int in row 0"),
    "None among text": (["a", None, "b"] * 4, {}, "y.* is missing in row 1"),
    "NaN among text": (pd.Series(["a", np.nan, "b"] * 4), {}, "y.* is missing in row 1"),
    "a missing category": (pd.Categorical(["a", None, "b"] * 4), {}, "y.* is missing in row 1"),
    "numbers beside text": ([1, "a", 2] * 4, {}, "array of objects, with int in row 0"),
    "a single value": (1, {}, "y.* is a single value"),
    "nothing": (None, {}, "y.* is one NoneType"),
    "several lengths": ([[1], [1, 2]] * 6, {}, "y.* is no array"),
    "masked": (np.ma.array(Y, mask=Y > 1), {}, "y.* has masked values"),
    "no classes": (Y, {"num_classes": 0}, "num_classes=0: it must be a whole number from 1"),
    "a part of a class": (Y, {"num_classes": 2.5}, r"num_classes=2\.5"),
    "more names than classes": (list(ROW), {"num_classes": 2}, "y has 3 classes by name, and num_classes=2"),
    "an ignored name": (list(ROW), {"ignore": 1}, "labels have names, ignore=1 is for numbers"),
}


@ways
@pytest.mark.parametrize("kind", BAD_LABELS)
def test_bad_labels(kind: str, way: str) -> None:
    y, options, message = BAD_LABELS[kind]
    with pytest.raises(ValueError, match=message) as error:
        WAYS[way](X, y, **options)
    assert "\n" not in str(error.value)


def test_messages_name_client_and_row() -> None:
    for x, y in ((X, Y - 1), (changed(np.nan).astype(np.float32), Y)):
        with pytest.raises(ValueError, match=r"row [02] of client 1 \(test\)"):
            from_clients([(X, Y)] * 2, [(X, Y), (x, y)])
    with pytest.raises(ValueError, match=r"y of client 1 \(train\) holds complex"):
        from_clients([(X, Y), (X, Y + 1j)])
    with pytest.raises(ValueError, match="row 0 of the official test set"):
        from_arrays(X, Y, test=(X, Y - 1))
    with pytest.raises(ValueError, match="labels are of several kinds, text and whole numbers"):
        from_clients([(X, Y), (X, list(ROW))])
    with pytest.raises(ValueError, match=r"official test set of arrays has rows float64\[3\], but the training set"):
        from_arrays(X, Y, test=(X.astype(float), Y))


def test_what_32_bits_hold_is_taken(x64: None) -> None:
    """Columns that are constant up to rounding are no loss; with 64 bits in JAX nothing is."""
    assert len(from_arrays(STAMPS, Y)) == T


@pytest.mark.parametrize(
    "x", [np.full((T, 1), 0.3) + 1e-17 * X[:, :1], np.full((T, 1), 1e9), 1e5 + X.astype(float), (100 * X).astype(int)]
)
def test_harmless_columns_pass(x: np.ndarray) -> None:
    assert from_arrays(x, Y).x.dtype == x.dtype


@pytest.mark.parametrize("name", ["groups", "units", "times"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(Y == 1, np.nan, Y), "missing in row 1"),
        (np.array(["NaT", "2020"] * 6, "M8[D]"), "missing in row 0"),
        ([1, "a"] * 6, "array of objects, with int in row 0"),
        ([None, "a"] * 6, "missing in row 0"),
        (np.stack([Y, Y], 1), r"int64\[12, 2\]: give one number or text for each example"),
        (Y[:4], "has 4 rows and y has 12"),
        (Y + 1j, "give one number or text"),
    ],
)
def test_bad_keys(name: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(X, Y, **{name: values})


def test_empty_data() -> None:
    with pytest.raises(ValueError, match="the training set is empty"):
        from_arrays(X[:0], Y[:0])
    with pytest.raises(ValueError, match="the test set is empty"):
        from_arrays(X, Y, test=(X[:0], Y[:0]))
    with pytest.raises(ValueError, match="none of the 2 clients has an example"):
        from_clients([(X[:0], Y[:0])] * 2)


def test_ignored_labels_are_no_class() -> None:
    """They count for no class, and examples without any other label are dealt to nobody."""
    y = np.stack([Y, np.full(T, 255)], 1)
    y[3] = 255
    assert from_arrays(X, y).num_classes == 256
    dataset = from_arrays(X, y, ignore=255)
    assert dataset.num_classes == 3
    assert len(dataset) == T
    for data in (federate(dataset, p.iid(2), test=0.5), from_clients([(X, y)], [(X, y)], ignore=255)):
        assert (data.num_classes, data.ignore) == (3, 255)
        held = np.asarray(data.examples.x)
        assert len(held) % 11 == 0
        assert not (held == X[3]).all(1).any()
        assert sum(data.label_counts(split).sum() for split in ("train", "test")) == len(held)
    assert from_clients([(X, Y - 1)], ignore=-1).sizes().tolist() == [8]
