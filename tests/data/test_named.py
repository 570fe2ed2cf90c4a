"""Data sets by name, each from small files in the layout of its authors; files that are damaged, or that mean harm."""

from __future__ import annotations

import bz2
import gzip
import json
import pickle
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat, wavfile

from pfljax.data import Dataset, federate, from_arrays, load, partition
from pfljax.data.known import KNOWN
from pfljax.data.layouts.idx import read as read_idx
from pfljax.data.readers.archives import write_npz
from pfljax.data.readers.common import plain
from pfljax.data.readers.texts import LETTERS

DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PFLJAX_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def leaf(root: Path, held: dict[str, tuple[list[Any], list[Any]]], **changes: Any) -> None:
    """Train and test alike, as `preprocess.sh` leaves them."""
    for split in ("train", "test"):
        data = {user: {"x": x, "y": y} for user, (x, y) in held.items()}
        content = {"users": [*held], "num_samples": [len(y) for _, y in held.values()], "user_data": data} | changes
        (root / "data" / split).mkdir(parents=True, exist_ok=True)
        (root / "data" / split / "all_data_niid_0_keep_0_9.json").write_text(json.dumps(content))


def image(path: Path, size: int = 28, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(DRAW.integers(0, 256, (size, size) if grey else (size, size, 3), np.uint8)).save(path)


def femnist(root: Path) -> None:
    pixels = (DRAW.integers(0, 256, (3, 784)) / 255).tolist()
    leaf(root, {"f0001_41": (pixels[:2], [0, 61]), "f0002_07": (pixels[2:], [35])})


def shakespeare(root: Path) -> None:
    line = (LETTERS + "~")[:80]
    leaf(root, {"PLAY_HAMLET": ([line, line], ["a", "\n"]), "PLAY_OPHELIA": ([line], ["}"])})


def celeba(root: Path) -> None:
    leaf(root, {"17": (["000001.jpg", "000002.jpg"], [0, 1]), "23": (["000001.jpg"], [1])})
    for n in (1, 2):
        image(root / "data" / "raw" / "img_align_celeba" / f"{n:06d}.jpg", 96)


def sent140(root: Path) -> None:
    def tweet(text: str) -> list[str]:
        return ["1983468420", "Sun May 31 13:12:51 PDT 2009", "NO_QUERY", "norri", text, "training"]

    leaf(root, {"norri": ([tweet("I'm sad, so sad."), tweet("I'm glad!")], [0, 1]), "ann": ([tweet("sad")], [0])})


def reddit(root: Path) -> None:
    """A comment of two pieces, the second half empty, and one of one piece."""
    first, second = ["<BOS>", "to", "be"], ["or", "not", "<PAD>"]
    said = {"target_tokens": [["to", "be", "or"], ["not", "<EOS>", "<PAD>"]], "count_tokens": [[1, 1, 1], [1, 1, 0]]}
    short = {"target_tokens": [["to", "be", "<EOS>"]], "count_tokens": [[1, 1, 1]]}
    leaf(root, {"ann": ([[first, second]], [said]), "ben": ([[first]], [short])})


def leaf_synthetic(root: Path) -> None:
    leaf(
        root, {"0": (DRAW.normal(size=(4, 60)).tolist(), [0, 1, 4, 2]), "1": (DRAW.normal(size=(1, 60)).tolist(), [3])}
    )


def cifar10(root: Path) -> None:
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        batch = {b"data": DRAW.integers(0, 256, (4, 3072), np.uint8), b"labels": [0, 9, 3, 3]}
        (root / "cifar-10-batches-py").mkdir(exist_ok=True)
        (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(batch, protocol=2))


def cifar100(root: Path) -> None:
    for name in ("train.bin", "test.bin"):
        (root / name).write_bytes(bytes([19, 99]) + bytes(range(256)) * 12 + bytes([0, 5]) + bytes(3072))


def svhn_cropped(root: Path) -> None:
    for name in ("train", "test"):
        x = DRAW.integers(0, 256, (32, 32, 3, 5), np.uint8)
        savemat(root / f"{name}_32x32.mat", {"X": x, "y": np.array([[10], [1], [9], [1], [10]])})


def heart_disease(root: Path) -> None:
    for center, count in {"cleveland": 30, "hungarian": 20, "switzerland": 12, "va": 16}.items():
        rows = [f"{40 + n},1,{n % 4 + 1},130,2{n:02d},0,{n % 3},150,0,1.{n % 9},?,?,?,{n % 5}" for n in range(count)]
        (root / f"processed.{center}.data").write_text("\n".join([*rows, "51,1,1,?,200,0,0,150,0,1,?,?,?,0"]) + "\n")


def har(root: Path) -> None:
    """The second window of training begins with the second half of the first one."""
    for split, subjects in {"train": [1, 1, 1, 3], "test": [2, 2]}.items():
        of = root / "UCI HAR Dataset" / split
        (of / "Inertial Signals").mkdir(parents=True)
        for signal in ("body_acc", "body_gyro", "total_acc"):
            for axis in "xyz":
                rows = DRAW.normal(size=(len(subjects), 128))
                rows[1, :64] = rows[0, 64:]
                np.savetxt(of / "Inertial Signals" / f"{signal}_{axis}_{split}.txt", rows, fmt=" %.7e")
        np.savetxt(of / f"y_{split}.txt", [5, 5, 5, 1][: len(subjects)], fmt="%d")
        np.savetxt(of / f"subject_{split}.txt", subjects, fmt="%d")


def wisdm(root: Path) -> None:
    names = ["X0", "XPEAK", "RESULTANT"]
    head = ["@relation activity", '@attribute "UNIQUE_ID" numeric', '@attribute "user" numeric']
    head += [
        *(f'@attribute "{name}" numeric' for name in names),
        '@attribute "class" { "Jogging" , "Sitting" }',
        "@data",
    ]
    rows = ['1,33,0.04,?,11.3,"Jogging"', '2,33,0.1,20.0,9.1,"Sitting"', '3,17,0.2,40.0,9.9,"Jogging"']
    (root / "WISDM_ar_v1.1_transformed.arff").write_text("\n".join([*head, *rows]) + "\n")


def pamap2(root: Path) -> None:
    """100 samples between activities, 600 of walking, 300 of a rope; one hand's sensor lost a sample."""
    (root / "Protocol").mkdir()
    for subject in (101, 105):
        held = np.arange(1000.0)[:, None] + np.arange(54) / 100
        held[:, 1] = [0] * 100 + [4] * 600 + [24] * 300
        held[200, 4] = np.nan
        np.savetxt(root / "Protocol" / f"subject{subject}.dat", held, fmt="%.6g")


def movielens(root: Path) -> None:
    (root / "ml-100k").mkdir()
    (root / "ml-100k" / "u.data").write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n196\t302\t1\t878887116\n")


def cells(root: Path, name: str, x: str, y: str, target: Callable[[int], Any]) -> None:
    values = {key: np.empty((1, 2), object) for key in (x, y)}
    for task, size in enumerate((3, 2)):
        values[x][0, task], values[y][0, task] = DRAW.normal(size=(size, 4)), target(size)
    savemat(root / name, values)


def school(root: Path) -> None:
    cells(root, "school.mat", "X", "Y", lambda size: DRAW.normal(size=(size, 1)))


def landmine(root: Path) -> None:
    cells(root, "LandmineData.mat", "feature", "label", lambda size: np.arange(size)[:, None] % 2)


def usps(root: Path) -> None:
    for name in ("usps.bz2", "usps.t.bz2"):
        (root / name).write_bytes(bz2.compress(b"7 1:-1 2:1 256:0.5\n10 5:-0.25\n"))


def mnist_m(root: Path) -> None:
    for split in ("train", "test"):
        for n in range(3):
            image(root / "mnist_m" / f"mnist_m_{split}" / f"{n:08d}.png", 32)
        listed = "".join(f"{n:08d}.png {n}\n" for n in range(3))
        (root / "mnist_m" / f"mnist_m_{split}_labels.txt").write_text(listed)


def digit_domains(root: Path) -> None:
    mnist_m(root)
    (root / "usps").mkdir()
    usps(root / "usps")


def omniglot(root: Path) -> None:
    for alphabet in ("Greek", "Latin"):
        for character in (1, 2):
            for drawer in (1, 2, 3):
                name = f"000{character}_{drawer:02d}.png"
                image(root / "images_background" / alphabet / f"character0{character}" / name, 105, grey=True)


def chars74k(root: Path) -> None:
    for label in (1, 62):
        for writer in (1, 55):
            name = f"img{label:03d}-{writer:03d}.png"
            image(root / "English" / "Hnd" / "Img" / f"Sample{label:03d}" / name, 90)


def pacs(root: Path) -> None:
    for domain in ("cartoon", "photo"):
        for label in ("dog", "elephant"):
            for n in range(2):
                image(root / domain / label / f"pic_{n:03d}.png", 40)


def iwildcam(root: Path) -> None:
    rows = ["split,datetime,filename,location,y"]
    for n, split in enumerate(("train", "train", "id_val", "test", "id_test")):
        image(root / "train" / f"{n}.jpg", 50)
        rows.append(f"{split},2013-06-05 05:44:19,{n}.jpg,{100 + n % 2},{(0, 7)[n % 2]}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n")


def flickr_aes(root: Path) -> None:
    for n in range(2):
        image(root / "40K" / f"farm1_{n}.jpg", 70)
    rows = ["worker, imagePair, score", "A1,farm1_0.jpg,3", "A1,farm1_1.jpg,5", "B2,farm1_0.jpg,1"]
    (root / "FLICKR-AES_image_labeled_by_each_worker.csv").write_text("\n".join(rows) + "\n")


def spoken_digits(root: Path) -> None:
    (root / "recordings").mkdir()
    for digit, speaker, length in ((0, "jackson", 4000), (7, "theo", 9000), (7, "jackson", 8000)):
        wave = (8000 * np.sin(2 * np.pi * 1000 * np.arange(length) / 8000)).astype(np.int16)
        wavfile.write(root / "recordings" / f"{digit}_{speaker}_3.wav", 8000, wave)


MADE: dict[str, tuple[Any, ...]] = {
    make.__name__: (make, *rest)
    for make, *rest in (
        (femnist, (28, 28, 1), 62, ["f0001_41", "f0002_07"], 3),
        (shakespeare, (80,), 80, ["PLAY_HAMLET", "PLAY_OPHELIA"], 3),
        (celeba, (84, 84, 3), 2, ["17", "23"], 3),
        (sent140, (25,), 2, ["ann", "norri"], 3),
        (reddit, (3,), 10_002, ["ann", "ben"], 3),
        (leaf_synthetic, (60,), 5, ["0", "1"], 5),
        (cifar10, (32, 32, 3), 10, None, 20),
        (cifar100, (32, 32, 3), 100, None, 2),
        (svhn_cropped, (32, 32, 3), 10, None, 5),
        (heart_disease, (13,), 2, ["cleveland", "hungarian", "switzerland", "va"], 49),
        (har, (128, 9), 6, [1, 3], 4),
        (wisdm, (3,), 2, [17, 33], 3),
        (pamap2, (256, 27), 2, ["101", "105"], 6),
        (movielens, (), None, [186, 196], 3),
        (school, (4,), None, [0, 1], 5),
        (landmine, (4,), 2, [0, 1], 5),
        (usps, (16, 16, 1), 10, None, 2),
        (mnist_m, (28, 28, 3), 10, None, 3),
        (digit_domains, (28, 28, 3), 10, ["mnist_m", "usps"], 5),
        (omniglot, (28, 28, 1), 4, [f"{a} 0{d}" for a in ("Greek", "Latin") for d in (1, 2, 3)], 12),
        (chars74k, (28, 28, 1), 62, ["001", "055"], 4),
        (pacs, (64, 64, 3), 2, ["cartoon", "photo"], 8),
        (iwildcam, (64, 64, 3), 2, [100, 101], 5),
        (flickr_aes, (64, 64, 3), None, ["A1", "B2"], 3),
        (spoken_digits, (124, 65, 1), 10, ["jackson", "theo"], 3),
    )
}


def test_every_reader_is_tried() -> None:
    assert {name for name, known in KNOWN.items() if known.read is not None} == MADE.keys()


@pytest.mark.parametrize("name", MADE)
def test_by_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found where data lie; shapes, classes and clients as documented; the same once it is prepared."""
    make, shape, classes, clients, count = MADE[name]
    (tmp_path / name).mkdir()
    make(tmp_path / name)
    monkeypatch.setenv("PFLJAX_DATA", str(tmp_path))
    dataset = load(name)
    assert (dataset.name, dataset.x.shape, dataset.num_classes) == (name, (count, *shape), classes)
    assert (None if dataset.groups is None else np.unique(dataset.groups).tolist()) == clients
    if clients is not None:
        data = federate(dataset, partition.natural(), test="given" if dataset.split is not None else 0.3)
        assert data.names == tuple(map(str, clients))
    again = load(name, path=write_npz(tmp_path / "again.npz", dataset))
    for part, other in ((dataset, again), (dataset.test, again.test)):
        assert (part is None) == (other is None)
        for key in ("x", "y", "groups", "units", "times", "split"):
            assert np.array_equal(getattr(part, key, 0), getattr(other, key, 0), equal_nan=key == "x"), key
        for key in ("num_classes", "class_names", "columns"):
            assert getattr(part, key, None) == getattr(other, key, None), key


def made(name: str, tmp_path: Path) -> Dataset:
    MADE[name][0](tmp_path)
    return load(name, path=tmp_path)


def test_what_examples_mean(tmp_path: Path) -> None:
    """Single numbers that a reader could turn round: colours, digits of 10, labels from 1, bouts, silence."""
    names = ("reddit", "cifar100", "svhn_cropped", "usps", "har", "pamap2", "shakespeare", "spoken_digits")
    folders = {name: tmp_path / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    found = {name: made(name, folder) for name, folder in folders.items()}
    first = np.frombuffer(bytes(range(256)) * 12, np.uint8).reshape(3, 32, 32)
    assert found["cifar100"].y.tolist() == [99, 5]
    assert (found["cifar100"].x[0, 3, 7] == first[:, 3, 7]).all()
    be, bos, to = 4, 2, 3  # by frequency, then as they come
    assert found["reddit"].x.tolist() == [[bos, to, be], [5, 6, 0], [bos, to, be]]
    assert found["reddit"].y.tolist() == [[to, be, 5], [6, 1, 0], [to, be, 1]]
    assert found["reddit"].ignore == 0
    assert found["svhn_cropped"].y.tolist() == [0, 1, 9, 1, 0]
    assert found["usps"].y.tolist() == [6, 9]
    assert found["usps"].x[0].ravel()[[0, 1, 2, 255]].tolist() == [0, 255, 128, 191]
    assert found["har"].units is not None
    assert found["har"].units.tolist() == [f"train {bout}" for bout in (1, 1, 2, 3)]
    assert found["har"].class_names is not None
    assert [found["har"].class_names[label] for label in found["har"].y] == [
        "STANDING",
        "STANDING",
        "STANDING",
        "WALKING",
    ]
    assert found["pamap2"].class_names == ("rope jumping", "walking")
    assert found["pamap2"].y.tolist() == [1, 1, 0] * 2
    np.testing.assert_allclose(found["pamap2"].x[1, 0, [0, 3, 9]], [356.04, 356.1, 356.21], atol=1e-3)
    np.testing.assert_allclose(found["pamap2"].x[0, 100, 0], 200.04, atol=1e-3)
    assert found["pamap2"].units is not None
    assert len(np.unique(found["pamap2"].units)) == 4
    assert found["shakespeare"].x[0].tolist() == list(range(80))
    power = found["spoken_digits"].x[0, :, :, 0]
    assert power[10].argmax() == 16  # 1000 of 4000 Hz in 64 steps
    assert power[100:].max() == -12  # after half a second


def test_tff(tmp_path: Path) -> None:
    """Rows are (split, client, serialized example)."""
    proto = pytest.importorskip("tensorflow_datasets.proto").tf_example_pb2
    connection = sqlite3.connect(tmp_path / "fed_emnist.sqlite")
    connection.execute("CREATE TABLE examples (split_name TEXT, client_id TEXT, serialized_example_proto BLOB)")
    pixels = DRAW.integers(0, 256, (4, 784))
    rows = (("train", "f0000_14"), ("train", "f0001_41"), ("test", "f0000_14"), ("train", "f0000_14"))
    for (split, client), values in zip(rows, pixels, strict=True):
        example = proto.Example()
        example.features.feature["pixels"].float_list.value.extend(values / 255)
        example.features.feature["label"].int64_list.value.append(int(values[0]) % 62)
        connection.execute("INSERT INTO examples VALUES (?, ?, ?)", (split, client, example.SerializeToString()))
    connection.commit()
    connection.close()
    dataset = load("femnist", path=tmp_path)
    assert dataset.groups is not None
    assert dataset.groups.tolist() == ["f0000_14", "f0000_14", "f0001_41"]
    assert np.array_equal(dataset.x.reshape(3, 784), pixels[[0, 3, 1]])
    assert dataset.y.tolist() == (pixels[[0, 3, 1], 0] % 62).tolist()
    assert federate(dataset, partition.natural(), test="mirror").sizes("test").tolist() == [1, 0]
    (tmp_path / "fed_emnist.sqlite").write_bytes(b"\x5d\x00\x00\x80" * 30)
    with pytest.raises(ValueError, match=r"is no sound SQLite file of TFF .*unpack its"):
        load("femnist", path=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_data": {"ann": {"x": [[1.0]], "y": [0]}}}, "names the user 'ben' and has no x and y of them"),
        (
            {"user_data": {"ann": {"x": [[1.0]], "y": []}, "ben": {"x": [], "y": []}}},
            "has 1 inputs and 0 labels of the user",
        ),
        ({"num_samples": [3, 1]}, "must agree with each other and with num_samples"),
        ({"users": 5}, "where LEAF has users, num_samples, user_data"),
        ({"user_data": {"ann": {"x": [[1.0, 2.0]], "y": [0]}, "ben": {"x": [[1.0]], "y": [0]}}}, "has no examples of"),
        (
            {"user_data": {"ann": {"x": [[float("nan")]], "y": [0]}, "ben": {"x": [[1.0]], "y": [0]}}},
            "not finite in row 0",
        ),
    ],
)
def test_damaged_leaf(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    leaf(tmp_path, {"ann": ([[1.0]], [0]), "ben": ([[2.0]], [1])}, **changes)
    with pytest.raises(ValueError, match=message):
        load("mine", path=tmp_path)
    (tmp_path / "data" / "train" / "all_data_niid_0_keep_0_9.json").write_text('{"users": ["ann"')
    with pytest.raises(ValueError, match="is no sound JSON"):
        load("mine", path=tmp_path)


class Harm:
    def __reduce__(self) -> Any:
        return Path.write_text, (Path("harm"), "done")


@pytest.mark.parametrize("content", [{b"data": Harm(), b"labels": [0]}, Harm(), {b"data": [1]}, {b"labels": [1]}, [1]])
def test_pickles_run_no_code(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cifar10(tmp_path)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"data_batch_3 is no batch of CIFAR \(.*\): delete it and fetch it again"):
        load("cifar10", path=tmp_path)
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["../secret.jpg", "a/b.jpg", "/etc/passwd", "..", "", 7])
def test_names_of_files_stay_in_their_folder(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no plain name of a file"):
        plain(name, tmp_path)
    if isinstance(name, str):
        image(tmp_path / "train" / "0.jpg")
        (tmp_path / "metadata.csv").write_text(f'split,filename,location,y\ntrain,"{name or "./x"}",1,0\n')
        with pytest.raises(ValueError, match="is no plain name of a file"):
            load("iwildcam", path=tmp_path)


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What headers promise is compared with the limit before anything is made of it."""
    monkeypatch.setenv("PFLJAX_DATA_LIMIT", "100000")
    (tmp_path / "a-idx3.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12))
    with pytest.raises(ValueError, match=r"a-idx3\.gz would unpack to [0-9,]+ bytes or more, and 100,000 are the most"):
        read_idx(tmp_path / "a-idx3.gz")
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros((10**6, 1)), y=np.zeros(10**6))
    with pytest.raises(ValueError, match=r"b\.npz would unpack to 16,000,[0-9]+ bytes or more"):
        load("mine", path=tmp_path / "b.npz")
    Image.fromarray(np.zeros((500, 500), np.uint8)).save(tmp_path / "c.png")
    (tmp_path / "shown" / "cat").mkdir(parents=True)
    (tmp_path / "c.png").rename(tmp_path / "shown" / "cat" / "c.png")
    with pytest.raises(ValueError, match=r"c\.png would unpack to 1,000,000 bytes or more"):
        load("mine", path=tmp_path / "shown")
    leaf(tmp_path, {"ann": ([[1.0]] * 50000, [0] * 50000)})
    with pytest.raises(ValueError, match=r"json would unpack to 100,001 bytes or more"):
        load("mine", path=tmp_path)
    header = np.lib.format.magic(1, 0)
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        for name in ("x.npy", "y.npy"):
            text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }\n"
            archive.writestr(name, header + len(text).to_bytes(2, "little") + text)
    with pytest.raises(ValueError, match=r"d\.npz is not a sound \.npz file"):
        load("mine", path=tmp_path / "d.npz")


