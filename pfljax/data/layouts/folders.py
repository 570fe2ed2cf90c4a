"""Folders of images or sounds: the folders that a file lies in say its class and whose it is."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from pfljax.data import limits

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""What names of images end in."""


def files(root: Path, endings: Sequence[str]) -> list[Path]:
    """All files below a folder with one of these endings, in sorted order."""
    found = root.rglob("*") if root.is_dir() else ()
    return sorted(path for path in found if path.suffix.lower() in endings and path.name[0] != "." and path.is_file())


def images(paths: Iterable[Path], size: int | None = None, *, grey: bool = False) -> np.ndarray:
    """Bytes [T, H, W, C] of image files.

    Args:
      paths: the files.
      size: height and width that they are brought to; as they are if None.
      grey: one channel, not three.

    Raises:
      ValueError: if one is damaged, larger than allowed, or sizes differ and `size` is None.
      ImportError: if Pillow is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("images are read by Pillow: pip install 'pfljax[tfds]'") from error
    read: list[np.ndarray] = []
    for path in paths:
        try:
            with warnings.catch_warnings(), Image.open(path) as image:
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                limits.check(path, image.width * image.height * 4)
                scaled = image.convert("L" if grey else "RGB")
                scaled = scaled if size is None else scaled.resize((size, size), Image.Resampling.BILINEAR)
                read.append(np.asarray(scaled).reshape(scaled.height, scaled.width, -1))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} is no sound image ({error}): delete it and fetch it again") from error
        if read[-1].shape != read[0].shape:
            raise ValueError(
                f"{path} is {read[-1].shape[0]} x {read[-1].shape[1]}, and others are {read[0].shape[0]} x "
                f"{read[0].shape[1]}: say size=32, to bring all to 32 x 32"
            )
    return np.stack(read)


def spectra(paths: Iterable[Path], seconds: float = 1.0, rate: int = 8000) -> np.ndarray:
    """Log power spectra [T, frames, 65, 1] of wave files, in bels, as images for a convolutional network.

    Windows are 128 samples long and overlap by half. A sound is cut, or silence follows, to so many seconds.

    Raises:
      ValueError: if a file is damaged, larger than allowed, or of another rate.
    """
    from scipy.io import wavfile
    from scipy.signal import spectrogram

    read, length = [], round(seconds * rate)
    for path in paths:
        limits.check(path, path.stat().st_size)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wavfile.WavFileWarning)
                found, sound = wavfile.read(path)
        except (ValueError, OSError, EOFError, NameError, LookupError, ArithmeticError, struct.error) as error:
            raise ValueError(f"{path} is no sound wave file ({error}): delete it and fetch it again") from error
        if found != rate:
            raise ValueError(f"{path} has {found} samples a second, and {rate} are wanted: resample it")
        full = np.iinfo(sound.dtype).max if sound.dtype.kind in "iu" else 1
        wave = np.zeros(length)
        kept = sound.reshape(len(sound), -1).mean(axis=1)[:length] / full
        wave[: len(kept)] = kept
        power = spectrogram(wave, rate, nperseg=128, noverlap=64)[2]
        read.append(np.log10(power.T + 1e-12).astype(np.float32))
    return np.stack(read)[..., None]
