"""Images: digits, characters, photographs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from pfljax.data import limits
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.layouts import cifar, folders
from pfljax.data.readers.archives import idx_folder, read_npz
from pfljax.data.readers.common import as_test, matlab, plain, rows

_DOMAINS = ("mnist", "mnist_m", "svhn_cropped", "usps")


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


def svhn(path: Path, size: int | None) -> Dataset | None:
    """House numbers, from `train_32x32.mat` and `test_32x32.mat`."""
    files = [path / f"{split}_32x32.mat" for split in ("train", "test")]
    if not all(file.is_file() for file in files):
        return None
    parts = []
    for file in files:
        held = matlab(file)
        try:
            parts.append((np.moveaxis(held["X"], -1, 0), held["y"].ravel().astype(np.int32) % 10))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{file} has no images X and labels y ({error}): fetch it again") from error
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="svhn_cropped")


def usps(path: Path, size: int | None) -> Dataset | None:
    """Digits of 16 x 16, from the two files of LIBSVM's page."""
    parts = []
    for stem in ("usps", "usps.t"):
        file = next((each for each in (path / f"{stem}.bz2", path / stem) if each.is_file()), None)
        if file is None:
            return None
        from sklearn.datasets import load_svmlight_file

        text = io.BytesIO(limits.content(file))
        try:
            x, y = load_svmlight_file(text, n_features=256)
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): fetch it again") from error
        images = np.rint((x.toarray() + 1) * 127.5).astype(np.uint8).reshape(-1, 16, 16, 1)
        parts.append((images, y.astype(np.int32) - 1))
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="usps")


def mnist_m(path: Path, size: int | None) -> Dataset | None:
    """Digits on photographs: two folders of images, and a list of names and labels for each."""
    root = next((each for each in (path, path / "mnist_m") if (each / "mnist_m_train_labels.txt").is_file()), None)
    if root is None:
        return None
    parts = []
    for split in ("train", "test"):
        labels = root / f"mnist_m_{split}_labels.txt"
        listed = rows(labels, header=None, sep=" ")
        if listed.shape[1] != 2 or listed[1].dtype.kind != "i":
            raise ValueError(f"{labels} is damaged (a row is a name and a whole number): fetch it again")
        files = (root / f"mnist_m_{split}" / plain(name, labels) for name in listed[0])
        parts.append((folders.images(files, size or 28), listed[1].to_numpy(np.int32)))
    return from_arrays(*parts[0], test=parts[1], num_classes=10, name="mnist_m")


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
    return from_arrays(**parts[0], test=as_test(parts[1], "digit_domains"), name="digit_domains")


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
    listed = rows(root / "metadata.csv")
    splits = {"train": "train", "id_val": "validation", "id_test": "test", "val": "validation", "test": "test"}
    try:
        files = [root / "train" / plain(name, root / "metadata.csv") for name in listed["filename"]]
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
    listed = rows(file, skipinitialspace=True)
    images = next((each for each in (path / "40K", path / "images", path) if any(each.glob("*.jpg"))), path)
    try:
        names, score = listed["imagePair"].astype(str), listed["score"].to_numpy(np.float32)
        worker = listed["worker"].to_numpy()
    except KeyError as error:
        raise ValueError(f"{file} has no column {error}: fetch it again") from error
    photographs, places = np.unique(names.to_numpy(str), return_inverse=True)
    x = folders.images((images / plain(name, file) for name in photographs), size or 64)[places]
    return from_arrays(x, score, groups=worker, name="flickr_aes")


def by_folder(path: Path, size: int | None) -> Dataset | None:
    """Images in folders of classes, or of clients with folders of classes."""
    return _by_folder(path, size, path.name) if folders.files(path, folders.IMAGES) else None


def _by_folder(root: Path, size: int | None, name: str) -> Dataset:
    """Images whose last folder is the class and whose first, if there are two, is the client."""
    files = folders.files(root, folders.IMAGES)
    parts = [file.relative_to(root).parts[:-1] for file in files]
    if len({len(part) for part in parts}) > 1 or len(parts[0]) not in (1, 2):
        raise ValueError(f"{root} has images at several depths, or not in class/ or client/class/: sort them so")
    groups = [part[0] for part in parts] if len(parts[0]) == 2 else None
    return from_arrays(folders.images(files, size), [part[-1] for part in parts], groups=groups, name=name)


def digits() -> Dataset:
    """The 1,797 images of scikit-learn, bytes [8, 8, 1].

    Raises:
      ImportError: if it is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn: pip install 'pfljax[demo]'") from error
    x, y = load_digits(return_X_y=True)
    images = np.rint(np.asarray(x) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    return from_arrays(images, np.asarray(y), name="digits", num_classes=10)