def test_images_in_folders(tmp_path: Path) -> None:
    """Of classes, or of clients and classes; sizes that differ, and images that are none, are said."""
    pacs(tmp_path / "two")
    dataset = load("mine", path=tmp_path / "two")
    assert dataset.groups is not None
    assert (dataset.class_names, sorted(set(dataset.groups))) == (("dog", "elephant"), ["cartoon", "photo"])
    assert dataset.x.shape == (8, 40, 40, 3)
    dataset = load("mine", path=tmp_path / "two" / "photo", size=16)
    assert (dataset.groups, dataset.x.shape) == (None, (4, 16, 16, 3))
    image(tmp_path / "two" / "photo" / "dog" / "large.png", 50)
    with pytest.raises(ValueError, match=r"large\.png is 50 x 50, and others are 40 x 40: say size=32"):
        load("mine", path=tmp_path / "two")
    (tmp_path / "two" / "photo" / "dog" / "large.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(ValueError, match=r"large\.png is no sound image"):
        load("mine", path=tmp_path / "two", size=32)
    image(tmp_path / "two" / "photo" / "first.png")
    with pytest.raises(ValueError, match="has images at several depths"):
        load("mine", path=tmp_path / "two")


def _refusal(name: str, path: Path) -> str | None:
    try:
        load(name, path=path)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", MADE)
def test_what_became_of_files_on_the_way(name: str, tmp_path: Path) -> None:
    """Half of it, nothing, another page, or no file: one sentence that says which, from wherever it is met."""
    MADE[name][0](tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    for file in (files[0], files[-1]):
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"", b"<html><body>404</body></html>\n" * 5, None):
            file.unlink(missing_ok=True)
            if content is not None:
                file.write_bytes(content)
            said = _refusal(name, tmp_path)
            assert said is None or (str(tmp_path) in said and said.count("again") < 2)
        file.write_bytes(whole)


def test_damaged_copies(tmp_path: Path) -> None:
    """One sentence with the file for each."""
    for hospital in ("cleveland", "hungarian", "switzerland", "va"):
        (tmp_path / f"processed.{hospital}.data").write_text("1,2\n1,2,3\n")
    cases = {"heart_disease": "processed.cleveland.data is damaged"}
    (tmp_path / "WISDM_ar_v1.1_transformed.arff").write_text("@relation x\n")
    cases["wisdm"] = "has no attributes user and class, and data"
    (tmp_path / "school.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    cases["school"] = r"school\.mat is damaged"
    (tmp_path / "train.bin").write_bytes(bytes(3000))
    (tmp_path / "test.bin").write_bytes(bytes(3000))
    cases["cifar100"] = "train.bin has 3000 bytes, no number of records of 3074"
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(b"BZh9 nothing")
    cases["usps"] = r"usps.bz2 is damaged"
    (tmp_path / "0_ann_1.wav").write_bytes(b"RIFF nothing")
    cases["spoken_digits"] = "0_ann_1.wav is no sound wave file"
    for name, message in cases.items():
        with pytest.raises(ValueError, match=message):
            load(name, path=tmp_path)


def test_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFLJAX_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"har is not in .*har\.npz, .*har, .*cache.*a copy is the folder UCI HAR"
    ):
        load("har")
    (tmp_path / "har").mkdir()
    with pytest.raises(FileNotFoundError, match=r"pfljax data prepare har --from FOLDER"):
        load("har")
    with pytest.raises(ValueError, match="an example of two is several arrays"):
        write_npz(tmp_path / "two.npz", from_arrays({"a": [[1.0]], "b": [[2.0]]}, [0], name="two"))


def test_hospitals_of_one_archive(tmp_path: Path) -> None:
    """Rows of UCI's 13 columns with who holds them, gaps and all."""
    heart_disease(tmp_path)
    centers = ("cleveland", "hungarian", "switzerland", "va")
    held = [
        np.genfromtxt(tmp_path / f"processed.{center}.data", delimiter=",", missing_values="?") for center in centers
    ]
    rows, hospital = np.concatenate(held), np.repeat(range(4), [len(mine) for mine in held])
    np.savez(tmp_path / "all.npz", x=rows[:, :-1], y=rows[:, -1], hospital=hospital, hospitals=np.array(centers))
    found, again = load("heart_disease", path=tmp_path), load("heart_disease", path=tmp_path / "all.npz")
    assert np.array_equal(found.x, again.x)
    assert np.array_equal(found.y, again.y)
