"""Figures: what is drawn is what was measured, and methods can be told apart."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from pfljax.results import plots
from tests.results.test_results import own, result


def test_styles_do_not_repeat() -> None:
    """Sixty methods look different, and neighbours differ in colour, dash and marker."""
    looks = [plots.style(number) for number in range(60)]
    assert len({tuple(look.values()) for look in looks}) == 60
    for one, other in itertools.pairwise(looks):
        assert all(one[part] != other[part] for part in ("color", "linestyle", "marker"))


def test_curves_are_means_in_percent_at_whole_rounds() -> None:
    """[0.1, 0.2, 0.6], [0.9, 0.5, 0.4], [0.7, 0.5, -] have the means 30, 60, 60 %."""
    axes = Figure().subplots()
    plots.curves({"ditto": result(rounds=np.array([1, 2, 3]))}, axes)
    (line,) = axes.lines
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[1, 30], [2, 60], [3, 60]])
    assert all(tick == round(tick) for tick in axes.get_xticks())
    assert axes.get_ylabel() == "mean test accuracy, %"


def test_several_seeds_have_a_band() -> None:
    """Mean and Student's interval by SciPy, at the rounds that all seeds evaluated."""
    shifts, base = [0.0, 0.1, 0.15], np.array([[0.2, 0.4], [0.5, 0.7]])
    sizes = {split: np.ones(2, int) for split in ("train", "test")}
    runs = [
        result(scores={"personal/test/f1": base + s}, rounds=np.array([1, 2]), sizes=sizes, names=[]) for s in shifts
    ]
    runs.append(result(scores={"personal/test/f1": base[:1] + 0.2}, rounds=np.array([2]), sizes=sizes))
    axes = Figure().subplots()
    plots.curves({"ditto": runs}, axes)
    means = [0.6, 0.7, 0.75, 0.5]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xydata()), [[2, np.mean(means)]])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(means), scale=stats.sem(means))
    edges = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (edges.min(), edges.max()) == pytest.approx((low, high))


def test_clients_are_marks_of_any_metric() -> None:
    """A mark for every client that has a score, the mean as a bar."""
    axes = Figure().subplots()
    plots.clients({"a": own(), "b": [own(), own()]}, axes, metric="-bits")
    one, two = axes.collections
    assert sorted(np.asarray(one.get_offsets())[:, 0]) == [0, 8]
    assert len(np.asarray(two.get_offsets())) == 4
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata()), [4, 4])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_client_by_client_has_names() -> None:
    """The worst first: 50, then 70 %; whoever has no score comes last."""
    axes = Figure().subplots()
    plots.by_client({"ditto": result(names=["North", "South", "West", "new"])}, axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["South", "North", "West"]
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata()), [50, 70, np.nan])


@pytest.mark.parametrize("count", [2, 60])
def test_files(count: int, tmp_path: Path) -> None:
    """The legend of many methods lies beside the axes and names all of them."""
    methods = {f"method {number}": result() for number in range(count)}
    assert plots.save(methods, tmp_path / "new" / "figure.png").stat().st_size > 10_000
    axes = Figure(figsize=(6, 4)).subplots()
    plots.curves(methods, axes)
    legend = axes.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == count
    assert (legend.get_bbox_to_anchor().x0 > axes.get_window_extent().x1) == (count == 60)
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        plots.save(methods, tmp_path / "figure.png", metric="acuracy")
