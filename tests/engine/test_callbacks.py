"""Callbacks hear what the result says, and change nothing."""

from __future__ import annotations

import csv
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import quadratics
from pfljax.engine.course import Diverged
from pfljax.experiment.callbacks import About, Callback

TASK, DATA = quadratics.problem(w=[2.0, 8.0])
DATA = dataclasses.replace(DATA, test=DATA.train)  # their loss on what they train on
RUN: dict[str, Any] = {"rounds": 5, "eval_every": 2, "method": "fedavg", "seed": 3}


def simulated(*callbacks: Any, lr: float = 0.5, **options: Any) -> pfl.Result:
    algorithm = pfl.algorithms.fedavg(TASK, pfl.descent(optax.sgd(lr), pfl.full_batch(1, 1)))
    return pfl.simulate(TASK, algorithm, DATA, callbacks=callbacks, **RUN | options)


class Notes(Callback):
    """Writes down what it hears, and tries to change it."""

    def __init__(self) -> None:
        self.abouts: list[About] = []
        self.heard: list[tuple[int, dict, dict]] = []
        self.ends: list[Any] = []
        self.refused = 0

    def begin(self, about: About) -> None:
        self.abouts.append(about)

    def evaluated(self, round: int, scores: Any, log: Any) -> None:
        self.heard.append((round, scores, log))
        self._spoil([*scores.values(), *log.values()])

    def end(self, result: Any) -> None:
        self.ends.append(result)
        if result is not None:
            self._spoil([result.rounds, *result.scores.values(), *result.log.values()])

    def _spoil(self, arrays: Sequence[np.ndarray]) -> None:
        for array in arrays:
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
            array.flags.writeable = True  # on purpose, and in vain
            array[...] = 0


def test_they_hear_of_every_evaluation_and_change_nothing() -> None:
    notes, rounds = Notes(), []
    silent = simulated()
    result = simulated(notes, lambda round, scores, log: rounds.append((round, len(log["ids"]), scores)))
    [about], [end] = notes.abouts, notes.ends
    assert (about.method, about.seed, about.rounds, about.names) == ("fedavg", 3, 5, DATA.names)
    assert [(round, fresh) for round, fresh, _ in rounds] == [(2, 2), (4, 2), (5, 1)]
    assert [round for round, _, _ in notes.heard] == result.rounds.tolist()
    for at, (_, _, scores) in enumerate(rounds):
        assert {str(name) for name in scores} == {str(name) for name in result.scores}
        for name, values in scores.items():
            np.testing.assert_array_equal(values, result.scores[name][at])
    assert end.models.keys() == result.models.keys() if result.models else False
    for name, values in silent.scores.items():
        np.testing.assert_array_equal(values, result.scores[name])
    for name, values in silent.log.items():
        np.testing.assert_array_equal(values, result.log[name])


def test_one_that_fails_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def fragile(round: int, scores: Any, log: Any) -> None:
        calls.append(round)
        raise OSError("the disk\nis full")

    notes = Notes()
    with caplog.at_level(logging.WARNING):
        result = simulated(fragile, notes)
    assert [record.message for record in caplog.records] == [
        "the callback fragile failed (OSError: the disk is full): the run goes on without it"
    ]
    assert (calls, [round for round, _, _ in notes.heard]) == ([2], [2, 4, 5])
    np.testing.assert_array_equal(result.curve(metric="loss"), simulated().curve(metric="loss"))


def test_a_run_that_diverges_is_over_too() -> None:
    notes = Notes()
    with pytest.raises(Diverged) as caught:
        simulated(notes, lr=1e30, rounds=60)
    [end] = notes.ends
    assert (end is None) == (caught.value.result is None)
    assert all(np.isfinite(values).all() for _, scores, _ in notes.heard for values in scores.values())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([pfl.callbacks.Csv], r"callbacks is the class Csv: it must be a callback, such as"),
        (["csv"], r"callbacks='csv': it must be a callback, .* or a function"),
        (pfl.callbacks.Printing(), r"callbacks is a Printing: it must be a list"),
    ],
)
def test_what_is_no_callback(given: Any, message: str) -> None:
    algorithm = pfl.algorithms.fedavg(TASK, pfl.descent(optax.sgd(0.5), pfl.full_batch(1, 1)))
    with pytest.raises(ValueError, match=message):
        pfl.simulate(TASK, algorithm, DATA, callbacks=given, **RUN)


def test_a_file_of_two_runs(tmp_path: Path) -> None:
    path = tmp_path / "new" / "means.csv"
    algorithm = pfl.algorithms.fedavg(TASK, pfl.descent(optax.sgd(0.5), pfl.full_batch(1, 1)))
    both = pfl.compare(
        TASK, {"a": algorithm, "b": algorithm}, DATA, rounds=3, eval_every=2, callbacks=[pfl.callbacks.Csv(path)]
    )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = [(row["method"], int(row["round"]), float(row["mean"])) for row in rows if row["metric"] == "loss"
             and (row["model"], row["split"]) == ("personal", "test")]  # fmt: skip
    wanted = [(name, int(n), mean) for name, run in both.items()
              for n, mean in zip(run.rounds, run.curve(metric="loss"), strict=True)]  # fmt: skip
    assert found == wanted


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    result = simulated(pfl.callbacks.Printing("loss"))
    said = [f"fedavg  round {n}/5  loss {mean:.3f}"
            for n, mean in zip(result.rounds, result.curve(metric="loss"), strict=True)]  # fmt: skip
    assert capsys.readouterr().out.splitlines() == said


class Tracker:
    """Stands for a tracker's library: what it was asked to do."""

    def __init__(self, **options: Any):
        self.options, self.logged, self.over = options, {}, False

    def add_scalar(self, name: str, mean: float, round: int) -> None:
        self.logged[round, name] = mean

    def log(self, means: dict[str, float], step: int) -> None:
        self.logged |= {(step, name): mean for name, mean in means.items()}

    def close(self) -> None:
        self.over = True

    finish = close


def test_trackers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[Tracker] = []

    def track(**options: Any) -> Tracker:
        made.append(Tracker(**options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=lambda logdir: track(logdir=logdir)))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=track))
    result = simulated(pfl.callbacks.TensorBoard(tmp_path), pfl.callbacks.WandB("study", group="mine"))
    means = {(int(n), str(name)): float(values[at].mean()) for name, values in result.scores.items()
             for at, n in enumerate(result.rounds) if name.split == "test"}  # fmt: skip
    for tracker in made:
        assert tracker.over
        assert tracker.logged == pytest.approx(means)
    assert made[0].options == {"logdir": str(tmp_path / "fedavg-3")}
    wanted = {"project": "study", "mode": "offline", "group": "mine", "name": "fedavg seed 3"}
    assert wanted.items() <= made[1].options.items()
    assert made[1].options["config"] == {"method": "fedavg", "seed": 3, "rounds": 5}


@pytest.mark.parametrize(("kind", "library"), [("TensorBoard", "tensorboardX"), ("WandB", "wandb")])
def test_a_tracker_that_is_not_installed(kind: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said before anything runs."""
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"callbacks.{kind} needs {library}: pip install {library}"):
        getattr(pfl.callbacks, kind)("x")
