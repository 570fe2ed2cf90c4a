"""Data sets in the files that their authors publish: each reader takes a folder and says None where they are not in it.

A reader of layout and meaning: which file holds what, whose an example is, what is to be learned, what stays together.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data import limits
from pfljax.data.columns import Columns
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.door import Labels
from pfljax.data.heart import HOSPITALS, heart
from pfljax.data.layouts import cifar, folders, idx, leaf, npz, tff
from pfljax.data.table import from_frame
from pfljax.files import write

Read = Callable[[Path, int | None], Dataset | None]
"""`(path, size of images) -> data set`, None if its files are not there."""

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""The 80 characters of LEAF's Shakespeare, in its order; any other is the last, as there."""

_PREPARED = "pfljax"
_KEYS = ("groups", "units", "times", "split")
_WORDS, _TWEET = 10_000, 25
_ACTIVITIES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
_SIGNALS = [f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]
_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}
_STEMS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_DOMAINS = ("mnist", "mnist_m", "svhn_cropped", "usps")


def characters(texts: Sequence[str]) -> np.ndarray:
    """Texts of one length as places in `LETTERS`, [T, length].

    >>> characters(["a!", "b~"]).tolist()
    [[53, 2], [54, 79]]
    """
    place = {letter: number for number, letter in enumerate(LETTERS)}
    return np.array([[place.get(letter, len(LETTERS) - 1) for letter in text] for text in texts], np.int32)


def of_leaf(name: str, classes: int | None, inputs: Callable[[list[Any], list[Any], Path, int | None], Any]) -> Read:
    """The reader of a data set of LEAF.

    Args:
      name: of the data set.
      classes: C.
      inputs: makes arrays of what the files list: `(inputs, those of training, folder, size of images)`.
    """

    def read(path: Path, size: int | None) -> Dataset | None:
        folder = leaf.find(path)
        if folder is None:
            return None
        parts, made = leaf.read(folder), {}
        for split, part in parts.items():
            try:
                x, y = inputs(part.x, parts["train"].x, folder, size), np.array(part.y)
            except (ValueError, TypeError, IndexError, KeyError) as error:
                raise ValueError(f"{folder / split} has no examples of {name} ({error}): make it again") from error
            y = characters(part.y)[:, 0] if y.dtype.kind == "U" else y
            made[split] = {"x": x, "y": y, "groups": part.clients, "num_classes": classes}
        test = from_arrays(**made["test"], name=f"{name} (test)") if "test" in made else None
        return from_arrays(**made["train"], test=test, name=name)

    return read


