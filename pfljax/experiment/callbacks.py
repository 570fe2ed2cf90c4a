"""Callbacks that are ready made: files, trackers, lines. Libraries of trackers are imported where one is made."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pfljax import files
from pfljax.engine.callbacks import About, Callback
from pfljax.engine.course import Log
from pfljax.experiment.progress import Bar
from pfljax.results import scores as scored
from pfljax.results import statistics
from pfljax.results.scores import Score, Scores

__all__ = ["About", "Callback", "Csv", "Line", "Printing", "TensorBoard", "WandB", "means"]


def means(scores: Scores) -> dict[str, float]:
    """The mean over clients of each score that there is, by `"model/split/metric"`."""
    found = {str(Score.read(name)): statistics.mean(values) for name, values in scores.items()}
    return {name: mean for name, mean in found.items() if not math.isnan(mean)}


class Csv(Callback):
    """A file with the means of every evaluation, one row each; rows are added to a file that is there.

    Columns: method, seed, round, model, split, metric, mean.

    Args:
      path: of the file.
    """

    def __init__(self, path: str | Path):
        self._path = files.named(path)

    def begin(self, about: About) -> None:
        """See `Callback`."""
        self._about = about
        if not os.path.exists(self._path):
            self._write([["method", "seed", "round", "model", "split", "metric", "mean"]])

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """See `Callback`."""
        about = self._about
        self._write([[about.method, about.seed, round, *name.split("/"), mean] for name, mean in means(scores).items()])

    def _write(self, rows: list[list[Any]]) -> None:
        files.made(self._path.parent)
        with open(self._path, "a", newline="") as file:
            csv.writer(file).writerows(rows)


class Line(Callback):
    """A line for each run, with what its clients score on test examples.

    Args:
      line: `(method, rounds) -> show(round, news)`, called when a run begins.
      metric: what is shown; accuracy or loss if None.
    """

    def __init__(self, line: Callable[[str, int], Callable[[int, str], None]], metric: str | None = None):
        self._line, self._metric = line, metric

    @classmethod
    def of(cls, bar: Bar, metric: str | None = None) -> Line:
        """Lines of a bar."""
        return cls(lambda method, rounds: bar.line(method, "round", rounds), metric)

    def begin(self, about: About) -> None:
        """See `Callback`."""
        self._show = self._line(about.method, about.rounds)

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """See `Callback`."""
        compared = scored.choose(self._metric, scored.names(scores))
        self._show(round, compared.say(statistics.mean(scores[Score("personal", "test", compared.name)])))


class Printing(Line):
    """A printed line for each evaluation, such as `ditto  round 5/50  accuracy 93.4 %`.

    Args:
      metric: what is shown; accuracy or loss if None.
    """

    def __init__(self, metric: str | None = None):
        def line(method: str, rounds: int) -> Callable[[int, str], None]:
            return lambda round, news: print("  ".join(filter(None, [method, f"round {round}/{rounds}", news])))

        super().__init__(line, metric)


class TensorBoard(Callback):
    """Means of every evaluation for TensorBoard, each run in a folder `METHOD-SEED` of its own.

    Args:
      folder: `tensorboard --logdir=FOLDER` shows it.

    Raises:
      ImportError: if tensorboardX is not installed.
    """

    def __init__(self, folder: str | Path):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("callbacks.TensorBoard needs tensorboardX: pip install tensorboardX") from error
        self._writer, self._folder = SummaryWriter, files.named(folder)

    def begin(self, about: About) -> None:
        """See `Callback`."""
        self._run = self._writer(str(self._folder / f"{about.method or 'run'}-{about.seed}"))

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """See `Callback`."""
        for name, mean in means(scores).items():
            self._run.add_scalar(name, mean, round)

    def end(self, result: Any) -> None:
        """See `Callback`."""
        self._run.close()


class WandB(Callback):
    """Means of every evaluation for Weights & Biases, offline unless `mode` says otherwise.

    Args:
      project: its name there.
      **options: of `wandb.init`, such as `dir`, `group`, `mode="online"`.

    Raises:
      ImportError: if wandb is not installed.
    """

    def __init__(self, project: str, **options: Any):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError("callbacks.WandB needs wandb: pip install wandb") from error
        self._wandb, self._options = wandb, {"project": project, "mode": "offline", **options}

    def begin(self, about: About) -> None:
        """See `Callback`."""
        config = {"method": about.method, "seed": about.seed, "rounds": about.rounds, **about.hyper}
        name = f"{about.method or 'run'} seed {about.seed}"
        self._run = self._wandb.init(**{"name": name, "config": config, **self._options})

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """See `Callback`."""
        self._run.log(means(scores), step=round)

    def end(self, result: Any) -> None:
        """See `Callback`."""
        self._run.finish()
