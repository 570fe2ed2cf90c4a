"""Results: the scores of every client at every evaluation, and what they cost. Tables are derived from them."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pfljax.printing import Shown
from pfljax.results import costs, scores, statistics
from pfljax.results.clusters import Memberships, followed
from pfljax.results.columns import SHOWN, column, tabulated
from pfljax.results.costs import Cost
from pfljax.results.deployed import Models
from pfljax.results.scores import Score, Scores, Yardstick
from pfljax.results.stored import Stored, plain
from pfljax.results.tables import Table
from pfljax.types import State

if TYPE_CHECKING:
    import pandas as pd

Select = Literal["last", "best_validation", "best_test"]
"""Which evaluation is reported."""


_COLUMNS = ("method", "seed", "round", "client", "name", "model", "split", "metric", "value")
_MODELS = ("personal", "global", "unseen_personal", "unseen_global")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in ("pfljax", "jax", "jaxlib", "flax", "optax", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(Stored, Shown):
    """One run of one method.

    Args:
      method: its name.
      hyper: hyperparameters that were traced; of a schedule its name and its numbers.
      seed: of initial models, cohorts and minibatches.
      reason: why the run ended before its last round, None if it did not.
      rounds: [E] rounds done at each of the E evaluations, ascending.
      scores: `(model, split, metric)` -> [E, clients]; models are `personal`, `global`, `unseen_personal`,
        `unseen_global`; NaN where a client has no examples. The text `"model/split/metric"` is taken too.
      sizes: split -> [N + U] examples of each client, unseen ones last.
      log: what happened in every round: `ids`, `replied`, `work`, `heard`, `finite` and `reported/...`, the numbers
        that clients report, [rounds, M], `server_finite` [rounds].
      seconds: running time without compilation.
      compile_seconds: time spent compiling.
      client_steps: local steps of all clients that replied, 0 if not counted.
      bytes_up, bytes_down: traffic of the whole run.
      fingerprint: of the examples and of who holds them.
      versions: of the packages used.
      config: the configuration that made the run, if there was one.
      names: [N + U] of the clients, unseen ones last; their numbers if empty.
      groups: [N + U] that clients are known to be in, as their trait `group` has it; empty if it is not known.
      metric: what clients are compared by, as `scores.read` takes it; accuracy where it was measured, else the loss,
        else the first score, if empty.
      models: what the clients deploy, by name or number; None where the run is not at hand (see `experiment.resume`).
      ended: gives the state after the last round, see `state`; None where the run is not at hand.

    Raises:
      ValueError: if the metric was not measured, or names and clients differ in number.
    """

    method: str
    hyper: dict[str, Any]
    seed: int
    rounds: np.ndarray
    scores: Scores
    sizes: dict[str, np.ndarray]
    log: dict[str, np.ndarray]
    seconds: float
    compile_seconds: float
    client_steps: int
    bytes_up: int
    bytes_down: int
    fingerprint: str
    reason: str | None = None
    versions: dict[str, str] = field(default_factory=versions)
    config: dict[str, Any] = field(default_factory=dict)
    names: Sequence[str] = ()
    groups: Sequence[int] = ()
    metric: str = ""
    models: Models | None = field(default=None, repr=False)
    ended: Callable[[], State] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        clients = len(next(iter(self.sizes.values()), ()))
        if len(self.names or range(clients)) != clients:
            raise ValueError(f"{len(self.names)} names of {clients} clients: name each, unseen ones last")
        object.__setattr__(self, "scores", {Score.read(name): rows for name, rows in self.scores.items()})
        object.__setattr__(self, "names", [str(name) for name in self.names or range(clients)])
        object.__setattr__(self, "metric", str(self.compared(self.metric or None)))

    @property
    def state(self) -> State | None:
        """After the last round, in host memory, for `simulate(..., start=state)`; None where the run is not at hand.

        Files of a result do not hold it, checkpoints do: that of a run that is resumed is read when it is asked for.
        """
        return self.ended and self.ended()

    @property
    def measured(self) -> list[str]:
        """The metrics that there are, in the order of the task."""
        return scores.names(self.scores)

    @property
    def clusters(self) -> Memberships | None:
        """Of methods with clusters: who was in which after each round, how many moved, how near it is to `groups`."""
        clients = self._trained
        return followed(self.log, clients, np.array(self.groups)[:clients] if len(self.groups) else None)

    @property
    def lower_is_better(self) -> bool:
        """Whether less of `metric` is better."""
        return self.compared().lower_is_better

    def compared(self, metric: str | None = None) -> Yardstick:
        """What `metric` means, that of the result if None.

        Raises:
          ValueError: if it was not measured, with the nearest name.
        """
        return scores.choose(self.metric or None if metric is None else metric, self.measured)

    def __rich__(self) -> Table:
        """The clients of each model, and what the run cost."""
        sent = (self.bytes_up + self.bytes_down) / 1e6
        cost = f"{sent:,.1f} MB sent, {self.seconds + self.compile_seconds:.1f} s"
        what = self.compared()
        done = f"seed {self.seed}, round {self.rounds[-1]}" if len(self.rounds) else f"seed {self.seed}, no evaluation"
        summary = self.summary() if len(self.rounds) else {}
        rows = {model.replace("_", " "): summary[model] for model in _MODELS if summary.get(model)}
        hyper = [
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in self.hyper.items()
        ]
        title = ", ".join(filter(None, [self.method, *hyper, done, self.reason]))
        columns = [column(name, what)._replace(sign=0) for name in ("clients", *SHOWN)]
        return tabulated(title, "model", rows, columns, f"Test {what.title}; {cost}{self._clustered(summary)}")

    def _clustered(self, summary: dict[str, Any]) -> str:
        """What a table says of the clusters of a summary."""
        found = {name: value for name, value in (summary.get("clusters") or {}).items() if value is not None}
        columns = [column(name, self.compared()) for name in found]
        return "".join(f", {shown.title} {shown.spell(found[shown.name])}" for shown in columns)

    def evaluation(self, select: Select = "last", *, metric: str | None = None) -> int:
        """The index of the evaluation that is reported.

        Args:
          select: `"last"`; `"best_validation"`, by the mean over clients on validation examples; `"best_test"` looks at
            the test examples, so its numbers are too high: for comparison with publications that report it.
          metric: by which it is chosen; that of the result if None.

        Raises:
          ValueError: if there is no such rule or metric, or no client has validation examples.
        """
        if select == "last":
            return len(self.rounds) - 1
        if select not in ("best_validation", "best_test"):
            raise ValueError(f"select={select!r}: choose 'last', 'best_validation' or 'best_test'")
        split = select.removeprefix("best_")
        means = self.curve(split=split, metric=metric)
        if np.isnan(means).all():
            raise ValueError(f"select={select!r}: no client has {split} examples; ask for some when the data are dealt")
        return int(np.nanargmax(self.compared(metric).sign * means))

    def curve(self, model: str = "personal", split: str = "test", metric: str | None = None) -> np.ndarray:
        """[E] means over clients.

        Raises:
          ValueError: if that was not measured.
        """
        return np.array([statistics.mean(row) for row in self._scored(model, split, metric)])

    def until(self, target: float, model: str = "personal", split: str = "test", *, metric: str | None = None) -> Cost:
        """Rounds, bytes, local steps and seconds until the mean over clients is as good as `target`.

        By the first evaluation at which it is; infinite if there is none.

        Raises:
          ValueError: if that was not measured.
        """
        sign = self.compared(metric).sign
        reached = np.flatnonzero(sign * self.curve(model, split, metric) >= sign * target)
        if not len(reached):
            return costs.NEVER
        whole = Cost(int(self.rounds[-1]), self.bytes_up + self.bytes_down, self.client_steps, self.seconds)
        return costs.spent(self.log, self._trained, int(self.rounds[reached[0]]), whole, self.bytes_up)

    @property
    def _trained(self) -> int:
        """N, the clients that trained."""
        return next((rows.shape[1] for score, rows in self.scores.items() if not score.is_unseen), len(self.names))

    def traits(self) -> dict[str, np.ndarray]:
        """What is known of each client [N]: its training examples, and the rounds in which it was heard."""
        ids, heard = self.log["ids"], self.log.get("heard", self.log.get("replied", self.log["ids"] < self._trained))
        turns = np.bincount(ids[heard & (ids < self._trained)], minlength=self._trained)
        return {"examples": self.sizes["train"][: self._trained], "turns": turns}

    def mean_at(self, at: int, split: str = "test", *, metric: str | None = None) -> float | None:
        """The mean over clients of their own models at evaluation `at`; None where that was not measured."""
        if Score("personal", split, self.compared(metric).name) not in self.scores:
            return None
        score = float(self.curve(split=split, metric=metric)[at])
        return None if math.isnan(score) else score

    def clients(
        self, model: str = "personal", split: str = "test", *, select: Select = "last", metric: str | None = None
    ) -> np.ndarray:
        """[clients] scores at the reported evaluation.

        Raises:
          ValueError: if that was not measured.
        """
        return self._scored(model, split, metric)[self.evaluation(select, metric=metric)]

    def summary(
        self, reference: Result | None = None, *, select: Select = "last", metric: str | None = None
    ) -> dict[str, Any]:
        """Plain numbers of the run, ready for JSON (None for NaN).

        Args:
          reference: another run on the same data, usually of `local_only`; adds to each model the share of clients that
            are better off than there.
          select: which evaluation, see `evaluation`.
          metric: what clients are compared by; that of the result if None.

        Returns:
          `method`, `seed`, `hyper`, `round`, `rounds`, `metric`, times, steps, bytes, `fingerprint`, `versions`;
          `clusters` of methods with some: their number, the share that `moved` in the round and the `ari`;
          and for each of `personal`, `global`, `unseen_personal`, `unseen_global` what `statistics.summarize` says of
          test examples with the mean `loss`, or None where there is no such model. Where there are unseen clients,
          `participation_gap`: by how much those that trained are better off.

        Raises:
          ValueError: if the reference was run on other data, or the metric was not measured.
        """
        if reference is not None and reference.fingerprint != self.fingerprint:
            raise ValueError(
                f"the reference {reference.method!r} was run on data {reference.fingerprint}, {self.method!r} on "
                f"{self.fingerprint}: compare runs on the same data"
            )
        at, what = self.evaluation(select, metric=metric), self.compared(metric)
        summary: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "reason": self.reason,
            "hyper": dict(self.hyper),
            "rounds": int(self.rounds[-1]),
            "round": int(self.rounds[at]),
            "select": select,
            "metric": str(what),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "client_steps": self.client_steps,
            "client_steps_per_second": self.client_steps / self.seconds if self.seconds > 0 else float("nan"),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "fingerprint": self.fingerprint,
            "versions": self.versions,
            "clusters": self._clusters_at(int(self.rounds[at])),
        }
        for model in _MODELS:
            found = self._statistics(model, at, what, reference, select)
            summary[model] = found and {"better_off": None, **found}
        if summary["global"]:
            personal, common = (what.sign * self._scored(model, "test", metric)[at] for model in ("personal", "global"))
            summary["personal"]["better_than_global"] = statistics.better_off(personal, common)
        for model in ("personal", "global"):
            if summary[model] and (unseen := summary[f"unseen_{model}"]):
                summary[model]["participation_gap"] = what.sign * (summary[model]["mean"] - unseen["mean"])
        return plain(summary)

    def frame(self, *, metric: str | None = None) -> pd.DataFrame:
        """All scores, one row each: method, seed, round, client, name, model, split, metric, value.

        Splits that no client has are left out.

        Args:
          metric: only this one; all that there are if None.

        Raises:
          ImportError: if pandas is not installed.
          ValueError: if the metric was not measured.
        """
        pandas = import_pandas()
        parts = [pandas.DataFrame(columns=list(_COLUMNS))]
        wanted = self.measured if metric is None else [self.compared(metric).name]
        for score, values in self.scores.items():
            evaluations, clients = values.shape
            first = len(self.names) - clients if score.is_unseen else 0
            if score.metric not in wanted or not self.sizes[score.split][first : first + clients].any():
                continue
            columns = {
                "method": self.method,
                "seed": self.seed,
                "round": np.repeat(self.rounds, clients),
                "client": np.tile(np.arange(first, first + clients), evaluations),
                "name": np.tile(self.names[first : first + clients], evaluations),
                **score._asdict(),
                "value": values.ravel(),
            }
            parts.append(pandas.DataFrame(columns, columns=list(_COLUMNS)))
        return pandas.concat(parts[1:] or parts, ignore_index=True)

    def configured(self, config: dict[str, Any]) -> Result:
        """The same result with the configuration that made it, and compared by its `run.metric`."""
        return replace(self, config=config, metric=config.get("run", {}).get("metric") or self.metric)

    def _clusters_at(self, round: int) -> dict[str, float] | None:
        if (found := self.clusters) is None:
            return None
        row = round - int(self.rounds[-1]) - 1
        return {name: getattr(found, name)[row].item() for name in ("clusters", "moved", "ari")}

    def _scored(self, model: str, split: str, metric: str | None) -> np.ndarray:
        score = Score(model, split, self.compared(metric).name)
        if score not in self.scores:
            known = ", ".join(map(str, self.scores))
            raise ValueError(f"{self.method}: '{score}' was not measured; there are {known}")
        return self.scores[score]

    def _statistics(
        self, model: str, at: int, what: Yardstick, reference: Result | None, select: Select
    ) -> dict[str, float] | None:
        score = Score(model, "test", what.name)
        if score not in self.scores:
            return None
        scores, loss = self.scores[score][at], score._replace(metric="loss")
        sizes = self.sizes["test"][-len(scores) :] if score.is_unseen else self.sizes["test"][: len(scores)]
        other, same = None, score._replace(model="unseen_personal" if score.is_unseen else "personal")
        if reference is not None and same in reference.scores:
            other = reference.clients(same.model, select=select, metric=str(what))
        found = statistics.summarize(scores, sizes, other, lower_is_better=what.lower_is_better)
        if loss in self.scores:
            found["loss"] = statistics.mean(self.scores[loss][at])
        return found


def import_pandas() -> Any:
    """The package pandas, which only tables need.

    Raises:
      ImportError: with the remedy, if it is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'pfljax[results]'") from error
    return pandas
