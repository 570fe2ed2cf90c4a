"""TensorFlow Federated's SQLite files: a row is the name of a split, of a client, and a serialized example."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data import limits


def find(path: Path) -> Path | None:
    """The file: the given one, or the only one in the folder."""
    files = [path] if path.suffix == ".sqlite" else sorted(path.glob("*.sqlite"))
    return files[0] if len(files) == 1 and files[0].is_file() else None


def read(path: Path) -> dict[str, tuple[list[dict[str, Any]], np.ndarray]]:
    """By split: features of each example by name, as arrays or as bytes, and the clients' names [T].

    Raises:
      ValueError: if the file is damaged, larger than allowed, or has other tables.
      ImportError: if `tensorflow_datasets` is missing, which has the description of examples.
    """
    try:
        from google.protobuf.message import DecodeError
        from tensorflow_datasets.proto import tf_example_pb2
    except ImportError as error:
        raise ImportError(f"{error}; files of TFF need it: pip install 'pfljax[tfds]'") from error
    limits.check(path, path.stat().st_size)
    proto: Any = tf_example_pb2
    splits: dict[str, tuple[list[dict[str, Any]], list[str]]] = {}
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            query = "SELECT split_name, client_id, serialized_example_proto FROM examples ORDER BY client_id, rowid"
            for split, client, content in connection.execute(query):
                examples, clients = splits.setdefault(str(split), ([], []))
                examples.append(_features(proto.Example.FromString(content)))
                clients.append(str(client))
        finally:
            connection.close()
    except (sqlite3.Error, DecodeError, TypeError) as error:
        raise ValueError(
            f"{path} is no sound SQLite file of TFF ({error}): unpack its .lzma with xz -dk --format=lzma, or fetch it "
            "again"
        ) from error
    if "train" not in splits:
        raise ValueError(f"{path} has the splits {', '.join(splits) or 'none'}, and train is wanted: fetch it again")
    return {split: (examples, np.array(clients, str)) for split, (examples, clients) in splits.items()}


def _features(example: Any) -> dict[str, Any]:
    """Lists of numbers as arrays, the first text as bytes."""
    found = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        values = list(getattr(feature, kind).value) if kind else []
        found[name] = next(iter(values), b"") if kind == "bytes_list" else np.array(values)
    return found
