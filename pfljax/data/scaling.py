"""Numbers of inputs, filled in and brought to one scale, by what training rows say."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

Standardize = Literal["none", "pooled", "client"]
Missing = Literal["error", "drop", "mean", "median"]


class Empty(ValueError):
    """A feature without a number in any training row."""

    def __init__(self, feature: int):
        super().__init__(f"feature {feature} is missing in all training rows")
        self.feature = feature


class Scaling(NamedTuple):
    """What training rows say of the d features: `x <- (x - mean_i) / scale_i`, a missing number is `fill` before.

    The last row of `mean` and `scale` is that of all clients that train, for examples that are nobody's.
    """

    fill: np.ndarray  # [d]
    mean: np.ndarray  # [N + U + 1, d]
    scale: np.ndarray  # [N + U + 1, d]

    def __call__(self, x: np.ndarray, client: np.ndarray | int) -> np.ndarray:
        """Inputs [T, ..., d] of clients [T], or of one, as float32."""
        wide = (len(x), *[1] * (x.ndim - 2), -1)
        own = np.broadcast_to(client, len(x))
        filled = np.where(np.isnan(x), self.fill, x)
        return ((filled - self.mean[own].reshape(wide)) / self.scale[own].reshape(wide)).astype(np.float32)


def fitted(
    x: np.ndarray,
    sizes: np.ndarray,
    num_clients: int,
    *,
    standardize: Standardize,
    missing: Missing = "error",
    numbers: int | None = None,
) -> Scaling:
    """The scaling that training rows ask for.

    Means and standard deviations are those of all rows of the N clients (`pooled`), or of each client's own rows
    (`client`; a client without rows has the pooled ones). Where a feature does not vary, the scale is 1. What is
    missing becomes the mean or the median of all rows of the N clients.

    Args:
      x: training inputs [T, ..., d], client by client.
      sizes: [N + U] how many of them are whose, unseen clients last.
      num_clients: N.
      standardize: see above; `none`: means are 0 and scales 1.
      missing: `mean` or `median` to fill in.
      numbers: the first so many features are brought to scale; all if None.

    Raises:
      Empty: if a feature has no number in any training row.

    >>> fitted(np.array([[1.0], [3.0], [9.0]]), np.array([2, 1]), 1, standardize="pooled").mean.tolist()
    [[2.0], [2.0], [2.0]]
    """
    x = x.astype(float, copy=False)
    features, d = x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1]), x.shape[-1]
    own = np.split(features, np.cumsum(sizes)[:-1])
    seen = features[: sizes[:num_clients].sum()].reshape(-1, d)
    fill = np.zeros(d)
    if np.isnan(x).any():
        if (empty := np.isnan(seen).all(axis=0)).any():
            raise Empty(int(np.argmax(empty)))
        fill = (np.nanmedian if missing == "median" else np.nanmean)(seen, axis=0)
    mean, scale = np.zeros((len(sizes) + 1, d)), np.ones((len(sizes) + 1, d))
    for client, mine in enumerate([*own, seen] if standardize != "none" else []):
        rows = mine.reshape(-1, d) if standardize == "client" and len(mine) else seen
        rows = np.where(np.isnan(rows), fill, rows)[:, :numbers]
        spread = rows.std(axis=0)
        mean[client, :numbers] = rows.mean(axis=0)
        scale[client, :numbers] = np.where(spread > 1e-9 * abs(mean[client, :numbers]), spread, 1)
    return Scaling(fill, mean, scale)
