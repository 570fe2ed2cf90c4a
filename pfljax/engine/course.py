"""The course of a run: what it has reported so far, and whether it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pfljax.engine.checkpoint import Record
from pfljax.results.result import Result
from pfljax.results.scores import Scores

Log = dict[str, np.ndarray]
"""`ids`, `replied`, `work`, `heard`, `finite`: [rounds, M]; `server_finite`: [rounds]."""


class Diverged(RuntimeError):
    """A model became NaN or infinite.

    Attributes:
      result: the evaluations before, marked; None if there was none.
    """

    result: Result | None = None


class Summing(Protocol):
    """Makes a result of what was recorded."""

    def __call__(self, record: Record, *, reason: str | None = None, steps: bool = True) -> Result: ...


@dataclass
class Course:
    """One run, from evaluation to evaluation.

    Args:
      rounds: how many in all.
      eval_every: rounds between two evaluations.
      patience: evaluations in a row that are no better on validation examples and end the run; None: none do.
      result: makes a result of what was recorded.
      record: what was reported before.
      first: rounds that were done before all of this.

    Raises:
      ValueError: for counts below 1.
    """

    rounds: int
    eval_every: int
    patience: int | None
    result: Summing
    record: Record = field(default_factory=dict)
    first: int = 0
    diverged: Diverged | None = None

    @property
    def done(self) -> int:
        """Rounds that were evaluated, or done before."""
        return int(self.record["rounds"][-1]) if self.record else self.first

    @property
    def fresh(self) -> int:
        """Rounds until the next evaluation."""
        return min(self.eval_every - self.done % self.eval_every, self.rounds - self.done)

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.diverged is not None or self.done >= self.rounds or self.stalled

    @property
    def stalled(self) -> bool:
        """Whether patience is at its end."""
        if self.patience is None or not self.record:
            return False
        result = self.result(self.record, steps=False)
        return len(result.rounds) - 1 - result.evaluation("best_validation") >= self.patience

    def report(self, log: Log, scores: Scores, seconds: float, compile_seconds: float) -> None:
        """Adds one more evaluation and the rounds before it, or marks the run as diverged.

        Args:
          log: of the fresh rounds.
          scores: after them.
          seconds: that they took.
          compile_seconds: of the run so far.
        """
        if reason := _divergence(log, self.done):
            self.diverged = Diverged(reason)
            self.diverged.result = self.result(self.record, reason=reason) if self.record else None
            return
        fresh = {"rounds": np.asarray([self.done + len(log["ids"])])}
        fresh |= {f"score:{score}": values[None] for score, values in scores.items()}
        fresh |= {f"log:{name}": rows for name, rows in log.items()}
        before = self.record
        self.record = {
            name: np.concatenate([before[name], rows]) if name in before else rows for name, rows in fresh.items()
        }
        self.record["seconds"] = np.asarray(seconds + float(before.get("seconds", 0)))
        self.record["compile_seconds"] = np.asarray(compile_seconds)

    def end(self) -> Result:
        """The result of all rounds.

        Raises:
          Diverged: if a model became NaN or infinite.
        """
        if self.diverged is not None:
            raise self.diverged
        reason = f"no better on validation examples for {self.patience} evaluations" if self.stalled else None
        return self.result(self.record, reason=reason)


def follow(
    courses: Sequence[Course],
    step: Callable[[int], Iterable[tuple[Log, Scores]]],
    compiled: Callable[[], float],
    reported: Callable[[], None] = lambda: None,
) -> None:
    """Rounds, check, evaluation, record, again and again until every course is over.

    Args:
      courses: of runs that go on together; one that is over is not reported any more.
      step: so many rounds of all runs and an evaluation; what it gave, for each run.
      compiled: seconds spent compiling so far.
      reported: called after each report.
    """
    while going := [course for course in courses if not course.over]:
        start, before = time.perf_counter(), compiled()
        given = list(step(going[0].fresh))
        seconds = (time.perf_counter() - start - (compiled() - before)) / len(courses)
        for course, (log, scores) in zip(courses, given, strict=True):
            if not course.over:
                course.report(log, scores, seconds, compiled())
        reported()


def _divergence(log: Log, done: int) -> str | None:
    """What is wrong with the first round of `log`, which begins after `done`, that left a model not finite."""
    bad = ~(log["finite"].all(axis=1) & log["server_finite"])
    if not bad.any():
        return None
    number = int(np.argmax(bad))
    clients = log["ids"][number][~log["finite"][number]].tolist()
    who = f"clients {clients}" if clients else "the server"
    return f"round {done + number + 1}: the model of {who} is no longer finite; try a smaller lr"
