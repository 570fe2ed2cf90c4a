"""Figures of results. Matplotlib is imported when one is drawn.

Each function draws into the axes that it is given; `save` puts two of them into a file. Methods are told apart by
colour, dash and marker together, in colours that colour-blind readers can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pfljax import files
from pfljax.results import statistics
from pfljax.results.comparison import compared, worst_first
from pfljax.results.result import Result, Select
from pfljax.results.scores import Yardstick
from pfljax.results.statistics import estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[str, Result | Sequence[Result]]
"""Name -> a result, or one for each seed."""

# Black, then the colours of Okabe and Ito without their yellow, dark ones and light ones in turn.
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_INSIDE = 8  # methods of a legend inside the axes
_LINES = 6  # of a legend beside them, for each inch
_LISTED = 40  # clients that a figure has room to name


def style(number: int) -> dict[str, Any]:
    """Colour, dash and marker of the method in place `number`: no two of 252 look the same."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _MARKERS[number % len(_MARKERS)],
    }


def curves(results: Results, axes: Axes, *, metric: str | None = None, legend: bool = True) -> None:
    """How methods learn: the mean over clients at every evaluation.

    Where a method has several seeds, the line is their mean and the band its 95 % interval by Student's t, at the
    rounds that all of them evaluated.

    Args:
      results: the methods.
      axes: of Matplotlib.
      metric: of the clients, on their test examples with the model that they deploy; that of the results if None.
      legend: inside the axes, to the right of them where methods are many.

    Raises:
      ValueError: if the metric was not measured.
    """
    from matplotlib.ticker import MaxNLocator

    what = _compared(results, metric)
    for number, (name, seeds) in enumerate(_seeds(results).items()):
        rounds, means, margins = _over_seeds(seeds, what)
        look = style(number)
        every = max(1, len(rounds) // 8)
        axes.plot(rounds, means, label=name, linewidth=1.5, markersize=4.5, markevery=(number % every, every), **look)
        if len(seeds) > 1:
            axes.fill_between(rounds, means - margins, means + margins, color=look["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="round", ylabel=f"mean test {what.title}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _tidy(axes, "both")
    if legend and len(results) <= _INSIDE:
        axes.legend(fontsize=8, frameon=False)
    elif legend:
        height = axes.get_window_extent().height / axes.figure.dpi
        columns = math.ceil(len(results) / (_LINES * height))
        beside: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "borderaxespad": 0}
        axes.legend(fontsize=7, frameon=False, ncols=columns, handlelength=3.2, **beside)


def clients(results: Results, axes: Axes, *, metric: str | None = None, select: Select = "last") -> None:
    """How the clients of each method fare: a mark for every client, of every seed, and the mean as a bar.

    Args:
      results, axes, metric: see `curves`.
      select: which evaluation, see `Result.evaluation`.

    Raises:
      ValueError: if the metric was not measured.
    """
    what, spread = _compared(results, metric), np.random.default_rng(0)
    for place, seeds in enumerate(_seeds(results).values()):
        scores = _each(seeds, what, select)
        scores = scores[~np.isnan(scores)]
        heights = place + spread.uniform(-0.24, 0.24, len(scores))
        look = style(place)
        axes.scatter(scores, heights, s=14, alpha=0.6, color=look["color"], marker=look["marker"], linewidths=0)
        axes.plot([statistics.mean(scores)] * 2, [place - 0.36, place + 0.36], color="black", linewidth=1.6)
    axes.set(yticks=range(len(results)), yticklabels=list(results), xlabel=f"test {what.title}, each client; bar: mean")
    axes.set_ylim(len(results) - 0.4, -0.6)
    _tidy(axes, "x")


def by_client(
    results: Results, axes: Axes, *, metric: str | None = None, select: Select = "last", worst: int | None = None
) -> None:
    """Client by client, those that fare worst over all methods first: a mark for each method, the mean over seeds.

    Args:
      results, axes, metric: see `curves`.
      select: which evaluation, see `Result.evaluation`.
      worst: so many clients; all if None.

    Raises:
      ValueError: if the metric was not measured.
    """
    what, seeds = _compared(results, metric), _seeds(results)
    scores = {name: _each(runs, what, select) for name, runs in seeds.items()}
    means = np.array([[statistics.mean(client) for client in each.T] for each in scores.values()])
    order = worst_first(means, what)[:worst]
    for number, (name, row) in enumerate(zip(seeds, means, strict=True)):
        look: dict[str, Any] = style(number) | {"linestyle": "none"}
        axes.plot(range(len(order)), row[order], label=name, markersize=5, alpha=0.8, **look)
    names = next(iter(seeds.values()))[0].names
    axes.set(xlabel="client", ylabel=f"test {what.title}")
    if len(order) <= _LISTED:
        axes.set_xticks(range(len(order)), [names[client] for client in order], rotation=90, fontsize=8)
    _tidy(axes, "both")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def clusters(results: Results, axes: Axes) -> None:
    """How methods find clusters: after each round the adjusted Rand index against the true groups, if they are known.

    Thin lines are the shares of clients that moved in the round. Where a method has several seeds, means over them.

    Args:
      results: the methods; those without clusters are left out.
      axes: of Matplotlib.
    """
    for number, (name, seeds) in enumerate(_seeds(results).items()):
        found = [result.clusters for result in seeds if result.clusters is not None]
        for part, width in (("ari", 1.5), ("moved", 0.6)) if found else ():
            means = np.mean([getattr(each, part) for each in found], axis=0)
            rounds = seeds[0].rounds[-1] - len(means) + np.arange(1, len(means) + 1)
            look: dict[str, Any] = style(number) | {"marker": ""}
            axes.plot(rounds, means, label=name if part == "ari" else None, linewidth=width, **look)
    axes.set(xlabel="round", ylabel="adjusted Rand index; thin: share of clients that moved", ylim=(-0.05, 1.05))
    _tidy(axes, "both")
    axes.legend(fontsize=8, frameon=False)


def save(results: Results, path: str | Path, *, metric: str | None = None, select: Select = "last") -> Path:
    """One figure of several results: on the left how they learn, on the right how their clients fare.

    Args:
      results: name -> result, or one for each seed.
      path: where the figure is written; the ending chooses the format.
      metric: what clients are compared by; that of the results if None.
      select: which evaluation is on the right, see `Result.evaluation`.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the metric was not measured.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'pfljax[plot]'") from error
    width, height = 10.5 + 2 * (len(results) > _INSIDE), max(4.2, 0.6 + 0.24 * len(results))
    figure = Figure(figsize=(width, height), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    curves(results, left, metric=metric)
    clients(results, right, metric=metric, select=select)
    return files.write_figure(path, figure)


def _seeds(results: Results) -> dict[str, Sequence[Result]]:
    return {name: [runs] if isinstance(runs, Result) else runs for name, runs in results.items()}


def _compared(results: Results, metric: str | None) -> Yardstick:
    return compared([result for runs in _seeds(results).values() for result in runs], metric)


def _each(seeds: Sequence[Result], what: Yardstick, select: Select) -> np.ndarray:
    """[seeds, clients] scores as they are written."""
    return what.scale * np.array([result.clients(select=select, metric=str(what)) for result in seeds])


def _over_seeds(seeds: Sequence[Result], what: Yardstick) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rounds that all seeds evaluated, [E]; mean and margin of the means over clients, as they are written."""
    rounds = sorted(set.intersection(*(set(result.rounds.tolist()) for result in seeds)))
    each = [result.curve(metric=str(what))[np.isin(result.rounds, rounds)] for result in seeds]
    estimates = [estimate(what.scale * value for value in values) for values in zip(*each, strict=True)]
    return np.array(rounds), np.array([e.mean for e in estimates]), np.array([e.margin for e in estimates])


def _tidy(axes: Axes, grid: Any) -> None:
    axes.grid(axis=grid, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
