"""Client-rounds per second against the size of the cohort."""

from __future__ import annotations

from pathlib import Path

from pfljax import files
from pfljax.benchmark.report import Report
from pfljax.benchmark.rows import OURS


def plot(report: Report, path: str | Path) -> Path:
    """Draws the workloads `cohort_*` of a report, a line for each contender that ran them.

    Args:
      report: of a run of `cohort_*`.
      path: where the figure is written; the ending chooses the format.

    Raises:
      ImportError: if matplotlib is not installed.
      ValueError: if the report has no such workload.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'pfljax[plot]'") from error
    rows = [row for row in report.rows if row.workload.startswith("cohort_") and row.median]
    if not rows:
        raise ValueError("nothing to draw: the report has no workload cohort_*; run it")
    figure = Figure(figsize=(7, 3.5), layout="constrained", dpi=130)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for contender in dict.fromkeys(row.contender for row in rows):
        points = sorted((row.cohort, row.client_rounds_per_second) for row in rows if row.contender == contender)
        style = {"linewidth": 2.0} if contender == OURS else {"linewidth": 1.2, "linestyle": "--"}
        axes.loglog(*zip(*points, strict=True), marker="o", label=contender, **style)
    axes.set(xlabel="clients of a round", ylabel="client-rounds per second")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return files.write_figure(path, figure)
