"""The contrast of MOON and PerFCL by hand."""

from __future__ import annotations

import numpy as np


def cosine(z: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of rows [n], and their slopes by z [n, d]."""
    length, apart = np.linalg.norm(z, axis=1, keepdims=True), np.linalg.norm(other, axis=1, keepdims=True)
    value = np.sum(z * other, axis=1, keepdims=True) / (length * apart)
    return value[:, 0], other / (length * apart) - value * z / length**2


def slope(z: np.ndarray, near: np.ndarray, far: np.ndarray, temperature: float) -> np.ndarray:
    """The gradient [n, d] by z of `-log(e^{a/tau} / (e^{a/tau} + e^{b/tau}))`, a and b the cosines to near and far."""
    (a, da), (b, db) = cosine(z, near), cosine(z, far)
    missed = np.exp(b / temperature) / (np.exp(a / temperature) + np.exp(b / temperature))
    return missed[:, None] * (db - da) / temperature
