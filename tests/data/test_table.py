"""Tables: roles of columns, categories, what training rows say, splits, files, and what cannot be meant."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pfljax as pfl
from pfljax.data import FederatedData, federate, from_arrays, from_frame, load, partition
from pfljax.data.scaling import fitted
from pfljax.experiment import build
from pfljax.experiment.config import DataConfig

WHO = ["eva", "tom", "eva", "tom", "eva", "tom", "ann", "ann"]
KM = [1.0, 10.0, 3.0, 20.0, 5.0, 60.0, 7.0, 9.0]
BY = ["bus", "tram", "bus", "bus", "tram", "tram", "bus", "tram"]
LATE = ["no", "yes", "no", "yes", "no", "yes", "no", "yes"]
PART = ["train", "Training", "TEST", "train", "val", "test", "train", "test"]
FRAME = pd.DataFrame({"who": WHO, "km": KM, "by": BY, "rush": [True, False] * 4, "late": LATE})


def frame(**columns: Any) -> pd.DataFrame:
    return FRAME.assign(**columns)


def rows(data: FederatedData, client: str, split: Any = "train") -> np.ndarray:
    """Inputs of a client, in sorted order."""
    own = getattr(data, split)
    at = data.names.index(client)
    x = np.asarray(data.examples.x)[own.start[at] : own.start[at] + own.size[at]]
    return x[np.argsort(x[:, 0])]


def test_roles_of_columns() -> None:
    """Text is one feature for each category, Booleans are numbers; names of classes, clients and columns stay."""
    table = from_frame(FRAME, client="who", target="late")
    assert table.columns is not None
    assert table.columns.features == ("km", "rush", "by=bus", "by=tram")
    assert table.x.tolist() == [[k, r, b == "bus", b == "tram"] for k, r, b in zip(KM, [1, 0] * 4, BY, strict=True)]
    assert (table.class_names, table.y.tolist()) == (("no", "yes"), [label == "yes" for label in LATE])
    data = federate(table, partition.natural(), test=0.0, standardize="none")
    assert data.names == ("ann", "eva", "tom")
    assert rows(data, "ann").tolist() == [[7, 1, 1, 0], [9, 0, 0, 1]]
    assert data.examples.x.dtype == np.float32
    codes = frame(by=[2.0, 1, 2, 2, 1, 1, 2, 10])
    numbered = from_frame(frame(who=[7.0, 7, 10, 10, 9, 9, 9, 9]), client="who", target="late")
    assert federate(numbered, partition.natural()).names == ("7", "9", "10")
    coded = from_frame(codes, target="late", client="who", categories=["by"], drop=["km"])
    assert coded.columns is not None
    assert coded.columns.features == ("rush", "by=1", "by=2", "by=10")


def test_targets() -> None:
    """Whole numbers are classes by name, other numbers targets; the task decides where the type does not."""
    grade = [1, 2, 10, 1, 2, 10, 1, 1]
    table = from_frame(frame(late=grade), target="late")
    assert (table.class_names, table.y.tolist()) == (("1", "2", "10"), [0, 1, 2, 0, 1, 2, 0, 0])
    for column in (grade, np.array(grade, float)):
        table = from_frame(frame(late=column), target="late", task="regression")
        assert (table.num_classes, table.y.tolist()) == (None, grade)
    assert from_frame(frame(late=np.array(grade, float)), target="late").num_classes is None
    assert from_frame(frame(late=np.array(grade, float)), target="late", task="classification").num_classes == 3
    ordered = pd.Categorical(LATE, categories=["yes", "no", "never"])
    assert from_frame(frame(late=ordered), target="late").class_names == ("yes", "no", "never")
    with pytest.raises(ValueError, match="'late' has 60 different whole numbers: say task='regression'"):
        from_frame(pd.DataFrame({"x": np.arange(60.0), "late": range(60)}), target="late")


@pytest.mark.parametrize("how", ["pooled", "client"])
def test_scales_are_those_of_training_rows(how: Any) -> None:
    """By hand: of those that train, test rows and clients that never train do not count; categories stay 0 and 1."""
    table = from_frame(frame(part=PART), client="who", target="late", split="part", drop=["rush", "by"])
    data = federate(table, partition.natural(), test="given", unseen=1, standardize=how, seed=2)
    km = {"eva": [1.0], "tom": [10.0, 20.0], "ann": [7.0]}
    seen = np.concatenate([km[name] for name in data.names[:2]])
    for name in data.names:
        mine = seen if how == "pooled" else np.array(km[name])
        for split, of in {"train": km[name], "test": {"eva": [3.0], "tom": [60.0], "ann": [9.0]}[name]}.items():
            expected = (np.array(of) - mine.mean()) / (mine.std() or 1)
            np.testing.assert_allclose(rows(data, name, split)[:, 0], np.ravel(expected), rtol=1e-6)
    assert data.inputs is not None
    new = data.inputs.read(FRAME, client=data.names.index("tom"))
    mine = seen if how == "pooled" else np.array(km["tom"])
    np.testing.assert_allclose(new[:, 0], (np.array(KM) - mine.mean()) / mine.std(), rtol=1e-6)
    np.testing.assert_allclose(data.inputs.read(FRAME)[:, 0], (np.array(KM) - seen.mean()) / seen.std(), rtol=1e-6)


def test_arrays_are_scaled_by_channel() -> None:
    """Windows [T, length, channels]; what does not vary is moved to 0 and no more."""
    draw = np.random.default_rng(0)
    x = draw.normal([5.0, -2.0, 3.0], [1.0, 9.0, 0.0], (40, 6, 3))
    windows = from_arrays(x, np.arange(40) % 2, groups=np.arange(40) % 4)
    data = federate(windows, partition.natural(), test=0.25, standardize="client")
    for client in range(4):
        own = np.asarray(data.client(client).examples.x)[data.train.start[client] :][: data.train.size[client]]
        np.testing.assert_allclose(own.mean((0, 1)), 0, atol=1e-6)
        np.testing.assert_allclose(own.std((0, 1)), [1, 1, 0], atol=1e-6)
    images = from_arrays(np.zeros((4, 2, 2, 1), np.uint8), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"standardize='pooled': inputs of arrays are uint8.*leave it out"):
        federate(images, partition.iid(2), standardize="pooled")


@pytest.mark.parametrize(("missing", "value"), [("mean", 19 / 3), ("median", 7.0)])
def test_missing_numbers_are_filled_in_from_training_rows(missing: Any, value: float) -> None:
    """Training rows hold 1, 11 and 7 of those known; a missing category is none of them."""
    gaps = frame(part=PART, km=[1.0, 11.0, np.nan, np.nan, 5.0, 60.0, 7.0, 9.0], by=[None, *BY[1:]])
    with pytest.raises(ValueError, match=r"table: column 'km' is missing in row 2 \(2 of 8 rows\): fill it in, or say"):
        from_frame(gaps, target="late", client="who", split="part")
    table = from_frame(gaps, target="late", client="who", split="part", missing=missing)
    data = federate(table, partition.natural(), test="given", standardize="none")
    assert rows(data, "tom")[:, 0].tolist() == sorted([11.0, np.float32(value)])
    assert rows(data, "eva", "test")[0].tolist() == [np.float32(value), 1, 1, 0]
    assert rows(data, "eva")[0].tolist() == [1, 1, 0, 0]
    whole = from_frame(gaps, target="late", client="who", split="part", missing="drop")
    assert sorted(whole.x[:, 0].tolist()) == [5, 7, 9, 11, 60]
    empty = frame(part=PART, km=[np.nan, np.nan, 3.0, np.nan, 5.0, 60.0, np.nan, 9.0])
    table = from_frame(empty, target="late", client="who", split="part", missing="mean")
    with pytest.raises(ValueError, match="column 'km' is missing in all training rows: leave it out"):
        federate(table, partition.natural(), test="given")


def test_fitted_by_hand() -> None:
    """A client without rows has the pooled numbers; the first features only; the last row is everybody's."""
    x = np.array([[0.0, 1.0], [4.0, 3.0], [100.0, 7.0]])
    scaling = fitted(x, np.array([2, 0, 1]), 2, standardize="client", numbers=1)
    assert scaling.mean.tolist() == [[2, 0], [2, 0], [100, 0], [2, 0]]
    assert scaling.scale.tolist() == [[2, 1], [2, 1], [1, 1], [2, 1]]
    assert scaling(x, np.array([0, 0, 2])).tolist() == [[-1, 1], [1, 3], [0, 7]]


