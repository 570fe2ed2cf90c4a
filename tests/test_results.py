"""Results: what is selected, summarised, tabulated, written and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from pfljax.results import Comparison, Result

ACCURACY = np.array([[0.1, 0.2, 0.6], [0.9, 0.5, 0.4], [0.7, 0.5, np.nan]])


def result(**changes: Any) -> Result:
    """Three clients and one unseen, three evaluations."""
    scores = {
        "personal/test/accuracy": ACCURACY,
        "personal/test/loss": 1 - ACCURACY,
        "personal/validation/accuracy": np.array([[0.9, 0.9, 0.9], [0.2, 0.1, 0.3], [0.5, 0.5, 0.5]]),
        "global/test/accuracy": np.full((3, 3), 0.5),
        "unseen_personal/test/accuracy": np.array([[0.2], [0.4], [0.3]]),
    }
    values: dict[str, Any] = {
        "method": "ditto",
        "hyper": {"lam": 0.5},
        "seed": 3,
        "rounds": np.array([2, 4, 5]),
        "scores": scores,
        "sizes": {
            "train": np.array([9, 6, 3, 5]),
            "validation": np.array([1, 1, 1, 0]),
            "test": np.array([1, 3, 0, 4]),
        },
        "log": {"ids": np.arange(10).reshape(5, 2), "server_finite": np.ones(5, bool)},
        "seconds": 2.0,
        "compile_seconds": 1.0,
        "client_steps": 100,
        "bytes_up": 1_500_000,
        "bytes_down": 500_000,
        "fingerprint": "abc",
        "config": {"run": {"rounds": 5}},
    }
    return Result(**(values | changes))


def test_summary() -> None:
    """The last evaluation, each number worked out by hand; no NaN reaches the JSON."""
    summary = result().summary()
    assert summary["round"] == summary["rounds"] == 5
    assert summary["client_steps_per_second"] == 50
    personal = summary["personal"]
    assert personal["clients"] == 2
    assert personal["mean"] == pytest.approx(0.6)
    assert personal["weighted_mean"] == pytest.approx((0.7 + 3 * 0.5) / 4)
    assert personal["worst"] == pytest.approx(0.5)
    assert personal["loss"] == pytest.approx(0.4)
    assert personal["better_than_global"] == 0.5
    assert summary["global"]["mean"] == 0.5
    assert summary["unseen_personal"]["weighted_mean"] == pytest.approx(0.3)
    assert summary["unseen_global"] is None
    json.dumps(summary, allow_nan=False)


def test_reference() -> None:
    """The share of clients that are better off than in another run on the same data."""
    alone = result(scores={"personal/test/accuracy": np.full((3, 3), 0.6)}, method="local_only")
    assert "unseen_personal" not in "".join(alone.scores)
    reference = result(scores=result().scores | alone.scores)
    summary = result().summary(reference)
    assert summary["personal"]["better_off"] == 0.5
    assert summary["personal"]["tied"] == 0
    with pytest.raises(ValueError, match="same data"):
        result().summary(result(fingerprint="other"))


@pytest.mark.parametrize(("select", "at"), [("last", 2), ("best_validation", 0), ("best_test", 1)])
def test_selection(select: Any, at: int) -> None:
    """Means over clients with a score: test 0.3, 0.6, 0.6 (the first wins a tie), validation 0.9, 0.2, 0.5."""
    assert result().evaluation(select) == at


def test_losses_are_selected_downwards() -> None:
    """Without accuracies the lowest loss is best."""
    regression = result(scores={"personal/test/loss": np.array([[3.0], [1.0], [2.0]])})
    assert regression.metric == "loss"
    assert regression.evaluation("best_test") == 1


def test_selection_without_validation() -> None:
    """Says what is missing."""
    empty = result(scores=result().scores | {"personal/validation/accuracy": np.full((3, 3), np.nan)})
    with pytest.raises(ValueError, match="no client has validation examples"):
        empty.evaluation("best_validation")
    with pytest.raises(ValueError, match="choose 'last'"):
        empty.evaluation("first")  # pyright: ignore[reportArgumentType]


def test_frame() -> None:
    """One row for each score, unseen clients numbered last."""
    frame = result().frame()
    assert list(frame) == ["method", "seed", "round", "client", "name", "model", "split", "metric", "value"]
    assert len(frame) == sum(scores.size for scores in result().scores.values())
    row = frame.query("round == 4 and client == 1 and model == 'personal' and split == 'test' and metric == 'accuracy'")
    assert row["value"].item() == 0.5
    assert set(frame.query("model == 'unseen_personal'")["client"]) == {3}


def test_round_trip(tmp_path: Path) -> None:
    """What is written is read back, with names on the axes."""
    result().save(tmp_path / "run")
    read = Result.load(tmp_path / "run")
    for name in (
        "method",
        "hyper",
        "seed",
        "seconds",
        "bytes_up",
        "bytes_down",
        "client_steps",
        "fingerprint",
        "config",
    ):
        assert getattr(read, name) == getattr(result(), name)
    for name, scores in result().scores.items():
        np.testing.assert_array_equal(read.scores[name], scores)
    np.testing.assert_array_equal(read.log["ids"], result().log["ids"])
    assert read.summary() == result().summary()
    axes = json.loads(str(np.load(tmp_path / "run" / "clients.npz")["axes"]))
    assert axes["scores/personal/test/accuracy"] == ["evaluation", "client"]
    assert axes["log/server_finite"] == ["round"]


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    """Unless that is asked for."""
    result().save(tmp_path)
    with pytest.raises(FileExistsError, match="another run"):
        result().save(tmp_path)
    result(seed=4).save(tmp_path, replace=True)
    assert Result.load(tmp_path).seed == 4


def test_damaged_results(tmp_path: Path) -> None:
    """One clear sentence."""
    with pytest.raises(FileNotFoundError, match="holds no result"):
        Result.load(tmp_path)
    result().save(tmp_path)
    (tmp_path / "clients.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="damaged"):
        Result.load(tmp_path)


def test_comparison(tmp_path: Path) -> None:
    """A table with a row for each method, in order; saved and read back."""
    other = result(scores=result().scores | {"personal/test/accuracy": np.full((3, 3), 0.6)})
    comparison = Comparison({"local_only": other, "ditto": result()})
    console = Console(width=120, record=True)
    console.print(comparison.table())
    rows = {line.split()[0]: line.split()[1:] for line in console.export_text().splitlines() if line.split()}
    assert rows["ditto"] == ["60.0", "10.0", "50.0", "50.0", "50%", "2.0", "3.0"]
    assert rows["local_only"][4] == "-"
    comparison.save(tmp_path / "both")
    assert list(Comparison.load(tmp_path / "both")) == ["local_only", "ditto"]
    assert len(comparison.frame()) == 2 * len(result().frame())
    assert set(comparison.frame()["method"]) == {"local_only", "ditto"}


def test_comparison_needs_one_federation() -> None:
    """Numbers on different data are not put into one table."""
    with pytest.raises(ValueError, match="different data"):
        Comparison({"a": result(), "b": result(fingerprint="other")})
    with pytest.raises(ValueError, match="no results"):
        Comparison({})
