"""Figures of a federation: who holds how much of which class. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pfljax import files
from pfljax.data.federated import FederatedData, Split
from pfljax.printing import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 30
"""Clients, or classes, that an axis has room to name."""


def bubbles(data: FederatedData, axes: Axes, *, split: Split = "train") -> None:
    """Clients from left to right, classes from bottom to top: bubbles whose areas are the numbers of examples.

    Raises:
      ValueError: if labels are not classes.
    """
    counts = data.label_counts(split)
    client, label = np.nonzero(counts)
    room = 0.9 * axes.get_window_extent().width * 72 / axes.figure.dpi / max(len(counts), 8)
    most = (0.8 * min(room, 0.9 * axes.get_window_extent().height * 72 / axes.figure.dpi / counts.shape[1])) ** 2
    areas = np.maximum(most * counts[client, label] / counts.max(), 0.3)
    axes.scatter(client, label, s=areas, color="#0072B2", alpha=0.7, linewidths=0)
    classes = data.class_names or tuple(map(str, range(counts.shape[1])))
    axes.set(ylabel="class", ylim=(-0.7, counts.shape[1] - 0.3))
    if len(classes) <= _NAMED:
        axes.set_yticks(range(len(classes)), classes, fontsize=7)
    _clients(data, axes)


def sizes(data: FederatedData, axes: Axes) -> None:
    """A bar for each client: the examples that it trains on, validates and is tested on."""
    below = np.zeros(data.num_clients + data.num_unseen)
    shades: dict[Split, str] = {"train": "#0072B2", "validation": "#E69F00", "test": "#56B4E9"}
    for split, colour in shades.items():
        if (held := data.sizes(split)).any():
            axes.bar(np.arange(len(held)), held, bottom=below, color=colour, label=split, width=0.85)
            below = below + held
    axes.set(ylabel="examples")
    axes.legend(fontsize=7, frameon=False, ncols=3)
    _clients(data, axes)


def save(data: FederatedData, path: str | Path) -> Path:
    """Both figures in a file, whose ending chooses the format; of real targets only the sizes.

    Raises:
      ImportError: without Matplotlib.
      PermissionError, OSError: if it cannot be written.
    """
    from matplotlib.figure import Figure

    drawn = [sizes] if data.num_classes is None else [bubbles, sizes]
    figure = Figure(figsize=(9, 3.2 * len(drawn)), layout="constrained")
    for number, draw in enumerate(drawn):
        draw(data, figure.add_subplot(len(drawn), 1, number + 1))
    figure.suptitle(brief(data), fontsize=9)
    return files.write_figure(path, figure)


def _clients(data: FederatedData, axes: Axes) -> None:
    population = data.num_clients + data.num_unseen
    axes.set(xlabel="client", xlim=(-0.7, population - 0.3))
    if population <= _NAMED:
        axes.set_xticks(range(population), data.names, fontsize=7, rotation=90 if max(map(len, data.names)) > 3 else 0)
    if data.num_unseen:
        axes.axvline(data.num_clients - 0.5, color="black", linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