def test_given_splits() -> None:
    """Each row where its column says; validation as well, or drawn where the column says nothing of it."""
    table = from_frame(frame(part=PART), target="late", client="who", split="part", drop=["rush", "by"])
    data = federate(table, partition.natural(), test="given", standardize="none")
    splits = ("train", "validation", "test")
    found = {split: {name: rows(data, name, split)[:, 0].tolist() for name in data.names} for split in splits}
    assert found["train"] == {"ann": [7], "eva": [1], "tom": [10, 20]}
    assert found["validation"] == {"ann": [], "eva": [5], "tom": []}
    assert found["test"] == {"ann": [9], "eva": [3], "tom": [60]}
    with pytest.raises(ValueError, match=r"validation=0\.2: table says itself which examples validate"):
        federate(table, partition.natural(), test="given", validation=0.2)
    with pytest.raises(ValueError, match=r"test=0\.25, and table says itself.*set test='given'"):
        federate(table, partition.natural())
    with pytest.raises(ValueError, match=r"test='given', and neither data set nor partitioner say.*set test=0\.25"):
        federate(load("digits"), partition.iid(2), test="given")
    with pytest.raises(ValueError, match="split column 'part' holds 'maybe': say 'train', 'validation' or 'test'"):
        from_frame(frame(part=["maybe", *PART[1:]]), target="late", split="part")
    nobody = from_frame(frame(part="test"), target="late", client="who", split="part")
    with pytest.raises(ValueError, match="table: none of the 3 clients has an example to train on"):
        federate(nobody, partition.natural(), test="given")
    two = frame(part=["train", "test"] * 4)
    drawn = federate(from_frame(two, target="late", split="part"), partition.iid(1), test="given", validation=0.5)
    assert [drawn.sizes(s).tolist() for s in ("train", "validation", "test")] == [[2], [2], [4]]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({}, {"target": "lte"}, "table: there is no column 'lte': did you mean 'late'"),
        ({}, {"target": "late", "clint": "who"}, "from_frame takes no 'clint': did you mean 'client'"),
        ({}, {"target": "late", "drop": ["who", "km", "by", "rush"]}, "no column is left to learn from"),
        ({"km": [np.inf, *KM[1:]]}, {"target": "late"}, "column 'km' is not finite in row 0"),
        ({"km": [1e300, *KM[1:]]}, {"target": "late"}, r"column 'km' holds 1e\+300 in row 0, beyond 32 bits"),
        (
            {"by": ["1", "2", "x", None] * 2},
            {"target": "late"},
            r"holds 'x' in row 2, and numbers: .*categories=\['by'\]",
        ),
        ({"late": [None, *LATE[1:]]}, {"target": "late"}, "target column 'late' is missing in row 0"),
        ({"who": [*WHO[:7], None]}, {"target": "late", "client": "who"}, "client column 'who' is missing in row 7"),
        ({"km": pd.Timestamp("2020-01-01")}, {"target": "late"}, "column 'km' holds dates: make it a number"),
        (
            {"km": np.nan},
            {"target": "late", "missing": "mean"},
            r"column 'km' is empty: leave it out with drop=\['km'\]",
        ),
        ({}, {"target": "late", "missing": "men"}, "missing='men': did you mean 'mean'"),
        ({}, {"target": "late", "task": "regression"}, "target 'late' is .*, and a regression needs numbers"),
    ],
)
def test_what_cannot_be_meant(columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_frame(frame(**columns), **options)


def test_texts_that_are_no_categories() -> None:
    names = pd.DataFrame({"name": [f"patient {n}" for n in range(200)], "sick": [0, 1] * 100})
    with pytest.raises(ValueError, match=r"'name' holds 200 different texts.*drop=\['name'\], or say categories"):
        from_frame(names, target="sick")
    assert len(from_frame(names, target="sick", categories=["name"]).x[0]) == 200
    with pytest.raises(ValueError, match="from_frame reads a pandas table, not a ndarray: use from_arrays"):
        from_frame(np.zeros((3, 2)), target="sick")
    lists = pd.DataFrame({"image": [[1, 2], [3, 4]], "sick": [0, 1]})
    with pytest.raises(ValueError, match=r"'image' holds a list in each row: .* make arrays of it for from_arrays"):
        from_frame(lists, target="sick")
    plain = from_frame(pd.DataFrame([[0.5, "a", 1], [1.5, "b", 0]]), target="2")
    assert plain.columns is not None
    assert plain.columns.features == ("0", "1=a", "1=b")
    with pytest.raises(ValueError, match="two columns are called 'km'"):
        from_frame(pd.concat([FRAME, FRAME[["km"]]], axis=1), target="late")
    with pytest.raises(ValueError, match="there is no row"):
        from_frame(FRAME[:0], target="late")


def test_numbers_beside_texts_are_categories_where_it_is_said() -> None:
    table = from_frame(frame(by=["1", "2", "2a", "2"] * 2), target="late", client="who", categories=["by"])
    assert table.columns is not None
    assert table.columns.categories == {"by": ("1", "2", "2a")}


def test_new_rows() -> None:
    """Categories that nobody had are refused; columns in any order, others beside them."""
    data = federate(from_frame(FRAME, client="who", target="late"), partition.natural(), test=0.0, standardize="none")
    assert data.inputs is not None
    new = pd.DataFrame({"more": [0], "by": ["bus"], "rush": [True], "km": [2]})
    assert data.inputs.read(new).tolist() == [[2, 1, 1, 0]]
    with pytest.raises(ValueError, match="column 'by' holds 'bas' in row 0: did you mean 'bus'"):
        data.inputs.read(new.assign(by="bas"))
    with pytest.raises(ValueError, match="there is no column 'km'"):
        data.inputs.read(new.drop(columns="km"))
    with pytest.raises(ValueError, match="column 'km' is of numbers"):
        data.inputs.read(new.assign(km="far"))


def test_public_examples_are_scaled_like_everybodys() -> None:
    table = from_frame(FRAME, client="who", target="late", drop=["rush", "by"])
    data = federate(table, partition.iid(2), test=0.0, public=0.25)
    own, rest = np.asarray(data.examples.x)[:6, 0], np.asarray(data.examples.x)[6:, 0]
    assert abs(own.mean()) < 1e-6
    spread = np.ptp(KM) / np.ptp(np.concatenate([own, rest]))
    back = np.concatenate([own, rest]) * spread
    np.testing.assert_allclose(np.sort(back - back.min()), np.sort(KM) - min(KM), rtol=1e-5)


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet"])
def test_files(ending: str, tmp_path: Path) -> None:
    """One file, or one for each client, or a folder for each with files for the splits."""

    def write(content: Any, name: str) -> None:
        path = tmp_path / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == "parquet":
            content.to_parquet(path, index=False)
        else:
            content.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")

    write(FRAME, "one/all")
    one = load(str(tmp_path / "one" / f"all.{ending}"), client="who", target="late")
    for who, part in FRAME.groupby("who"):
        write(part.drop(columns="who"), f"each/{who}")
        write(part.drop(columns="who")[:1], f"parts/{who}/train")
        write(part.drop(columns="who")[1:], f"parts/{who}/test")
    each = load("mine", path=tmp_path / "each", client="file", target="late")
    prints = {federate(data, partition.natural()).fingerprint for data in (one, each, from_frame(FRAME, "late", "who"))}
    assert len(prints) == 1
    parts = load("mine", path=tmp_path / "parts", client="folder", split="file", target="late")
    data = federate(parts, partition.natural(), test="given")
    assert data.names == ("ann", "eva", "tom")
    assert (data.sizes().tolist(), data.sizes("test").tolist()) == ([1] * 3, [1, 2, 2])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is no sound table"),
        ("b.csv", b"x,y\n1,2\n1,2,3,4\n", "is no sound table"),
        ("c.csv", "x,y\nä,2\n".encode("latin-1"), "is not a text in UTF-8"),
        ("d.csv.gz", gzip.compress(b"x,y\n1,2\n" * 999)[:-20], "is damaged"),
        ("e.parquet", b"PAR1 nothing PAR1", r"is no sound \.parquet file"),
        ("g.arrow", b"\xff\xff\xff\xff nothing", r"is no sound \.arrow file"),
        ("f.csv", b"x,y\n1,2,3\n1,2,3\n", "has more fields in a row than names"),
    ],
)
def test_damaged_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        load("mine", path=tmp_path / name, target="y")