def _drawn(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Images of 28 x 28 that LEAF has as shares of 255."""
    grey = np.array(x, np.float32).reshape(-1, 28, 28, 1) * 255
    return np.rint(grey).astype(np.uint8)


def _spoken(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    return characters(x)


def _numbers(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    return np.array(x, np.float32)


def _faces(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Images by the names of their files."""
    places = [root / "img_align_celeba" for root in (folder / "raw", folder.parent / "raw", folder, folder.parent)]
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{folder} has no raw/img_align_celeba: put the images there")
    return folders.images((root / plain(file) for file in x), size or 84)


def _tweets(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Words [T, 25] by their places among the 10,000 most frequent of training: 0 is nothing, 1 any other word."""
    known = Counter(word for tweet in train for word in _words(tweet)).most_common(_WORDS)
    place = {word: number for number, (word, _) in enumerate(known, 2)}
    found = np.zeros((len(x), _TWEET), np.int32)
    for row, tweet in zip(found, x, strict=True):
        words = [place.get(word, 1) for word in _words(tweet)][:_TWEET]
        row[: len(words)] = words
    return found


def _words(tweet: Any) -> list[str]:
    return re.findall(r"[\w']+|[.,!?;]", str(tweet[4] if isinstance(tweet, list) else tweet).lower())


def _whatever(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    return characters(x) if isinstance(x[0], str) else _numbers(x, train, folder, size)


def femnist(path: Path, size: int | None) -> Dataset | None:
    """LEAF's JSON, or TFF's file."""
    return of_leaf("femnist", 62, _drawn)(path, size) or _of_tff(path, "femnist", 62, _pixels)


def shakespeare(path: Path, size: int | None) -> Dataset | None:
    """LEAF's JSON, 80 characters and the next one; or TFF's file, cut into pieces of 80 with the next at each place."""
    found = of_leaf("shakespeare", len(LETTERS), _spoken)(path, size)
    return found or _of_tff(path, "shakespeare", len(LETTERS), _snippets)


celeba = of_leaf("celeba", 2, _faces)
sent140 = of_leaf("sent140", 2, _tweets)
leaf_synthetic = of_leaf("leaf_synthetic", None, _numbers)


def _of_tff(
    path: Path, name: str, classes: int, example: Callable[[dict[str, Any]], tuple[Any, Any]]
) -> Dataset | None:
    """A file of TFF; `example` makes inputs and labels of features, with as many rows as an example has."""
    file = tff.find(path)
    if file is None:
        return None
    made = {}
    for split, (features, clients) in tff.read(file).items():
        try:
            pairs = [example(each) for each in features]
            x, y = (np.concatenate(side) for side in zip(*pairs, strict=True))
        except (KeyError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} has no examples of {name} ({error}): fetch it again") from error
        groups = np.repeat(clients, [len(rows) for _, rows in pairs])
        made[split] = {"x": x, "y": y, "groups": groups, "num_classes": classes}
    test = from_arrays(**made["test"], name=f"{name} (test)") if "test" in made else None
    return from_arrays(**made["train"], test=test, name=name)


def _pixels(features: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    grey = np.rint(np.asarray(features["pixels"], float).reshape(1, 28, 28, 1) * 255)
    return grey.astype(np.uint8), np.asarray(features["label"], np.int32).reshape(1)


def _snippets(features: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    text = features["snippets"].decode()
    pieces = [text[at : at + 81] for at in range(0, len(text), 80)]
    whole = [piece for piece in pieces if len(piece) == 81]
    rows = characters(whole).reshape(len(whole), 81)
    return rows[:, :-1], rows[:, 1:]


def cifar10(path: Path, size: int | None) -> Dataset | None:
    """Batches in pickles or binary records."""
    return _cifar(path, "cifar10", 10)


def cifar100(path: Path, size: int | None) -> Dataset | None:
    """The same with 100 classes; the 20 coarse ones are left out."""
    return _cifar(path, "cifar100", 100)


def _cifar(path: Path, name: str, classes: int) -> Dataset | None:
    files = cifar.find(path)
    if files is None:
        return None
    train, test = cifar.read(files[0]), cifar.read([files[1]])
    return from_arrays(train.x, train.y, test=(test.x, test.y), num_classes=classes, name=name)


def heart_disease(path: Path, size: int | None) -> Dataset | None:
    """As FLamby has it, see `heart.heart`."""
    found = any((path / f"processed.{hospital}.data").is_file() for hospital in HOSPITALS)
    return heart(path) if found else None


def har(path: Path, size: int | None) -> Dataset | None:
    """Raw windows [128, 9] of accelerations and rotations.

    A window begins with the second half of the one before, as long as a bout lasts; those of one bout stay together.
    """
    root = next((each for each in (path, path / "UCI HAR Dataset") if (each / "train" / "y_train.txt").is_file()), None)
    if root is None:
        return None
    parts = []
    for split in ("train", "test"):
        of = root / split
        signals = [_spaced(of / "Inertial Signals" / f"{signal}_{split}.txt") for signal in _SIGNALS]
        y, subject = (_spaced(of / f"{what}_{split}.txt")[:, 0].astype(int) for what in ("y", "subject"))
        if {len(each) for each in (*signals, subject)} != {len(y)}:
            raise ValueError(f"{of} has files of different lengths: fetch it again")
        x = np.stack(signals, axis=-1).astype(np.float32)
        goes_on = (y[1:] == y[:-1]) & (subject[1:] == subject[:-1]) & (x[1:, :64] == x[:-1, 64:]).all((1, 2))
        bout = np.array([f"{split} {number}" for number in np.cumsum(~np.append(False, goes_on))])
        labels = Labels((y - 1).astype(np.int32), len(_ACTIVITIES), _ACTIVITIES)
        parts.append({"x": x, "y": labels, "groups": subject, "units": bout})
    return from_arrays(**parts[0], test=_as_test(parts[1], "har"), name="har")


def wisdm(path: Path, size: int | None) -> Dataset | None:
    """43 features of windows of ten seconds, from the transformed file in Weka's format."""
    file = path if path.suffix == ".arff" else next(iter(sorted(path.rglob("*transformed.arff"))), None)
    if file is None or not file.is_file():
        return None
    text = limits.content(file).decode("utf-8", "replace")
    head, *body = re.split(r"(?im)^@data\s*$", text, maxsplit=1)
    names = [name.strip("\"'") for name in re.findall(r"(?im)^@attribute\s+(\"[^\"]*\"|'[^']*'|\S+)", head)]
    if not body or not {"user", "class"} <= set(names):
        raise ValueError(f"{file} has no attributes user and class, and data: fetch it again")
    import pandas as pd

    frame = pd.read_csv(io.StringIO(body[0]), names=names, na_values="?", skipinitialspace=True, comment="%")
    ids = [name for name in names if name.lower() == "unique_id"]
    return from_frame(frame, "class", "user", drop=ids, missing="mean", name="wisdm")


def movielens(path: Path, size: int | None) -> Dataset | None:
    """Ratings from 1 to 5, real targets; the example is the film's number."""
    known = {"u.data": "\t", "ratings.dat": "::"}
    found = [(each / file, sep) for file, sep in known.items() for each in (path, *path.glob("ml-*"))]
    file, separator = next(((each, sep) for each, sep in found if each.is_file()), (None, ""))
    if file is None:
        return None
    rows = _plain_table(file, header=None, sep=separator, engine="python").to_numpy()
    film = np.unique(rows[:, 1], return_inverse=True)[1].astype(np.int32)
    return from_arrays(film, rows[:, 2].astype(np.float32), groups=rows[:, 0], times=rows[:, 3], name="movielens")


def school(path: Path, size: int | None) -> Dataset | None:
    """Exam scores of pupils by 28 features, from the file of MALSAR."""
    x, y, task = _tasks(path, "school*.mat") or (None, None, None)
    return None if x is None else from_arrays(x, np.asarray(y, np.float32), groups=task, name="school")


def landmine(path: Path, size: int | None) -> Dataset | None:
    """Mine or clutter by 9 features of radar images."""
    x, y, task = _tasks(path, "[Ll]and*[Mm]ine*.mat") or (None, None, None)
    return None if x is None else from_arrays(x, (np.asarray(y) > 0).astype(np.int32), groups=task, name="landmine")


def _tasks(path: Path, pattern: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Inputs, targets and tasks of a file of Matlab with a cell for each task."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    file = path if path.suffix == ".mat" else next(iter(sorted(path.glob(pattern))), None)
    if file is None or not file.is_file():
        return None
    limits.check(file, file.stat().st_size)
    try:
        held = loadmat(file)
        x, y = (held[next(key for key in keys if key in held)].ravel() for keys in (("X", "feature"), ("Y", "label")))
        sizes = [len(rows) for rows in x]
        joined = np.concatenate(list(x)).astype(np.float32), np.concatenate([np.ravel(rows) for rows in y])
    except (MatReadError, ValueError, TypeError, OSError, StopIteration, NotImplementedError) as error:
        raise ValueError(f"{file} has no cells X and Y, or feature and label ({error}): fetch it again") from error
    return *joined, np.repeat(np.arange(len(sizes)), sizes)


def usps(path: Path, size: int | None) -> Dataset | None:
    """Digits of 16 x 16, from the two files of LIBSVM's page."""
    parts = []
    for stem in ("usps", "usps.t"):
        file = next((each for each in (path / f"{stem}.bz2", path / stem) if each.is_file()), None)
        if file is None:
            return None
        from sklearn.datasets import load_svmlight_file

        try:
            x, y = load_svmlight_file(io.BytesIO(limits.content(file)), n_features=256)
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
        images = np.rint((x.toarray() + 1) * 127.5).astype(np.uint8).reshape(-1, 16, 16, 1)
        parts.append((images, y.astype(np.int32) - 1))
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="usps")


def svhn(path: Path, size: int | None) -> Dataset | None:
    """House numbers, from `train_32x32.mat` and `test_32x32.mat`."""
    from scipy.io import loadmat

    files = [path / f"{split}_32x32.mat" for split in ("train", "test")]
    if not all(file.is_file() for file in files):
        return None
    parts = []
    for file in files:
        limits.check(file, file.stat().st_size)
        try:
            held = loadmat(file)
            parts.append((np.moveaxis(held["X"], -1, 0), held["y"].ravel().astype(np.int32) % 10))
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="svhn_cropped")


def mnist_m(path: Path, size: int | None) -> Dataset | None:
    """Digits on photographs: two folders of images, and a list of names and labels for each."""
    root = next((each for each in (path, path / "mnist_m") if (each / "mnist_m_train_labels.txt").is_file()), None)
    if root is None:
        return None
    parts = []
    for split in ("train", "test"):
        listed = _plain_table(root / f"mnist_m_{split}_labels.txt", header=None, sep=" ")
        files = (root / f"mnist_m_{split}" / plain(name) for name in listed[0])
        parts.append((folders.images(files, size or 28), listed[1].to_numpy(np.int32)))
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="mnist_m")


