"""Figures. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pfljax import files
from pfljax.results import Result


def save(results: Mapping[str, Result], path: str | Path) -> Path:
    """One figure of several results: how they learn, and how their clients fare at the end.

    On the left the mean over clients at every evaluation; on the right every client of every method at the last one,
    with the mean as a bar. Clients are shown with the model that they deploy, on their own test examples.

    Args:
      results: name -> result.
      path: where the figure is written; the ending chooses the format.

    Raises:
      ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'pfljax[plot]'") from error
    figure = Figure(figsize=(10.5, 0.6 + max(3.6, 0.36 * len(results))), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=False)
    metric = next(iter(results.values())).metric
    scale, unit = (100, ", %") if metric == "accuracy" else (1, "")
    names = list(results)
    colors = {name: f"C{number % 10}" for number, name in enumerate(names)}
    for name, result in results.items():
        style = {"color": colors[name], "linestyle": "--" if name in _BASELINES else "-"}
        marker = "o" if len(result.rounds) == 1 else None
        left.plot(result.rounds, scale * result.curve(), label=name, linewidth=1.6, marker=marker, **style)
    left.set(xlabel="round", ylabel=f"mean test {metric}{unit}")
    left.grid(alpha=0.25)
    left.legend(fontsize=8, frameon=False)

    spread = np.random.default_rng(0)
    for place, (name, result) in enumerate(results.items()):
        scores = scale * result.clients()
        scores = scores[~np.isnan(scores)]
        heights = place + spread.uniform(-0.24, 0.24, len(scores))
        right.scatter(scores, heights, s=14, alpha=0.6, color=colors[name], linewidths=0)
        right.plot([scores.mean()] * 2, [place - 0.36, place + 0.36], color="black", linewidth=1.6)
    right.set(yticks=range(len(names)), yticklabels=names, xlabel=f"test {metric} of each client{unit}; bar: mean")
    right.invert_yaxis()
    right.grid(axis="x", alpha=0.25)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return files.write_figure(path, figure)


_BASELINES = ("local_only", "fedavg", "centralized")
