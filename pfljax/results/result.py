"""Results: the scores of every client at every evaluation, and what they cost. Tables are derived from them."""

from __future__ import annotations

import io
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from rich.text import Text

from pfljax import checks, files
from pfljax.printing import Shown
from pfljax.results import scores, statistics
from pfljax.results.deployed import Models
from pfljax.results.scores import Metric
from pfljax.results.tables import Table, bold

if TYPE_CHECKING:
    import pandas as pd

Select = Literal["last", "best_validation", "best_test"]
"""Which evaluation is reported."""

_REMEDY = "pfljax resume finishes a run that was interrupted, else run it again"

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
class Result(Shown):
    """One run of one method.

    Args:
      method: its name.
      hyper: hyperparameters that were traced; of a schedule its name and its numbers.
      seed: of initial models, cohorts and minibatches.
      reason: why the run ended before its last round, None if it did not.
      rounds: [E] rounds done at each of the E evaluations, ascending.
      scores: `"{model}/{split}/{metric}"` -> [E, clients]; models are `personal`, `global`, `unseen_personal`,
        `unseen_global`; NaN where a client has no examples.
      sizes: split -> [N + U] examples of each client, unseen ones last.
      log: what happened in every round: `ids`, `replied`, `work`, `heard`, `finite` [rounds, M], `server_finite`
        [rounds].
      seconds: running time without compilation.
      compile_seconds: time spent compiling.
      client_steps: local steps of all clients that replied, 0 if not counted.
      bytes_up, bytes_down: traffic of the whole run.
      fingerprint: of the examples and of who holds them.
      versions: of the packages used.
      config: the configuration that made the run, if there was one.
      names: [N + U] of the clients, unseen ones last; their numbers if empty.
      metric: what clients are compared by, as `scores.read` takes it; accuracy where it was measured, else the loss,
        else the first score, if empty.
      models: what the clients deploy, by name or number; None where the run is not at hand (see `experiment.resume`).

    Raises:
      ValueError: if the metric was not measured, or names and clients differ in number.
    """

    method: str
    hyper: dict[str, Any]
    seed: int
    rounds: np.ndarray
    scores: dict[str, np.ndarray]
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
    metric: str = ""
    models: Models | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        clients = len(next(iter(self.sizes.values()), ()))
        if len(self.names or range(clients)) != clients:
            raise ValueError(f"{len(self.names)} names of {clients} clients: name each, unseen ones last")
        object.__setattr__(self, "names", [str(name) for name in self.names or range(clients)])
        object.__setattr__(self, "metric", str(self.compared(self.metric or None)))

    @property
    def measured(self) -> list[str]:
        """The metrics that there are, in the order of the task."""
        return scores.names(self.scores)

    @property
    def lower_is_better(self) -> bool:
        """Whether less of `metric` is better."""
        return self.compared().lower_is_better

    def compared(self, metric: str | None = None) -> Metric:
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
        columns = [_column(name, what)._replace(sign=0) for name in ("clients", *_SHOWN)]
        return _tabulated(title, "model", rows, columns, f"Test {what.title}; {cost}")

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

    def mean_at(self, at: int, split: str = "test", *, metric: str | None = None) -> float | None:
        """The mean over clients of their own models at evaluation `at`; None where that was not measured."""
        if f"personal/{split}/{self.compared(metric).name}" not in self.scores:
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
          `method`, `seed`, `hyper`, `round`, `rounds`, `metric`, times, steps, bytes, `fingerprint`, `versions`, and
          for each of `personal`, `global`, `unseen_personal`, `unseen_global` what `statistics.summarize` says of
          test examples with the mean `loss`, or None where there is no such model.

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
        }
        for model in _MODELS:
            found = self._statistics(model, at, what, reference, select)
            summary[model] = found and {"better_off": None, **found}
        if summary["global"]:
            personal, common = (what.sign * self._scored(model, "test", metric)[at] for model in ("personal", "global"))
            summary["personal"]["better_than_global"] = statistics.better_off(personal, common)
        return _plain(summary)

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
        for name, values in self.scores.items():
            model, split, metric = name.split("/", 2)
            evaluations, clients = values.shape
            first = len(self.names) - clients if model.startswith("unseen_") else 0
            if metric not in wanted or not self.sizes[split][first : first + clients].any():
                continue
            columns = {
                "method": self.method,
                "seed": self.seed,
                "round": np.repeat(self.rounds, clients),
                "client": np.tile(np.arange(first, first + clients), evaluations),
                "name": np.tile(self.names[first : first + clients], evaluations),
                "model": model,
                "split": split,
                "metric": metric,
                "value": values.ravel(),
            }
            parts.append(pandas.DataFrame(columns, columns=list(_COLUMNS)))
        return pandas.concat(parts[1:] or parts, ignore_index=True)

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes `clients.npz` (all arrays, the axes of each under `axes`), `config.json` and `summary.json`.

        The summary is written last, with digests of the others: without it there is no result.

        Args:
          folder: made if missing.
          replace: write over another result.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
          PermissionError, OSError: if a file cannot be written.
        """
        folder = files.named(folder)
        if not replace:
            vacant(folder)
        files.write(folder / "clients.npz", self.arrays())
        files.write_json(folder / "config.json", _plain(self.config))
        files.write_json(folder / "summary.json", self._sealed(self.summary()))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """What `save` wrote.

        Raises:
          FileNotFoundError: if the folder holds no result.
          OSError: if a file cannot be read.
          ValueError: if a file is damaged, or belongs to another result.
        """
        folder = Path(folder)
        for name in ("summary.json", "clients.npz", "config.json"):
            if not os.path.isfile(folder / name):
                raise FileNotFoundError(f"{folder} holds no result: {name} is missing; {_REMEDY}")
        summary, config = (files.read_json(folder / name, _REMEDY) for name in ("summary.json", "config.json"))
        try:
            return cls.restored(summary, config, files.read(folder / "clients.npz"))
        except ValueError as error:
            raise ValueError(f"the result in {folder} is damaged ({error}): {_REMEDY}") from error

    def arrays(self) -> bytes:
        """All arrays as the bytes of an `.npz` file, the axes of each under `axes`."""
        arrays = self._arrays()
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays, axes=np.array(json.dumps(_axes(arrays))))  # pyright: ignore[reportArgumentType]
        return stream.getvalue()

    @classmethod
    def restored(cls, summary: Mapping[str, Any], config: dict[str, Any], arrays: bytes) -> Result:
        """The result whose `summary()`, `config` and `arrays()` these are.

        Raises:
          ValueError: if they are damaged.
        """
        try:
            with np.lib.npyio.NpzFile(io.BytesIO(arrays)) as file:
                named = {name: file[name] for name in file.files if name != "axes"}
            rounds = named.pop("rounds")
        except Exception as error:  # a damaged file fails in many ways
            raise ValueError(f"clients.npz cannot be read: {error or type(error).__name__}") from error
        rest = {f.name: summary[f.name] for f in fields(cls) if f.name in summary}
        rest |= {"rounds": rounds, "config": config}

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}

        rest |= {"scores": part("scores/"), "sizes": part("sizes/"), "log": part("log/")}
        rest["names"] = named.get("names", np.array((), str)).tolist()
        if lacking := [f.name for f in fields(cls) if f.name not in rest and f.default_factory is f.default is MISSING]:
            raise ValueError(f"summary.json lacks {', '.join(lacking)}")
        result = cls(**rest)
        result._match(summary)
        return result

    def configured(self, config: dict[str, Any]) -> Result:
        """The same result with the configuration that made it, and compared by its `run.metric`."""
        return replace(self, config=config, metric=config.get("run", {}).get("metric") or self.metric)

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"scores/{name}": values for name, values in self.scores.items()}
        arrays |= {f"sizes/{name}": values for name, values in self.sizes.items()}
        arrays |= {f"log/{name}": values for name, values in self.log.items()} | {"rounds": self.rounds}
        return arrays | {"names": np.array(self.names, str)}

    def _digests(self) -> dict[str, str]:
        return {"clients.npz": files.digest(self._arrays()), "config.json": files.digest(_plain(self.config))}

    def _match(self, summary: Mapping[str, Any]) -> None:
        """Raises `ValueError` if a summary stands for another result."""
        digests = self._digests()
        for name, stored in summary.get("digests", {}).items():
            if digests.get(name) != stored:
                raise ValueError(f"{name} was changed, or belongs to another summary.json")

    def _sealed(self, summary: dict[str, Any]) -> dict[str, Any]:
        """A summary as it is written, with the digests of what it stands for."""
        return files.sealed(summary | {"digests": self._digests()})

    def _scored(self, model: str, split: str, metric: str | None) -> np.ndarray:
        name = f"{model}/{split}/{self.compared(metric).name}"
        if name not in self.scores:
            raise ValueError(f"{self.method}: {name!r} was not measured; there are {', '.join(self.scores)}")
        return self.scores[name]

    def _statistics(
        self, model: str, at: int, what: Metric, reference: Result | None, select: Select
    ) -> dict[str, float] | None:
        if f"{model}/test/{what.name}" not in self.scores:
            return None
        scores = self.scores[f"{model}/test/{what.name}"][at]
        sizes = self.sizes["test"][-len(scores) :] if model.startswith("unseen_") else self.sizes["test"][: len(scores)]
        other, same = None, "unseen_personal" if model.startswith("unseen_") else "personal"
        if reference is not None and f"{same}/test/{what.name}" in reference.scores:
            other = reference.clients(same, select=select, metric=str(what))
        found = statistics.summarize(scores, sizes, other, lower_is_better=what.lower_is_better)
        if f"{model}/test/loss" in self.scores:
            found["loss"] = statistics.mean(self.scores[f"{model}/test/loss"][at])
        return found


def compared(results: Sequence[Result], metric: str | None = None) -> Metric:
    """What several results are compared by: as the first has it if all measured that, else what all measured.

    Args:
      results: one or more.
      metric: asked for, measured by one of them at least; as described if None.

    Raises:
      ValueError: if none has measured what is asked for, with the nearest name.
    """
    if metric is not None:
        return scores.choose(metric, scores.names(name for result in results for name in result.scores))
    first = results[0]
    shared = [name for name in first.measured if all(name in result.measured for result in results)]
    return first.compared() if first.compared().name in shared else scores.choose(None, shared or first.measured)


def worst_first(scores: np.ndarray, metric: Metric) -> list[int]:
    """The numbers of the clients, those with the worst mean of scores [methods, clients] first."""
    return np.argsort([metric.sign * statistics.mean(client) for client in scores.T], kind="stable").tolist()


class Comparison(Mapping[str, Result], Shown):
    """Results of several methods on the same data, in the order given.

    Raises:
      ValueError: if there are none, or they were run on different data.
    """

    def __init__(self, results: Mapping[str, Result]):
        if not results:
            raise ValueError("a comparison of no results: name at least one method")
        prints = {result.fingerprint for result in results.values()}
        if len(prints) > 1:
            raise ValueError(f"results on different data ({', '.join(sorted(prints))}) cannot be compared")
        self._results = dict(results)

    def __getitem__(self, name: str) -> Result:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    @property
    def reference(self) -> Result | None:
        """The run of `local_only`, if there is one."""
        return self._results.get("local_only")

    def __rich__(self) -> Table:
        return self.table()

    @property
    def metric(self) -> str:
        """What clients are compared by, see `compared`."""
        return str(compared([*self.values()]))

    def summary(self, *, select: Select = "last", metric: str | None = None) -> dict[str, dict[str, Any]]:
        """Method -> `Result.summary` with `local_only` as the reference.

        Args:
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None. A result without it is summarised by its own.

        Raises:
          ValueError: if no result has measured the metric.
        """
        what = compared([*self.values()], metric)

        def summarized(result: Result) -> dict[str, Any]:
            if what.name not in result.measured:
                return result.summary(select=select)
            reference = self.reference if self.reference and what.name in self.reference.measured else None
            return result.summary(reference, select=select, metric=str(what))

        return {name: summarized(result) for name, result in self.items()}

    def table(
        self, columns: Sequence[str] | None = None, *, select: Select = "last", metric: str | None = None
    ) -> Table:
        """One row for each method: how its clients fare with the model that they deploy, and what it costs.

        Accuracies are in percent, the best of a column is bold. `>alone` is the share of clients that are strictly
        better off than with `local_only`; MB are 10^6 bytes up and down; seconds include compilation.

        Args:
          columns: statistics of `statistics.summarize`, `loss`, `sent`, `seconds`, `round`; `mean`, `std`, `worst`,
            `bottom_decile`, `better_off` where there is a `local_only`, `sent` and `seconds` if None.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Returns:
          A table of rich that prints itself, with `latex()`, `markdown()`, `csv()`.

        Raises:
          ValueError: if a column is unknown, or no result has measured the metric.
        """
        what = compared([*self.values()], metric)
        rows = {}
        for name, summary in self.summary(select=select, metric=str(what)).items():
            cost = {"sent": (summary["bytes_up"] + summary["bytes_down"]) / 1e6, "round": summary["round"]}
            cost |= {"seconds": summary["seconds"] + summary["compile_seconds"]}
            rows[name] = (summary["personal"] or {} if summary["metric"] == str(what) else {}) | cost
        if self.reference is not None:
            rows["local_only"] |= {"better_off": None, "tied": None}
        if columns is None:
            columns = [*_SHOWN, *(["better_off"] if self.reference else []), "sent", "seconds"]
        checks.names(columns, dict.fromkeys(name for row in rows.values() for name in row), "columns")
        clients = max(row.get("clients", 0) for row in rows.values())
        lower = ", lower is better" * what.lower_is_better
        shown = [_column(name, what) for name in columns]
        title = f"Test {what.title}{lower}, over {clients} clients"
        ended = "\n".join(f"{name}: {result.reason}" for name, result in self.items() if result.reason)
        return _tabulated(title, "method", rows, shown, caption=ended or None)

    def by_client(self, worst: int | None = None, *, select: Select = "last", metric: str | None = None) -> Table:
        """One row for each client by name, those that fare worst over all methods first: its score with each method.

        Args:
          worst: so many clients; all if None.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric.
        """
        what = compared([*self.values()], metric)
        scored = {
            name: result.clients(select=select, metric=str(what))
            for name, result in self.items()
            if what.name in result.measured
        }
        by_client = np.stack(list(scored.values()), axis=1)
        first = next(iter(self.values()))
        table = Table(f"Test {what.title}, client by client")
        table.add_names("client")
        table.add_numbers("examples")
        for name in scored:
            table.add_names(name, justify="right")
        for client in worst_first(by_client.T, what)[:worst]:
            best = _best(by_client[client].tolist(), what.sign if len(scored) > 1 else 0)
            cells = [_cell(what.spell(score), score == best) for score in by_client[client].tolist()]
            table.add(first.names[client], str(first.sizes["test"][client]), *cells)
        return table

    def latex(self, columns: Sequence[str] | None = None, **options: Any) -> str:
        """`table(...)` as a LaTeX `tabular` for the package booktabs."""
        return self.table(columns, **options).latex()

    def markdown(self, columns: Sequence[str] | None = None, **options: Any) -> str:
        """`table(...)` in Markdown."""
        return self.table(columns, **options).markdown()

    def csv(self, columns: Sequence[str] | None = None, **options: Any) -> str:
        """`table(...)` as values separated by commas; `frame` has every score unrounded."""
        return self.table(columns, **options).csv()

    def frame(self, *, metric: str | None = None) -> pd.DataFrame:
        """The frames of all results below each other; `method` is the name in this comparison.

        Raises:
          ImportError: if pandas is not installed.
          ValueError: if a result has not measured the metric.
        """
        frames = [result.frame(metric=metric).assign(method=name) for name, result in self.items()]
        return import_pandas().concat(frames, ignore_index=True)

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes each result to its own folder below `folder`, and `summary.json` of all.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
          PermissionError, OSError: if a file cannot be written.
        """
        folder = files.named(folder)
        if not replace:
            vacant(folder)
        for name, result in self.items():
            result.save(folder / name, replace=replace)
        summaries = self.summary()
        files.write_json(folder / "summary.json", {name: self[name]._sealed(summaries[name]) for name in self})
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """What `save` wrote.

        Raises:
          FileNotFoundError: if the folder holds no comparison, or a result is missing.
          OSError: if a file cannot be read.
          ValueError: if a file is damaged, or belongs to another result.
        """
        path = Path(folder) / "summary.json"
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{folder} holds no comparison: summary.json is missing; {_REMEDY}")
        summaries = files.read_json(path, _REMEDY)
        if not summaries:
            raise ValueError(f"{path} is damaged (it names no result): {_REMEDY}")
        results = {name: Result.load(Path(folder) / name) for name in summaries}
        for name, result in results.items():
            try:
                result._match(files.unsealed(summaries[name]))
            except ValueError as error:
                raise ValueError(f"{path}, {name}: {error}; {_REMEDY}") from error
        return cls(results)


