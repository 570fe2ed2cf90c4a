"""LEAF's data sets, and those of TensorFlow Federated."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.layouts import folders, leaf, tff
from pfljax.data.readers.common import Read, plain

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""The 80 characters of LEAF's Shakespeare, in its order; any other is the last, as there."""
_WORDS, _TWEET = 10_000, 25
_TARGET, _COUNT = "target_tokens", "count_tokens"


def characters(texts: Sequence[str]) -> np.ndarray:
    """Texts of one length as places in `LETTERS`, [T, length].

    Raises:
      TypeError: if they are of several lengths.

    >>> characters(["a!", "b~"]).tolist()
    [[53, 2], [54, 79]]
    """
    place = {letter: number for number, letter in enumerate(LETTERS)}
    return _array([[place.get(letter, len(LETTERS) - 1) for letter in text] for text in texts], np.int32)


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
                x, y = inputs(part.x, parts["train"].x, folder, size), _array(part.y, None)
            except (TypeError, IndexError, KeyError) as error:
                raise ValueError(f"{folder / split} has no examples of {name} ({error}): make it again") from error
            y = characters(part.y)[:, 0] if y.dtype.kind == "U" else y
            made[split] = {"x": x, "y": y, "groups": part.clients, "num_classes": classes}
        test = from_arrays(**made["test"], name=f"{name} (test)") if "test" in made else None
        return from_arrays(**made["train"], test=test, name=name)

    return read


def _drawn(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Images of 28 x 28 that LEAF has as shares of 255."""
    grey = _array(x, np.float32)
    if grey.shape[1:] != (784,):
        raise TypeError(f"an image is {list(grey.shape[1:])}, not 784 numbers")
    return np.rint(grey.reshape(-1, 28, 28, 1) * 255).astype(np.uint8)


def _spoken(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    return characters(x)


def _numbers(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    return _array(x, np.float32)


def _array(rows: list[Any], dtype: Any) -> np.ndarray:
    try:
        return np.array(rows, dtype)
    except ValueError as error:
        raise TypeError(error) from error


def _faces(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Images by the names of their files."""
    places = [root / "img_align_celeba" for root in (folder / "raw", folder.parent / "raw", folder, folder.parent)]
    root = next((place for place in places if place.is_dir()), None)
    if root is None:
        raise FileNotFoundError(f"{folder} has no raw/img_align_celeba: put the images there")
    return folders.images((root / plain(file, folder) for file in x), size or 84)


def _tweets(x: list[Any], train: list[Any], folder: Path, size: int | None) -> np.ndarray:
    """Words [T, 25] by their places among the 10,000 most frequent of training: 0 is nothing, 1 any other word."""
    place = _numbered(word for tweet in train for word in _words(tweet))
    found = np.zeros((len(x), _TWEET), np.int32)
    for row, tweet in zip(found, x, strict=True):
        words = [place.get(word, 1) for word in _words(tweet)][:_TWEET]
        row[: len(words)] = words
    return found


def _numbered(words: Iterable[str]) -> dict[str, int]:
    """The most frequent words, from 2 on."""
    return {word: number for number, (word, _) in enumerate(Counter(words).most_common(_WORDS), 2)}


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


def reddit(path: Path, size: int | None) -> Dataset | None:
    """Pieces of ten words of comments, and the next word at each place, by who wrote them.

    Words are numbered by their places among the 10,000 most frequent of training: 1 is any other word, 0 marks what
    does not count.
    """
    folder = leaf.find(path)
    if folder is None:
        return None
    place, made = {}, {}
    for split, part in leaf.read(folder).items():
        try:
            pieces = [piece for comment in part.x for piece in comment]
            targets, counts = ([piece for said in part.y for piece in said[key]] for key in (_TARGET, _COUNT))
            place = place or _numbered(word for piece in pieces for word in piece if word != "<PAD>") | {"<PAD>": 0}
            x, y = (np.array([[place.get(word, 1) for word in piece] for piece in of]) for of in (pieces, targets))
            y = np.where(np.array(counts, bool), y, 0)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{folder / split} has no comments of reddit ({error}): make it again") from error
        groups = np.repeat(part.clients, [len(comment) for comment in part.x])
        made[split] = {"x": x.astype(np.int32), "y": y, "groups": groups, "num_classes": _WORDS + 2, "ignore": 0}
    test = from_arrays(**made["test"], name="reddit (test)") if "test" in made else None
    return from_arrays(**made["train"], test=test, name="reddit")


def any_leaf(path: Path, size: int | None) -> Dataset | None:
    """Numbers or characters in LEAF's layout."""
    return of_leaf(path.name, None, _whatever)(path, size)


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