def omniglot(path: Path, size: int | None) -> Dataset | None:
    """Characters of many alphabets; a client is who drew an alphabet, by its name and the drawer's number."""
    roots = [path / part for part in ("images_background", "images_evaluation") if (path / part).is_dir()]
    files = [file for root in roots for file in folders.files(root, (".png",))]
    if not files:
        return None
    alphabets = [file.parents[1].name for file in files]
    labels = [f"{alphabet} {file.parent.name}" for alphabet, file in zip(alphabets, files, strict=True)]
    drawers = [f"{alphabet} {file.stem.rpartition('_')[2]}" for alphabet, file in zip(alphabets, files, strict=True)]
    return from_arrays(folders.images(files, size or 28, grey=True), labels, groups=drawers, name="omniglot")


def chars74k(path: Path, size: int | None) -> Dataset | None:
    """Digits and letters, each drawn once by each writer, white on black as in MNIST."""
    roots = (path, path / "English" / "Hnd" / "Img", path / "Hnd" / "Img", path / "Img")
    root = next((each for each in roots if (each / "Sample001").is_dir()), None)
    if root is None:
        return None
    files = folders.files(root, (".png",))
    label = np.array([int(file.parent.name.removeprefix("Sample")) - 1 for file in files], np.int32)
    writer = [file.stem.rpartition("-")[2] for file in files]
    images = 255 - folders.images(files, size or 28, grey=True)
    return from_arrays(images, label, groups=writer, num_classes=62, name="chars74k")