def vacant(folder: str | Path) -> None:
    """Refuses a folder that holds a run already.

    Raises:
      FileExistsError: if it does.
    """
    for name in ("summary.json", "clients.npz", "config.json", "checkpoint"):
        if os.path.exists(Path(folder) / name):
            raise FileExistsError(f"{folder} holds another run ({name}): resume it or choose another folder")


_SHOWN = ("mean", "std", "worst", "bottom_decile")


class _Column(NamedTuple):
    """How a statistic is written, and which way it is better: 1 higher, -1 lower, 0 neither."""

    name: str
    title: str
    form: Callable[[float], str]
    sign: int

    def spell(self, value: float | None) -> str:
        return "-" if value is None else self.form(value)


def _column(name: str, metric: Metric) -> _Column:
    title = {"bottom_decile": "worst 10%", "top_decile": "best 10%", "better_off": ">alone", "sent": "MB sent"}
    kinds: dict[str, tuple[Callable[[float], str], int]] = {
        "clients": (str, 0),
        "round": (str, 0),
        "sent": ("{:,.1f}".format, 0),
        "seconds": ("{:,.1f}".format, 0),
        "std": (metric.spell, -1),
        "gini": (scores.number, -1),
        "jain": (scores.number, 1),
        "uniformity": (scores.number, 1),
        "loss": (scores.number, -1),
        "better_off": ("{:.0%}".format, 1),
        "better_than_global": ("{:.0%}".format, 1),
        "tied": ("{:.0%}".format, 0),
    }
    return _Column(name, title.get(name, name.replace("_", " ")), *kinds.get(name, (metric.spell, metric.sign)))


