"""Metrics: which way they are better, how they are named and written."""

from __future__ import annotations

import math

import pytest

from pfljax.results import scores
from pfljax.results.scores import Score, Yardstick


@pytest.mark.parametrize(
    ("text", "name", "lower"),
    [
        ("accuracy", "accuracy", False),
        ("f1", "f1", False),
        ("loss", "loss", True),
        ("mean_absolute_error", "mean_absolute_error", True),
        ("RMSE", "RMSE", True),
        ("cross_entropy", "cross_entropy", True),
        ("negative_log_likelihood", "negative_log_likelihood", True),
        ("neg_mean_squared_error", "neg_mean_squared_error", False),
        ("-latency", "latency", True),
        ("+loss", "loss", False),
        ("lossless", "lossless", False),
    ],
)
def test_directions(text: str, name: str, lower: bool) -> None:
    """By the words of a name, unless a sign says it; what is written down is read back as the same."""
    metric = scores.read(text)
    assert metric == Yardstick(name, lower)
    assert scores.read(str(metric)) == metric


@pytest.mark.parametrize(
    ("measured", "chosen"),
    [(["f1", "loss", "accuracy"], "accuracy"), (["f1", "loss"], "loss"), (["f1", "auc"], "f1"), ([], "accuracy")],
)
def test_what_is_compared_unasked(measured: list[str], chosen: str) -> None:
    assert scores.choose(None, measured).name == chosen


def test_what_is_asked_for_was_measured() -> None:
    assert scores.choose("-f1", ["f1", "loss"]) == Yardstick("f1", True)
    with pytest.raises(ValueError, match="did you mean 'f1'"):
        scores.choose("-f", ["f1", "loss"])
    with pytest.raises(ValueError, match="metric=3: it must be text"):
        scores.choose(3, ["f1"])  # pyright: ignore[reportArgumentType]


def test_spelling() -> None:
    """Accuracies in percent, other scores as they are, large ones whole."""
    assert scores.read("balanced_accuracy").spell(0.9341) == "93.4"
    assert scores.read("balanced_accuracy").say(0.9341) == "balanced_accuracy 93.4 %"
    assert scores.read("f1").say(0.9341) == "f1 0.934"
    assert [scores.read("loss").spell(value) for value in (158109.3, None, math.nan)] == ["158,109", "-", "-"]


def test_names_hold_slashes() -> None:
    texts = ["personal/test/f1/macro", "global/test/f1/macro", "personal/test/loss"]
    read = [Score.read(text) for text in texts]
    assert scores.names(read) == ["f1/macro", "loss"]
    assert list(map(str, read)) == texts
    assert read[1] == ("global", "test", "f1/macro") == Score.read(("global", "test", "f1/macro"))


def test_scores_of_unseen_clients() -> None:
    score = Score("personal", "test", "loss").of_unseen()
    assert str(score) == "unseen_personal/test/loss"
    assert score.is_unseen
    assert not Score("personal", "test", "loss").is_unseen