def pacs(path: Path, size: int | None) -> Dataset | None:
    """Seven classes in photographs, paintings, cartoons and sketches."""
    root = next((each for each in (path, path / "PACS", path / "kfold") if (each / "cartoon").is_dir()), None)
    return None if root is None else _by_folder(root, size or 64, "pacs")


def iwildcam(path: Path, size: int | None) -> Dataset | None:
    """Animals by camera, from the folder of WILDS; what it says of each image is its split."""
    root = next((each for each in (path, path / "iwildcam_v2.0") if (each / "metadata.csv").is_file()), None)
    if root is None:
        return None
    listed = _plain_table(root / "metadata.csv")
    splits = {"train": "train", "id_val": "validation", "id_test": "test", "val": "validation", "test": "test"}
    try:
        files = [root / "train" / plain(name) for name in listed["filename"]]
        split = [splits[name] for name in listed["split"]]
        label = np.unique(listed["y"].to_numpy(), return_inverse=True)[1]
        camera = listed["location"].to_numpy()
    except KeyError as error:
        raise ValueError(f"{root / 'metadata.csv'} has no {error}: fetch it again") from error
    return from_arrays(folders.images(files, size or 64), label, groups=camera, split=split, name="iwildcam")


def flickr_aes(path: Path, size: int | None) -> Dataset | None:
    """How much each worker likes a photograph, from 1 to 5."""
    file = path / "FLICKR-AES_image_labeled_by_each_worker.csv"
    if not file.is_file():
        return None
    listed = _plain_table(file, skipinitialspace=True)
    images = next((each for each in (path / "40K", path / "images", path) if any(each.glob("*.jpg"))), path)
    try:
        names, score = listed["imagePair"].astype(str), listed["score"].to_numpy(np.float32)
        worker = listed["worker"].to_numpy()
    except KeyError as error:
        raise ValueError(f"{file} has no column {error}: fetch it again") from error
    photographs, places = np.unique(names.to_numpy(str), return_inverse=True)
    x = folders.images((images / plain(name) for name in photographs), size or 64)[places]
    return from_arrays(x, score, groups=worker, name="flickr_aes")


