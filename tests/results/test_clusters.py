"""Clusters of a result: who was where, who moved, and how near that is to the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score

import pfljax as pfl
from pfljax import quadratics
from pfljax.engine import simulate
from pfljax.results import plots
from pfljax.results.clusters import adjusted_rand
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from tests.results.test_results import result

LOG = {
    "ids": np.array([[0, 1], [1, 3], [0, 2], [0, 1], [1, 2]]),  # 3 is no client
    "replied": np.array([[1, 1], [1, 0], [1, 1], [1, 1], [0, 1]], bool),
    "server_finite": np.ones(5, bool),
    "reported/cluster": np.array([[0, 0], [1, 9], [0, -1], [1, 1], [0, 1]]),
}
ASSIGNED = [[0, 0, -1], [0, 1, -1], [0, 1, -1], [1, 1, -1], [1, 1, 1]]
MOVED = [np.nan, 1, 0, 0.5, np.nan]


def clustered(**changes: Any) -> Result:
    return result(**{"log": LOG, "groups": [0, 1, 1, 0]} | changes)


def test_the_adjusted_rand_index_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 9, 40):
        for _ in range(10):
            one, other = draw.integers(0, 4, size), draw.integers(0, 3, size)
            np.testing.assert_allclose(adjusted_rand(one, other), adjusted_rand_score(one, other), atol=1e-12)
    assert np.isnan(adjusted_rand(np.array([]), np.array([])))


def test_who_was_where_and_who_moved() -> None:
    """Those that did not reply, and slots without a client, tell nothing; who was in no cluster did not move."""
    found = clustered().clusters
    assert found is not None
    np.testing.assert_array_equal(found.assigned, ASSIGNED)
    np.testing.assert_array_equal(found.clusters, [1, 2, 2, 1, 1])
    np.testing.assert_array_equal(found.moved, MOVED)
    truth = np.array([0, 1, 1])
    expected = [adjusted_rand_score(truth[np.array(row) >= 0], [k for k in row if k >= 0]) for row in ASSIGNED]
    np.testing.assert_allclose(found.ari, expected)
    unknown = clustered(groups=()).clusters
    assert unknown is not None
    assert np.isnan(unknown.ari).all()
    assert result().clusters is None


def test_summaries_and_tables_have_them(tmp_path: Path) -> None:
    """Of the reported evaluation: after round 4 one cluster, half moved, an index of 0."""
    found = clustered()
    summary = found.summary(select="best_test")
    assert summary["round"] == 4
    assert summary["clusters"] == {"clusters": 1, "moved": 0.5, "ari": 0.0}
    assert found.summary()["clusters"] == {"clusters": 1, "moved": None, "ari": 0.0}
    assert "clusters 1, ARI 0" in " ".join(str(found).split())
    loaded = Result.load(found.save(tmp_path))
    assert loaded.groups == [0, 1, 1, 0]
    assert loaded.summary() == found.summary()
    both = Comparison({"ifca": found, "ditto": result()})
    assert both.summary()["ditto"]["clusters"] is None
    table = both.csv(["mean", "clusters", "ari"]).splitlines()
    assert table[0].endswith("clusters,ARI")
    assert table[1].split(",")[2:] == ["1", "0.000"]


def test_a_figure_of_them() -> None:
    axes = Figure().subplots()
    plots.clusters({"ifca": [clustered(), clustered()], "ditto": result()}, axes)
    index, moved = (np.asarray(line.get_xydata()) for line in axes.lines)
    np.testing.assert_array_equal(index[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_allclose(index[:, 1], clustered().clusters.ari)  # pyright: ignore[reportOptionalMemberAccess]
    np.testing.assert_array_equal(moved[:, 1], MOVED)


@pytest.mark.parametrize("build", [pfl.algorithms.hypcluster, pfl.algorithms.fl_hc])
def test_a_run_reports_them(build: Any) -> None:
    """Parabolas of two kinds far apart: at first all clients are in one cluster, in the end in the true groups."""
    task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    step = pfl.descent(optax.sgd(0.5), pfl.full_batch(1, 1))
    held = data.with_traits({"group": [5, 5, 2, 2]})
    run = simulate(task, build(task, step), held, rounds=8, eval_every=8)
    assert run.groups == [5, 5, 2, 2]
    assert run.clusters is not None
    assert (run.clusters.ari[0], run.clusters.ari[-1]) == (0, 1)
    assert run.clusters.clusters.tolist()[-1] == 2
    assert np.nanmax(run.clusters.moved) > 0 == run.clusters.moved[-1]
