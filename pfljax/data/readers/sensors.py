"""What phones and microphones take down."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from pfljax.data import limits
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.door import Labels
from pfljax.data.layouts import folders
from pfljax.data.readers.common import as_test, numbers, rows
from pfljax.data.table import from_frame

_ACTIVITIES = ("WALKING", "WALKING_UPSTAIRS", "WALKING_DOWNSTAIRS", "SITTING", "STANDING", "LAYING")
_SIGNALS = [f"{signal}_{axis}" for signal in ("body_acc", "body_gyro", "total_acc") for axis in "xyz"]


_WINDOW = 256
# Of each sensor's 17 columns: 1 to 3 are acceleration to 16 g, 7 to 9 rotation, 10 to 12 the magnetic field.
_CHANNELS = [3 + 17 * sensor + column for sensor in range(3) for column in (1, 2, 3, 7, 8, 9, 10, 11, 12)]
_DOING = {
    1: "lying", 2: "sitting", 3: "standing", 4: "walking", 5: "running", 6: "cycling", 7: "nordic walking",
    12: "ascending stairs", 13: "descending stairs", 16: "vacuum cleaning", 17: "ironing", 24: "rope jumping",
}  # fmt: skip


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
        signals = [numbers(of / "Inertial Signals" / f"{signal}_{split}.txt", sep=r"\s+") for signal in _SIGNALS]
        y, subject = (numbers(of / f"{what}_{split}.txt")[:, 0].astype(int) for what in ("y", "subject"))
        if {len(each) for each in (*signals, subject)} != {len(y)}:
            raise ValueError(f"{of} has files of different lengths: fetch it again")
        x = np.stack(signals, axis=-1).astype(np.float32)
        goes_on = (y[1:] == y[:-1]) & (subject[1:] == subject[:-1]) & (x[1:, :64] == x[:-1, 64:]).all((1, 2))
        bout = np.array([f"{split} {number}" for number in np.cumsum(~np.append(False, goes_on))])
        labels = Labels((y - 1).astype(np.int32), len(_ACTIVITIES), _ACTIVITIES)
        parts.append({"x": x, "y": labels, "groups": subject, "units": bout})
    return from_arrays(**parts[0], test=as_test(parts[1], "har"), name="har")


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
    read = {"names": names, "na_values": "?", "skipinitialspace": True, "comment": "%"}
    frame = rows(file, io.BytesIO(body[0].encode()), **read)
    ids = [name for name in names if name.lower() == "unique_id"]
    return from_frame(frame, "class", "user", drop=ids, missing="mean", name="wisdm")


def pamap2(path: Path, size: int | None) -> Dataset | None:
    """Windows [256, 27], 2.56 seconds each, of three sensors on hand, chest and ankle.

    Acceleration (16 g), rotation and magnetic field; what is missing lies on the line between its neighbours. Windows
    follow each other without overlap within a bout, and those of one bout stay together.
    """
    roots = (path, path / "Protocol", path / "PAMAP2_Dataset" / "Protocol")
    files = [file for root in roots for file in sorted(root.glob("subject1??.dat"))]
    if not files:
        return None
    x, y, subjects, bouts = [], [], [], []
    for file in files:
        held = rows(file, header=None, sep=r"\s+")
        if held.shape[1] != 54:
            raise ValueError(f"{file} has {held.shape[1]} columns, where 54 are wanted: fetch it again")
        activity = held[1].to_numpy(int)
        for number, bout in held[_CHANNELS].groupby(np.cumsum(np.diff(activity, prepend=-1) != 0)):
            doing, count = activity[bout.index[0]], len(bout) // _WINDOW
            if doing and count:
                whole = bout.interpolate(limit_direction="both").to_numpy(np.float32)[: count * _WINDOW]
                x.append(whole.reshape(count, _WINDOW, -1))
                y += [_DOING.get(doing, str(doing))] * count
                subjects += [file.stem.removeprefix("subject")] * count
                bouts += [f"{file.stem} {number}"] * count
    if not x:
        raise ValueError(f"{files[0]} and others have no bout of {_WINDOW} samples: fetch them again")
    return from_arrays(np.concatenate(x), y, groups=subjects, units=bouts, name="pamap2")


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