def spoken_digits(path: Path, size: int | None) -> Dataset | None:
    """Digits by speaker, as log spectra of the first second; a file is called `digit_speaker_number.wav`."""
    files = folders.files(path / "recordings" if (path / "recordings").is_dir() else path, (".wav",))
    named = [re.fullmatch(r"(\d)_(.+)_\d+", file.stem) for file in files]
    if not files or not all(named):
        return None
    digits, speakers = zip(*(match.groups() for match in named if match), strict=True)
    return from_arrays(
        folders.spectra(files), np.array(digits, int), groups=speakers, num_classes=10, name="spoken_digits"
    )


def digit_domains(path: Path, size: int | None) -> Dataset | None:
    """MNIST, MNIST-M, SVHN and USPS as clients, 28 x 28 in colour: a folder with a copy of each, of two at least."""
    found = {name: part for name in _DOMAINS if (part := _domain(path, name)) is not None}
    if len(found) < 2:
        return None
    train = {name: (part.x, part.y) for name, part in found.items()}
    test = {name: (part.test.x, part.test.y) for name, part in found.items() if part.test is not None}
    parts = []
    for split in (train, test):
        x = np.concatenate([_coloured(x, size or 28) for x, _ in split.values()])
        groups = np.repeat(np.array([*split]), [len(y) for _, y in split.values()])
        parts.append({"x": x, "y": np.concatenate([y for _, y in split.values()]), "groups": groups, "num_classes": 10})
    return from_arrays(**parts[0], test=_as_test(parts[1], "digit_domains"), name="digit_domains")


def _domain(path: Path, name: str) -> Dataset | None:
    if (archive := path / f"{name}.npz").is_file():
        return read_npz(archive, name)
    reader = {"mnist_m": mnist_m, "svhn_cropped": svhn, "usps": usps}.get(name)
    return idx_folder(path / name, name) if reader is None else reader(path / name, None)