def test_what_huggingface_saves_to_disk(tmp_path: Path) -> None:
    """A folder for each split with streams of Arrow's; names of labels stand in the description of the columns."""
    pyarrow = pytest.importorskip("pyarrow")
    label = {"names": ["walks", "sits"], "_type": "ClassLabel"}
    features = {"speed": {"dtype": "float64", "_type": "Value"}, "label": label}
    about = json.dumps({"info": {"features": features}})
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, codes in {"train": [1, 0, 1], "test": [0]}.items():
        rows = {"speed": pyarrow.array([0.5] * len(codes)), "label": pyarrow.array(codes, pyarrow.int64())}
        table = pyarrow.table(rows).replace_schema_metadata({"huggingface": about})
        (tmp_path / split).mkdir()
        (tmp_path / split / "state.json").write_text("{}")
        path = tmp_path / split / "data-00000-of-00001.arrow"
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    dataset = load("mine", path=tmp_path, target="label", split="folder")
    assert dataset.class_names == ("walks", "sits")
    assert dataset.split is not None
    assert dataset.split.tolist() == ["test", "train", "train", "train"]
    assert dataset.y.tolist() == [0, 1, 0, 1]


def test_limits_hold_before_a_table_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to much."""
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"x,y\n" + b"0,0\n" * 10**6))
    FRAME.to_parquet(tmp_path / "table.parquet")
    monkeypatch.setenv("PFLJAX_DATA_LIMIT", "300")
    for name in ("bomb.csv.gz", "table.parquet"):
        with pytest.raises(ValueError, match=rf"{name} would unpack to [0-9,]+ bytes or more, and 300 are the most"):
            load("mine", path=tmp_path / name, target="y")
    monkeypatch.setenv("PFLJAX_DATA_LIMIT", "much")
    with pytest.raises(ValueError, match="PFLJAX_DATA_LIMIT='much': it must be a whole number of bytes"):
        load("mine", path=tmp_path / "bomb.csv.gz", target="y")


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    FRAME.rename(columns={"km": "miles"}).to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"b\.csv and .*a\.csv differ in the column 'km': give all the same columns"):
        load("mine", path=tmp_path, target="late")
    with pytest.raises(ValueError, match=r"a\.csv is a table: say target=..., which of 'who', 'km'"):
        load("mine", path=tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"groups='who' is for arrays, and .* is a table: say client='who'"):
        load("mine", path=tmp_path / "a.csv", groups="who", target="late")
    with pytest.raises(ValueError, match="load takes no 'clint': did you mean 'client'"):
        load("mine", path=tmp_path / "a.csv", clint="who", target="late")
    with pytest.raises(ValueError, match="target='late' is for tables, and digits is none"):
        load("digits", target="late")


def test_configuration(tmp_path: Path) -> None:
    """`data.path`, `data.client` and `data.target` are enough."""
    FRAME.to_csv(tmp_path / "trips.csv", index=False)
    config = DataConfig(path=str(tmp_path / "trips.csv"), client="who", target="late", unseen=1)
    data = build.load_data(config)
    assert (sorted(data.names), data.num_unseen, data.class_names) == (["ann", "eva", "tom"], 1, ("no", "yes"))
    less = DataConfig(path=str(tmp_path / "trips.csv"), client="who", target="late", options={"drop": ("km",)})
    assert build.load_data(less).examples.x.shape[1] == 3
    with pytest.raises(ValueError, match="options takes no 'drp': did you mean 'drop'"):
        DataConfig(path="trips.csv", target="late", options={"drp": ("km",)})
    with pytest.raises(ValueError, match="client='who' is for files, and 'digits' is made"):
        DataConfig(client="who")


def test_from_a_table_to_models_that_read_tables(tmp_path: Path) -> None:
    """Classes by name from rows as they are; what is exported says how to read them."""
    draw = np.random.default_rng(0)
    who, km = np.repeat(["eva", "tom"], 40), draw.normal(500, 9, 80)
    trips = pd.DataFrame({"who": who, "km": km, "by": ["bus", "tram"] * 40})
    trips["late"] = np.where((trips.km > 500) ^ (trips.who == "tom"), "yes", "no")
    data = pfl.federate(pfl.from_frame(trips, client="who", target="late"), pfl.natural(), standardize="client")
    result = pfl.simulate(data, "logistic", "local_only", rounds=10, eval_every=10, local={"lr": 0.5})
    assert result.models is not None
    model = result.models["tom"]
    own: Any = trips[trips.who == "tom"]
    assert np.mean(model.classify(own) == own.late) > 0.9
    assert data.inputs is not None
    x = data.inputs.read(own, 1)
    assert np.array_equal(model.predict(x), model.predict(own))
    about = json.loads((model.save(tmp_path / "tom") / "model.json").read_text())
    assert (about["classes"], about["columns"]["categories"]) == (["no", "yes"], {"by": ["bus", "tram"]})
    scale = about["columns"]["numbers"]["km"]
    np.testing.assert_allclose(x[:, 0], (own.km - scale["mean"]) / scale["scale"], rtol=1e-5)
