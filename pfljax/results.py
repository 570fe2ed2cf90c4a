"""Results: the scores of every client at every evaluation, and what they cost. Tables are derived from them."""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from zipfile import BadZipFile

import numpy as np
from rich import box
from rich.table import Table

from pfljax import metrics

if TYPE_CHECKING:
    import pandas as pd

Select = Literal["last", "best_validation", "best_test"]
"""Which evaluation is reported."""

_COLUMNS = ("method", "seed", "round", "client", "model", "split", "metric", "value")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in ("pfljax", "jax", "jaxlib", "flax", "optax", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """One run of one method.

    Args:
      method: its name.
      hyper: hyperparameters that were traced.
      seed: of initial models, cohorts and minibatches.
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
    """

    method: str
    hyper: dict[str, float]
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
    versions: dict[str, str] = field(default_factory=versions)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """What clients are compared by: accuracy where it was measured, else the loss."""
        return "accuracy" if "personal/test/accuracy" in self.scores else "loss"

    @property
    def lower_is_better(self) -> bool:
        """Whether `metric` is a loss."""
        return self.metric == "loss"

    def evaluation(self, select: Select = "last") -> int:
        """The index of the evaluation that is reported.

        Args:
          select: `"last"`; `"best_validation"`, by the mean over clients on validation examples; `"best_test"` looks at
            the test examples, so its numbers are too high: for comparison with publications that report it.

        Raises:
          ValueError: if there is no such rule, or no client has validation examples.
        """
        if select == "last":
            return len(self.rounds) - 1
        if select not in ("best_validation", "best_test"):
            raise ValueError(f"select={select!r}: choose 'last', 'best_validation' or 'best_test'")
        split = select.removeprefix("best_")
        means = self.curve(split=split)
        if np.isnan(means).all():
            raise ValueError(f"select={select!r}: no client has {split} examples; ask for some when the data are dealt")
        return int(np.nanargmin(means) if self.lower_is_better else np.nanargmax(means))

    def curve(self, model: str = "personal", split: str = "test", metric: str | None = None) -> np.ndarray:
        """[E] means over clients.

        Raises:
          ValueError: if that was not measured.
        """
        return np.array([metrics.mean(row) for row in self._named(f"{model}/{split}/{metric or self.metric}")])

    def clients(self, model: str = "personal", split: str = "test", *, select: Select = "last") -> np.ndarray:
        """[clients] scores at the reported evaluation.

        Raises:
          ValueError: if that was not measured.
        """
        return self._named(f"{model}/{split}/{self.metric}")[self.evaluation(select)]

    def summary(self, reference: Result | None = None, *, select: Select = "last") -> dict[str, Any]:
        """Plain numbers of the run, ready for JSON (None for NaN).

        Args:
          reference: another run on the same data, usually of `local_only`; adds to each model the share of clients that
            are better off than there.
          select: which evaluation, see `evaluation`.

        Returns:
          `method`, `seed`, `hyper`, `round`, `rounds`, `metric`, times, steps, bytes, `fingerprint`, `versions`, and
          for each of `personal`, `global`, `unseen_personal`, `unseen_global` the statistics of `metrics.summarize` on
          test examples with the mean `loss`, or None where there is no such model.

        Raises:
          ValueError: if the reference was run on other data.
        """
        if reference is not None and reference.fingerprint != self.fingerprint:
            raise ValueError(
                f"the reference {reference.method!r} was run on data {reference.fingerprint}, {self.method!r} on "
                f"{self.fingerprint}: compare runs on the same data"
            )
        at = self.evaluation(select)
        summary: dict[str, Any] = {
            "method": self.method,
            "seed": self.seed,
            "hyper": {name: float(value) for name, value in self.hyper.items()},
            "rounds": int(self.rounds[-1]),
            "round": int(self.rounds[at]),
            "select": select,
            "metric": self.metric,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "client_steps": self.client_steps,
            "client_steps_per_second": self.client_steps / self.seconds if self.seconds > 0 else float("nan"),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "fingerprint": self.fingerprint,
            "versions": self.versions,
        }
        for model in ("personal", "global", "unseen_personal", "unseen_global"):
            statistics = self._statistics(model, at, reference, select)
            summary[model] = statistics and {"better_off": None, **statistics}
        if summary["global"]:
            personal, common = self._at("personal", at), self._at("global", at)
            sign = -1 if self.lower_is_better else 1
            summary["personal"]["better_than_global"] = metrics.better_off(sign * personal, sign * common)
        return _plain(summary)

    def frame(self) -> pd.DataFrame:
        """All scores, one row each, with the columns method, seed, round, client, model, split, metric, value.

        Raises:
          ImportError: if pandas is not installed.
        """
        pandas = import_pandas()
        parts = []
        for name, values in self.scores.items():
            model, split, metric = name.split("/")
            evaluations, clients = values.shape
            first = len(self.sizes["test"]) - clients if model.startswith("unseen_") else 0
            columns = {
                "method": self.method,
                "seed": self.seed,
                "round": np.repeat(self.rounds, clients),
                "client": np.tile(np.arange(first, first + clients), evaluations),
                "model": model,
                "split": split,
                "metric": metric,
                "value": values.ravel(),
            }
            parts.append(pandas.DataFrame(columns, columns=list(_COLUMNS)))
        return pandas.concat(parts, ignore_index=True)

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes `summary.json`, `clients.npz` (all arrays, the axes of each under `axes`) and `config.json`.

        Args:
          folder: made if missing.
          replace: write over another result.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
        """
        folder = Path(folder)
        if not replace:
            vacant(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "clients.npz").write_bytes(self.arrays())
        _write(folder / "config.json", self.config)
        _write(folder / "summary.json", self.summary())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """What `save` wrote.

        Raises:
          FileNotFoundError: if the folder holds no result.
          ValueError: if its files are damaged.
        """
        folder = Path(folder)
        for name in ("summary.json", "clients.npz", "config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no result: {name} is missing")
        try:
            summary = json.loads((folder / "summary.json").read_text())
            config = json.loads((folder / "config.json").read_text())
            return cls.restored(summary, config, (folder / "clients.npz").read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"the result in {folder} is damaged ({error}): run it again") from error

    def arrays(self) -> bytes:
        """All arrays as the bytes of an `.npz` file, the axes of each under `axes`."""
        arrays = {f"scores/{name}": values for name, values in self.scores.items()}
        arrays |= {f"sizes/{name}": values for name, values in self.sizes.items()}
        arrays |= {f"log/{name}": values for name, values in self.log.items()} | {"rounds": self.rounds}
        arrays["axes"] = np.array(json.dumps(_axes(arrays)))
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]
        return stream.getvalue()

    @classmethod
    def restored(cls, summary: Mapping[str, Any], config: dict[str, Any], arrays: bytes) -> Result:
        """The result whose `summary()`, `config` and `arrays()` these are.

        Raises:
          ValueError: if they are damaged.
        """
        try:
            with np.load(io.BytesIO(arrays), allow_pickle=False) as file:
                named = {name: file[name] for name in file.files if name != "axes"}
            rest = {f.name: summary[f.name] for f in fields(cls) if f.name in summary}
            rest |= {"rounds": named["rounds"], "config": config}
        except (OSError, KeyError, BadZipFile) as error:
            raise ValueError(str(error)) from error

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): array for name, array in named.items() if name.startswith(prefix)}

        return cls(**rest, scores=part("scores/"), sizes=part("sizes/"), log=part("log/"))

    def configured(self, config: dict[str, Any]) -> Result:
        """The same result with the configuration that made it."""
        return replace(self, config=config)

    def _named(self, name: str) -> np.ndarray:
        if name not in self.scores:
            raise ValueError(f"{self.method}: {name!r} was not measured; there are {', '.join(self.scores)}")
        return self.scores[name]

    def _at(self, model: str, at: int) -> np.ndarray:
        return self._named(f"{model}/test/{self.metric}")[at]

    def _statistics(self, model: str, at: int, reference: Result | None, select: Select) -> dict[str, float] | None:
        if f"{model}/test/{self.metric}" not in self.scores:
            return None
        scores = self._at(model, at)
        sizes = self.sizes["test"][-len(scores) :] if model.startswith("unseen_") else self.sizes["test"][: len(scores)]
        other = None
        if reference is not None:
            other = reference.clients("unseen_personal" if model.startswith("unseen_") else "personal", select=select)
        statistics = metrics.summarize(scores, sizes, other, lower_is_better=self.lower_is_better)
        if f"{model}/test/loss" in self.scores:
            statistics["loss"] = metrics.mean(self.scores[f"{model}/test/loss"][at])
        return statistics


class Comparison(Mapping[str, Result]):
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

    def summary(self, *, select: Select = "last") -> dict[str, dict[str, Any]]:
        """Method -> `Result.summary` with `local_only` as the reference."""
        return {name: result.summary(self.reference, select=select) for name, result in self.items()}

    def table(self, *, select: Select = "last") -> Table:
        """One row for each method: how its clients fare with the model that they deploy, and what it costs.

        Accuracies are in percent, the best of a column is bold. `>alone` is the share of clients that are strictly
        better off than with `local_only`; MB are 10^6 bytes up and down; seconds include compilation.
        """
        first = next(iter(self.values()))
        form = "{:.3f}".format if first.lower_is_better else lambda score: f"{100 * score:.1f}"
        columns = ["mean", "std", "worst", "bottom_decile"] + (["better_off"] if self.reference else [])
        titles = {"bottom_decile": "worst 10%", "better_off": ">alone"}
        what = "loss" if first.lower_is_better else "accuracy, %"
        clients = first.summary()["personal"]["clients"]
        table = Table(
            title=f"Test {what}, over {clients} clients", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("method", no_wrap=True)
        for column in columns:
            table.add_column(titles.get(column, column), justify="right")
        for title in ("MB sent", "seconds"):
            table.add_column(title, justify="right")
        rows = {name: summary["personal"] for name, summary in self.summary(select=select).items()}
        best = {
            column: _best([row[column] for row in rows.values()], column, first.lower_is_better) for column in columns
        }
        for name, result in self.items():
            cells = []
            for column in columns:
                value = None if column == "better_off" and result is self.reference else rows[name][column]
                text = "-" if value is None else f"{100 * value:.0f}%" if column == "better_off" else form(value)
                cells.append(f"[bold]{text}[/bold]" if value is not None and value == best[column] else text)
            sent = (result.bytes_up + result.bytes_down) / 1e6
            table.add_row(name, *cells, f"{sent:,.1f}", f"{result.seconds + result.compile_seconds:.1f}")
        return table

    def frame(self) -> pd.DataFrame:
        """The frames of all results below each other; `method` is the name in this comparison.

        Raises:
          ImportError: if pandas is not installed.
        """
        frames = [result.frame().assign(method=name) for name, result in self.items()]
        return import_pandas().concat(frames, ignore_index=True)

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes each result to its own folder below `folder`, and `summary.json` of all.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
        """
        folder = Path(folder)
        if not replace:
            vacant(folder)
        for name, result in self.items():
            result.save(folder / name, replace=replace)
        _write(folder / "summary.json", self.summary())
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Comparison:
        """What `save` wrote.

        Raises:
          FileNotFoundError: if the folder holds no comparison.
        """
        path = Path(folder) / "summary.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no comparison: summary.json is missing")
        return cls({name: Result.load(Path(folder) / name) for name in json.loads(path.read_text())})


def vacant(folder: str | Path) -> None:
    """Refuses a folder that holds a run already.

    Raises:
      FileExistsError: if it does.
    """
    for name in ("summary.json", "clients.npz", "config.json", "checkpoint"):
        if (Path(folder) / name).exists():
            raise FileExistsError(f"{folder} holds another run ({name}): resume it or choose another folder")


def _best(values: list[float | None], column: str, lower_is_better: bool) -> float | None:
    smaller = column == "std" or (lower_is_better and column != "better_off")
    present = [value for value in values if value is not None]
    return (min if smaller else max)(present, default=None)


def _axes(arrays: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    kinds = {
        "scores": ["evaluation", "client"],
        "sizes": ["client"],
        "log": ["round", "slot"],
        "rounds": ["evaluation"],
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


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


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