def _coloured(x: np.ndarray, size: int) -> np.ndarray:
    """Images of one size in three channels."""
    from PIL import Image

    if x.shape[1:3] != (size, size):
        shown = x[..., 0] if x.shape[-1] == 1 else x
        scaled = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR) for image in shown]
        x = np.stack([np.asarray(image) for image in scaled]).reshape(len(x), size, size, -1)
    return np.broadcast_to(x, (*x.shape[:3], 3))


def idx_folder(path: Path, name: str) -> Dataset | None:
    """The four files of MNIST, in the folder, its `raw`, or in a torchvision root.

    Raises:
      FileNotFoundError: if only some of them are there.
    """
    for folder in (path, path / "raw", path / _TORCHVISION.get(name, "") / "raw"):
        if _idx_file(folder, _STEMS[0]):
            return _read_idx(folder, name)
    return None


def _read_idx(folder: Path, name: str) -> Dataset:
    arrays = []
    for stem in _STEMS:
        file = _idx_file(folder, stem)
        if file is None:
            raise FileNotFoundError(f"{folder} has no {stem}-ubyte[.gz]: all four files of {name} must be there")
        arrays.append(idx.read(file))
    x, y, test_x, test_y = arrays
    return from_arrays(_grey(x), y, test=(_grey(test_x), test_y), name=name)


def _idx_file(folder: Path, stem: str) -> Path | None:
    return next((file for file in (folder / f"{stem}-ubyte", folder / f"{stem}-ubyte.gz") if file.is_file()), None)


def read_npz(
    path: str | Path,
    name: str,
    *,
    groups: str | None = None,
    units: str | None = None,
    times: str | None = None,
) -> Dataset:
    """An `.npz` file with `x`, `y`, or `x_train`, `y_train` and perhaps `x_test`, `y_test`; or what `write_npz` wrote.

    Args:
      path: the file.
      name: how reports call it.
      groups, units, times: names of arrays, see `load`.

    Raises:
      ValueError: if the file is damaged or has other arrays.
    """
    arrays = npz.read(path)
    if _PREPARED in arrays:
        return _prepared(arrays, path, name)

    def part(suffix: str) -> dict[str, Any] | None:
        if f"x{suffix}" not in arrays or f"y{suffix}" not in arrays:
            return None
        found = {"x": _grey(arrays[f"x{suffix}"]), "y": arrays[f"y{suffix}"]}
        for argument, key in {"groups": groups, "units": units, "times": times}.items():
            names = [] if key is None else [f"{key}{suffix}", f"{key.removesuffix('_train')}{suffix}"]
            held = [name for name in names if name in arrays]
            if names and not held:
                raise ValueError(f"{path} has no array {names[-1]!r} for {argument}: it has {', '.join(arrays)}")
            if held:
                found[argument] = arrays[held[0]]
        if groups is None and (named := [key for key in ("groups", "writer") if f"{key}{suffix}" in arrays]):
            found["groups"] = arrays[f"{named[0]}{suffix}"]
        return found

    train = part("_train") or part("")
    if train is None:
        raise ValueError(f"{path} has {', '.join(arrays) or 'no arrays'}: name them x and y, or x_train and y_train")
    test = part("_test")
    return from_arrays(**train, test=None if test is None else from_arrays(**test, name=f"{name} (test)"), name=name)


def write_npz(path: str | Path, dataset: Dataset) -> Path:
    """Writes a data set as one file that `read_npz` reads without being told anything.

    Raises:
      ValueError: if an example is several arrays.
      PermissionError, OSError: if it cannot be written.
    """
    if not hasattr(dataset.x, "dtype"):
        raise ValueError(f"an example of {dataset.name} is several arrays, which no .npz file of examples holds")
    about = {"classes": dataset.num_classes, "names": dataset.class_names, "ignore": dataset.ignore}
    about |= {"columns": None if dataset.columns is None else dataset.columns._asdict()}
    arrays: dict[str, Any] = {_PREPARED: np.array(json.dumps(about))}
    for suffix, part in {"_train": dataset, "_test": dataset.test}.items():
        held = {} if part is None else {name: getattr(part, name) for name in ("x", "y", *_KEYS)}
        arrays |= {f"{name}{suffix}": array for name, array in held.items() if array is not None}
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return write(path, stream.getvalue())


