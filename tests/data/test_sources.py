"""One door for all sources: idx, npz, TFDS, arrays; the same data whatever the source; damage named in one sentence."""

from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfljax.data import federate, from_arrays, load, partition, tfds
from pfljax.data.layouts.idx import read as read_idx
from pfljax.data.readers.archives import read_npz

RANDOM = np.random.default_rng(0)
X, TEST_X = (RANDOM.integers(0, 256, (n, 28, 28), np.uint8) for n in (30, 10))
Y, TEST_Y = (RANDOM.integers(0, 10, n, np.uint8) for n in (30, 10))
STEMS = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PFLJAX_DATA", raising=False)


def idx(array: np.ndarray) -> bytes:
    """The format as LeCun's page gives it: two zeros, type, axes, sizes in big-endian, then the data."""
    kind = {"|u1": 0x08, ">i4": 0x0C, ">f8": 0x0E}[array.dtype.str]
    return bytes([0, 0, kind, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_idx(folder: Path, *, zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, array in zip(STEMS, (X, Y, TEST_X, TEST_Y), strict=True):
        content = idx(array)
        (folder / f"{stem}{'.gz' if zipped else ''}").write_bytes(gzip.compress(content) if zipped else content)
    return folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dtype", ["u1", ">i4", ">f8"])
def test_idx_round_trip(tmp_path: Path, dtype: str, suffix: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / f"some-idx3{suffix}"
    path.write_bytes(gzip.compress(idx(array)) if suffix else idx(array))
    read = read_idx(path)
    assert np.array_equal(read, array)
    assert read.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a-idx1", b"\x89PNG1234", "is not an idx file"),
        ("b-idx1", b"", "is not an idx file"),
        ("c-idx1", idx(np.arange(9, dtype=np.uint8))[:-1], r"has 16 bytes where shape \(9,\) needs 17"),
        ("d-idx1.gz", gzip.compress(idx(X))[:-200], "is damaged"),
        ("e-idx1.gz", b"<html>not found</html>", "is damaged"),
        ("f-idx1.gz", gzip.compress(idx(X))[:100] + b"\xff" * 99, "is damaged"),
    ],
)
def test_damaged_idx(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_idx(tmp_path / name)
    assert name in str(error.value)
    assert "fetch it again" in str(error.value)


def test_one_of_four_is_missing(tmp_path: Path) -> None:
    (write_idx(tmp_path) / f"{STEMS[1]}.gz").unlink()
    with pytest.raises(FileNotFoundError, match="has no train-labels-idx1-ubyte"):
        load("mnist", path=tmp_path)


def test_parts_of_emnist(tmp_path: Path) -> None:
    """Their names stand before those of the files, `test` for `t10k`; alone, or in a torchvision root."""
    for folder in (tmp_path, tmp_path / "root" / "EMNIST" / "raw"):
        write_idx(folder)
        for stem in STEMS:
            name = f"emnist-balanced-{stem.replace('t10k', 'test')}.gz"
            (folder / f"{stem}.gz").rename(folder / name)
    for path in (tmp_path, tmp_path / "root"):
        dataset = load("emnist/balanced", path=path)
        assert (dataset.x.shape, dataset.y.tolist()) == ((30, 28, 28, 1), Y.tolist())
    with pytest.raises(FileNotFoundError, match="emnist/byclass is not in"):
        load("emnist/byclass", path=tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_all_sources_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """idx, torchvision's folders, npz, arrays and TFDS, each in another order of its own: one fingerprint."""
    np.savez(tmp_path / "kmnist.npz", x_train=X, y_train=Y, x_test=TEST_X, y_test=TEST_Y)
    shuffled = RANDOM.permutation(30)
    monkeypatch.setenv("PFLJAX_DATA", str(tmp_path))
    write_idx(tmp_path / "mnist")
    sources = [
        load("mnist"),
        load("kmnist"),
        load("mnist", path=write_idx(tmp_path / "torch" / "MNIST" / "raw", zipped=False).parent.parent),
        from_arrays(X[shuffled][..., None], Y[shuffled].astype(np.int64), test=(TEST_X[..., None], TEST_Y)),
        _from_tfds(shuffled),
    ]
    prints = set()
    for dataset in sources:
        assert dataset.test is not None
        assert dataset.x.shape == (30, 28, 28, 1)
        assert dataset.x.dtype == np.uint8
        federation = federate(dataset, partition.iid(5), test="pooled")
        prints.add((federation.fingerprint, *(dataset.test.x.tobytes(), dataset.test.y.tobytes())))
    assert len(prints) == 1


def _from_tfds(order: np.ndarray) -> Any:
    """The reader of `pfljax.data.tfds` on a stand-in for the library's data source."""
    import tensorflow_datasets

    def fill(self: Any, split: str, *args: Any, **kwargs: Any) -> Any:
        x, y = (X[order], Y[order]) if split == "train" else (TEST_X, TEST_Y)
        return [{"image": image[..., None], "label": int(label)} for image, label in zip(x, y, strict=True)]

    with tensorflow_datasets.testing.mock_data(as_data_source_fn=fill):
        return tfds.load("mnist")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [("mnist", (28, 28, 1), 10), ("cifar100", (32, 32, 3), 100), ("emnist/byclass", (28, 28, 1), 62)],
)
def test_tfds_mocked(name: str, shape: tuple[int, ...], classes: int) -> None:
    import tensorflow_datasets

    with tensorflow_datasets.testing.mock_data(num_examples=6):
        dataset = load(name, source="tfds")
    assert dataset.test is not None
    assert dataset.x.shape == dataset.test.x.shape == (6, *shape)
    assert (dataset.x.dtype, dataset.y.dtype, dataset.num_classes) == (np.uint8, np.int32, classes)


@pytest.mark.filterwarnings("ignore")
def test_tfds_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"mnist is not prepared in the array_record format.*tfds build mnist"):
        load("mnist", source="tfds", path=tmp_path)
    with pytest.raises(ValueError, match="TFDS has no data set 'cifar_10': did you mean 'cifar10'"):
        load("cifar_10", source="tfds")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'pfljax\[tfds-prepare\]'"):
        load("mnist", source="tfds", path=tmp_path, download=True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("pfljax.data.tfds._HOST", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        load("mnist", source="tfds", path=tmp_path, download=True)


@pytest.mark.parametrize(
    ("package", "name", "extra"), [("sklearn", "digits", "demo"), ("tensorflow_datasets", "cifar10", "tfds")]
)
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, package: str, name: str, extra: str) -> None:
    real = builtins.__import__

    def without(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises((ImportError, FileNotFoundError), match=rf"pip install 'pfljax\[{extra}\]'"):
        load(name)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'fashion_mnist'"):
        load("fashionmnist")
    with pytest.raises(ValueError, match="choose one of 'digits'"):
        load("qqq")
    with pytest.raises(ValueError, match="choose 'auto', 'files' or 'tfds'"):
        load("digits", source="web")  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"expected an \.npz file"):
        load("mine", path=tmp_path / "no.npz")
    with pytest.raises(FileNotFoundError, match=r"\$PFLJAX_DATA \(not set\)"):
        load("kmnist", source="files")


def test_npz(tmp_path: Path) -> None:
    """Natural clients and units by the names of their arrays; `writer` is found by itself."""
    path = tmp_path / "any.npz"
    np.savez(path, x=X, y=Y, writer=np.arange(30) % 4, run=np.arange(30) % 7, classes=np.array(["a"]))
    dataset = read_npz(path, "any", units="run")
    assert dataset.x.shape == (30, 28, 28, 1)
    assert dataset.groups is not None
    assert dataset.units is not None
    assert sorted(zip(dataset.groups, dataset.units, strict=True)) == sorted((i % 4, i % 7) for i in range(30))
    assert len(federate(load("any", path=path, groups="run"), partition.natural()).sizes()) == 7
    with pytest.raises(ValueError, match="has no array 'subject' for groups: it has x, y, writer"):
        load("any", path=path, groups="subject")


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "any.npz"
    np.savez(path, images=X)
    with pytest.raises(ValueError, match="has images: name them x and y"):
        load("any", path=path)
    np.savez(path, x=X, y=np.array([object()] * 30))
    with pytest.raises(ValueError, match="is not a sound"):
        load("any", path=path)
    np.savez(path, x=X, y=Y)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], np.lib.format.magic(1, 0)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"any\.npz is not a sound \.npz file"):
            load("any", path=path)
    np.save(path.with_suffix(".npy"), X)
    with pytest.raises(ValueError, match=r"any\.npy is no file of any: give an \.npz file"):
        load("any", path=path.with_suffix(".npy"))


def test_digits() -> None:
    """1,797 images of 8x8 with the counts that scikit-learn documents, as bytes."""
    dataset = load("digits")
    assert dataset.x.shape == (1797, 8, 8, 1)
    assert dataset.x.dtype == np.uint8
    assert (dataset.x.min(), dataset.x.max(), dataset.num_classes) == (0, 255, 10)
    assert np.bincount(dataset.y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not FASHION.exists(), reason="apt-get install dataset-fashion-mnist")
def test_fashion_mnist_of_debian() -> None:
    dataset = load("fashion_mnist")
    assert dataset.test is not None
    assert np.bincount(dataset.y).tolist() == [6000] * 10
    assert np.bincount(dataset.test.y).tolist() == [1000] * 10


def test_names_of_arrays_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`writer` or `writer_train` for a file with both; a path in place of a name; times."""
    monkeypatch.chdir(tmp_path)
    people, day = np.arange(30) % 4, np.arange(30)[::-1]
    np.savez("mine.npz", x_train=X, y_train=Y, who_train=people, day_train=day, x_test=TEST_X, y_test=TEST_Y,
             who_test=np.arange(10) % 4, day_test=np.arange(10))  # fmt: skip
    for name, path in (("mine.npz", None), (str(tmp_path / "mine.npz"), None), ("mine", "mine.npz")):
        for groups in ("who", "who_train"):
            dataset = load(name, path=path, groups=groups, times="day")
            assert (dataset.name, len(dataset)) == ("mine", 30)
            assert dataset.groups is not None
            assert dataset.groups.tolist() == people.tolist()
            assert dataset.times is not None
            assert dataset.times.tolist() == day.tolist()
            assert dataset.test is not None
            assert dataset.test.groups is not None
    with pytest.raises(ValueError, match="has no array 'whom_train' for groups: it has x_train"):
        load("mine.npz", groups="whom_train")
    with pytest.raises(FileNotFoundError, match=r"your is not in your\.npz"):
        load("your.npz")
    with pytest.raises(ValueError, match="name=5: it must be text"):
        load(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["groups", "units", "times"])
def test_arrays_that_a_source_cannot_have(option: str, tmp_path: Path) -> None:
    for name, path in (("digits", None), ("mnist", write_idx(tmp_path))):
        with pytest.raises(ValueError, match=f"{option}='who': .* has no such array"):
            load(name, path=path, **{option: "who"})  # pyright: ignore[reportArgumentType]