def _tabulated(
    title: str,
    kind: str,
    rows: Mapping[str, Mapping[str, Any]],
    columns: Sequence[_Column],
    caption: str | None = None,
) -> Table:
    """A row of statistics for each name; the best of several is bold."""
    table = Table(title, caption)
    table.add_names(kind)
    best = [_best([row.get(column.name) for row in rows.values()], column.sign) for column in columns]
    for column in columns:
        table.add_numbers(column.title)
    for name, row in rows.items():
        values = [row.get(column.name) for column in columns]
        pairs = zip(columns, values, best, strict=True)
        table.add(name, *(_cell(column.spell(value), value == top and len(rows) > 1) for column, value, top in pairs))
    return table


def _cell(text: str, stands_out: bool) -> Text:
    return bold(text) if stands_out and text != "-" else Text(text)


def _best(values: Sequence[float | None], sign: int) -> float | None:
    """The best of those that are there; None if there is none, or nothing is best."""
    present = [value for value in values if value is not None and not math.isnan(value)]
    return max(present, key=lambda value: sign * value, default=None) if sign else None


def _axes(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    kinds = {
        "scores": ["evaluation", "client"],
        "sizes": ["client"],
        "log": ["round", "slot"],
        "rounds": ["evaluation"],
        "names": ["client"],
    }
    return {name: kinds[name.split("/")[0]][: array.ndim] for name, array in arrays.items()}


def _plain(value: Any) -> Any:
    """`value` as JSON has it: NaN and infinity become None, NumPy numbers plain ones."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