def _prepared(arrays: dict[str, np.ndarray], path: str | Path, name: str) -> Dataset:
    """What `write_npz` wrote."""
    try:
        about = json.loads(str(arrays[_PREPARED]))
        names = None if about["names"] is None else tuple(about["names"])
        columns = None if about["columns"] is None else Columns.of_plain(about["columns"])
        shared = {"num_classes": None if names else about["classes"], "ignore": about["ignore"]}
        parts = []
        for suffix in ("_train", "_test"):
            if f"x{suffix}" in arrays:
                keys = {key: arrays.get(f"{key}{suffix}") for key in _KEYS}
                labels = Labels(arrays[f"y{suffix}"], about["classes"], names)
                parts.append({"x": arrays[f"x{suffix}"], "y": labels, "columns": columns, **keys, **shared})
        test = _as_test(parts[1], name) if len(parts) > 1 else None
    except (KeyError, TypeError, json.JSONDecodeError, IndexError) as error:
        raise ValueError(f"{path} is not as pfljax wrote it ({error}): prepare it again") from error
    return from_arrays(**parts[0], test=test, name=name)


def _grey(x: np.ndarray) -> np.ndarray:
    """Bytes [T, H, W] are grey images: [T, H, W, 1]."""
    return x[..., None] if x.dtype == np.uint8 and x.ndim == 3 else x


def by_folder(path: Path, size: int | None) -> Dataset | None:
    """Images in folders of classes, or of clients with folders of classes."""
    return _by_folder(path, size, path.name) if folders.files(path, folders.IMAGES) else None


def any_leaf(path: Path, size: int | None) -> Dataset | None:
    """Numbers or characters in LEAF's layout."""
    return of_leaf(path.name, None, _whatever)(path, size)


def _by_folder(root: Path, size: int | None, name: str) -> Dataset:
    """Images whose last folder is the class and whose first, if there are two, is the client."""
    files = folders.files(root, folders.IMAGES)
    parts = [file.relative_to(root).parts[:-1] for file in files]
    if len({len(part) for part in parts}) > 1 or len(parts[0]) not in (1, 2):
        raise ValueError(f"{root} has images at several depths, or not in class/ or client/class/: sort them so")
    groups = [part[0] for part in parts] if len(parts[0]) == 2 else None
    return from_arrays(folders.images(files, size), [part[-1] for part in parts], groups=groups, name=name)


def plain(name: Any) -> str:
    """The name of a file in a list, refused where it leads out of its folder.

    Raises:
      ValueError: if it is more than a name.
    """
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
        raise ValueError(f"{name!r} is no plain name of a file")
    return name


def _plain_table(path: Path, **options: Any) -> Any:
    import pandas as pd

    try:
        return pd.read_csv(io.BytesIO(limits.content(path)), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged ({str(error).strip()}): fetch it again") from error


def _spaced(path: Path) -> np.ndarray:
    """Numbers in columns of spaces."""
    table = _plain_table(path, header=None, sep=r"\s+")
    try:
        return table.to_numpy(float)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error


def _as_test(part: dict[str, Any], name: str) -> Dataset:
    return from_arrays(**part, name=f"{name} (test)")


def _with_test(x: np.ndarray, y: np.ndarray, groups: np.ndarray, test: np.ndarray, name: str) -> Dataset:
    parts = [
        {"x": x[rows], "y": y[rows], "groups": groups[rows], "num_classes": int(y.max()) + 1} for rows in (~test, test)
    ]
    return from_arrays(**parts[0], test=_as_test(parts[1], name), name=name)
