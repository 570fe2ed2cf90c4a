"""Comparisons: results of several methods on the same data."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pfljax import checks, files
from pfljax.printing import Shown
from pfljax.results import scores, statistics
from pfljax.results.scores import Yardstick
from pfljax.results.tables import Table

if TYPE_CHECKING:
    import pandas as pd
from pfljax.results.columns import OVER_SEEDS, SHOWN, best, cell, column, tabulated
from pfljax.results.costs import NEVER
from pfljax.results.result import Result, Select, import_pandas
from pfljax.results.statistics import Estimate
from pfljax.results.stored import REMEDY, plain, vacant


def compared(results: Sequence[Result], metric: str | None = None) -> Yardstick:
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


def worst_first(scores: np.ndarray, metric: Yardstick) -> list[int]:
    """The numbers of the clients, those with the worst mean of scores [methods, clients] first."""
    return np.argsort([metric.sign * statistics.mean(client) for client in scores.T], kind="stable").tolist()


class Comparison(Mapping[str, Result], Shown):
    """Results of several methods on the same data, in the order given; `comparison[name]` is the run of the first seed.

    Args:
      results: name -> its run, or one for each seed.
      chosen: name -> hyperparameters that were chosen on validation examples.

    Attributes:
      runs: name -> the runs of all seeds.

    Raises:
      ValueError: if there are none, or they were run on different data.
    """

    def __init__(
        self, results: Mapping[str, Result | Sequence[Result]], chosen: Mapping[str, Mapping[str, Any]] | None = None
    ):
        self.runs = {name: (runs,) if isinstance(runs, Result) else tuple(runs) for name, runs in results.items()}
        self.chosen = {name: dict(values) for name, values in (chosen or {}).items() if values}
        if not all(self.runs.values()) or not self.runs:
            raise ValueError("a comparison of no results: name at least one method")
        prints = {result.fingerprint for result in self._all}
        if len(prints) > 1:
            raise ValueError(f"results on different data ({', '.join(sorted(prints))}) cannot be compared")

    def __getitem__(self, name: str) -> Result:
        return self.runs[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    @property
    def _all(self) -> list[Result]:
        return [result for runs in self.runs.values() for result in runs]

    def reference(self, seed: int) -> Result | None:
        """The run of `local_only` with a seed, or else its first one; None if there is none."""
        alone = self.runs.get("local_only", ())
        return next((run for run in alone if run.seed == seed), alone[0] if alone else None)

    def __rich__(self) -> Table:
        return self.table()

    @property
    def metric(self) -> str:
        """What clients are compared by, see `compared`."""
        return str(compared(self._all))

    def summary(self, *, select: Select = "last", metric: str | None = None) -> dict[str, dict[str, Any]]:
        """Method -> `Result.summary` with `local_only` as the reference; of several seeds the means of its numbers.

        Args:
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None. A result without it is summarised by its own.

        Raises:
          ValueError: if no result has measured the metric.
        """
        return {name: _merged(each) for name, each in self.summaries(select=select, metric=metric).items()}

    def summaries(self, *, select: Select = "last", metric: str | None = None) -> dict[str, list[dict[str, Any]]]:
        """Method -> `Result.summary` of each seed. See `summary`."""
        what = compared(self._all, metric)

        def summarized(result: Result) -> dict[str, Any]:
            if what.name not in result.measured:
                return result.summary(select=select)
            reference = self.reference(result.seed)
            reference = reference if reference and what.name in reference.measured else None
            return result.summary(reference, select=select, metric=str(what))

        return {name: list(map(summarized, runs)) for name, runs in self.runs.items()}

    def table(
        self, columns: Sequence[str] | None = None, *, select: Select = "last", metric: str | None = None
    ) -> Table:
        """One row for each method: how its clients fare with the model that they deploy, and what it costs.

        Of several seeds the mean and half a 95 % interval. Accuracies are in percent, the best of a column is
        bold. `>alone` is the share of clients that are strictly better off than with `local_only`; MB are 10^6 bytes up
        and down; seconds include compilation.

        Args:
          columns: statistics of `statistics.summarize`, `loss`, `sent`, `seconds`, `round`, of methods with clusters
            `clusters`, `moved` and `ari` (see `Result.clusters`); `mean`, `std`, `worst`,
            `bottom_decile`, `better_off` where there is a `local_only`, `sent` and `seconds` if None; over seeds
            without `std` and `worst`.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Returns:
          A table of rich that prints itself, with `latex()`, `markdown()`, `csv()`.

        Raises:
          ValueError: if a column is unknown, or no result has measured the metric.
        """
        what = compared(self._all, metric)
        rows: dict[str, dict[str, Estimate | None]] = {
            name: _over_seeds([_row(summary, what) for summary in each])
            for name, each in self.summaries(select=select, metric=str(what)).items()
        }
        if "local_only" in rows:
            rows["local_only"] |= {"better_off": None, "tied": None}
        seeds = max(map(len, self.runs.values()))
        if columns is None:
            against = ["better_off"] if "local_only" in rows else []
            columns = [*(SHOWN if seeds == 1 else OVER_SEEDS), *against, "sent", "seconds"]
        checks.names(columns, dict.fromkeys(name for row in rows.values() for name in row), "columns")
        clients = max(count.mean if (count := row.get("clients")) else 0 for row in rows.values())
        title = f"Test {what.title}{', lower is better' * what.lower_is_better}, over {clients:.0f} clients"
        title += f", ± 95 % interval over {seeds} seeds" * (seeds > 1)
        shown = [column(name, what) for name in columns]
        return tabulated(title, "method", rows, shown, caption="\n".join(self._notes(seeds)) or None)

    def _notes(self, seeds: int) -> Iterator[str]:
        """What a reader of the table has to know of single methods."""
        for name, runs in self.runs.items():
            if name in self.chosen:
                values = ", ".join(f"{key}={value}" for key, value in self.chosen[name].items())
                yield f"{name}: {values}, by validation"
            if len(runs) < seeds:
                yield f"{name}: {len(runs)} of {seeds} seeds ended well"
            for run in runs:
                if run.reason:
                    yield f"{name}{f', seed {run.seed}' * (seeds > 1)}: {run.reason}"

    def objectives(self, target: float | None = None, *, select: Select = "last", metric: str | None = None) -> Table:
        """The three objectives of Jiang et al. for each method: personal models, the server model, how soon.

        What clients deploy, and the share of them that are better off with it than with the server model (`>server`)
        and than alone; the server model, for clients without data to adapt it, and the same for unseen clients; and
        what it took until the mean of what clients deploy was as good as the target, in every seed.

        Args:
          target: a score; 95 % of the best method's mean if None, of a loss 1 / 0.95 of the least.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric, or no client has test examples.

        Source: Jiang et al., "Improving Federated Learning Personalization via Model Agnostic Meta Learning", 2019.
        """
        what = compared(self._all, metric)
        measured = {name: runs for name, runs in self.runs.items() if what.name in runs[0].measured}
        summaries = self.summaries(select=select, metric=str(what))
        rows = {name: _over_seeds(list(map(_objectives, summaries[name]))) for name in measured}
        means = [row["personal"].mean for row in rows.values() if row["personal"] and row["personal"].count]
        if not means:
            raise ValueError("no client has test examples: ask for some when the data are dealt, test=0.25")
        usual = max(means) * 0.95 if what.sign > 0 else min(means) / 0.95
        goal = usual if target is None else target
        for name, runs in measured.items():
            costs = [run.until(goal, metric=str(what)) for run in runs]
            if NEVER not in costs:
                rows[name] |= _over_seeds([{**cost._asdict(), "sent": cost.sent / 1e6} for cost in costs])
        columns = [column(name, what) for name in ("personal", "server", "unseen", "better_than_global", "better_off")]
        columns += [column(name, what)._replace(sign=-1) for name in ("rounds", "sent", "seconds")]
        title = f"Test {what.title}; rounds, MB and seconds until {what.say(goal)}"
        return tabulated(title, "method", rows, columns)

    def fairness(
        self,
        traits: Mapping[str, Sequence[float]] | None = None,
        *,
        select: Select = "last",
        metric: str | None = None,
    ) -> Table:
        """Whether clients fare by what they are: a line through their scores for each method and trait.

        `by 1 std` is how much better off a client is that has one standard deviation more of the trait, with the
        correlation, and the chance of a line as steep if there is no relation; see `statistics.trend`. Of several seeds
        the scores are means.

        Args:
          traits: name -> a number of each client [N], such as its bandwidth; training examples and rounds in which it
            was heard if None.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric, or a trait is not of all clients.
        """
        what = compared(self._all, metric)
        table = Table(f"Test {what.title} by what clients are")
        table.add_names("method")
        table.add_names("trait")
        for title in ("by 1 std", "correlation", "chance"):
            table.add_numbers(title)
        for name, scored in self._by_client(what, select).items():
            for trait, values in (self[name].traits() if traits is None else traits).items():
                line = statistics.trend(what.sign * scored, np.asarray(values, float))
                numbers = (scores.number(line.correlation), scores.number(line.chance))
                table.add(name, trait, what.spell(line.slope), *numbers)
        return table

    def _by_client(self, what: Yardstick, select: Select) -> dict[str, np.ndarray]:
        """Method -> [clients] scores of what they deploy, of several seeds the mean."""
        return {
            name: np.mean([run.clients(select=select, metric=str(what)) for run in runs], axis=0)
            for name, runs in self.runs.items()
            if what.name in runs[0].measured
        }

    def by_client(self, worst: int | None = None, *, select: Select = "last", metric: str | None = None) -> Table:
        """One row for each client by name, those that fare worst over all methods first: its score with each method.

        Of several seeds the mean.

        Args:
          worst: so many clients; all if None.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric.
        """
        what = compared(self._all, metric)
        scored = self._by_client(what, select)
        by_client = np.stack(list(scored.values()), axis=1)
        first = next(iter(self.values()))
        table = Table(f"Test {what.title}, client by client")
        table.add_names("client")
        table.add_numbers("examples")
        for name in scored:
            table.add_names(name, justify="right")
        for client in worst_first(by_client.T, what)[:worst]:
            top = best(by_client[client].tolist(), what.sign if len(scored) > 1 else 0)
            cells = [cell(what.spell(score), score == top) for score in by_client[client].tolist()]
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
        frames = [run.frame(metric=metric).assign(method=name) for name, runs in self.runs.items() for run in runs]
        return import_pandas().concat(frames, ignore_index=True)

    def save(self, folder: str | Path, *, replace: bool = False) -> Path:
        """Writes each result to its own folder below `folder`, one for each seed if there are more, and `summary.json`.

        Raises:
          FileExistsError: if the folder holds a result already and `replace` is false.
          PermissionError, OSError: if a file cannot be written.
        """
        folder = files.named(folder)
        if not replace:
            vacant(folder)
        entries: dict[str, Any] = {}
        for name, summaries in self.summaries().items():
            runs = self.runs[name]
            if len(runs) == 1 and name not in self.chosen:
                runs[0].save(folder / name, replace=replace)
                entries[name] = runs[0].sealed(summaries[0])
                continue
            for run in runs:
                run.save(_place(folder, name, run.seed), replace=replace)
            sealed = {str(run.seed): run.sealed(each) for run, each in zip(runs, summaries, strict=True)}
            entries[name] = {"chosen": plain(self.chosen.get(name, {})), "seeds": sealed}
        files.write_json(folder / "summary.json", entries)
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
            raise FileNotFoundError(f"{folder} holds no comparison: summary.json is missing; {REMEDY}")
        summaries = files.read_json(path, REMEDY)
        if not summaries:
            raise ValueError(f"{path} is damaged (it names no result): {REMEDY}")
        several = {name: entry for name, entry in summaries.items() if entry.keys() == {"chosen", "seeds"}}
        sealed = {name: several[name]["seeds"] if name in several else {"": summaries[name]} for name in summaries}
        results = {
            name: [Result.load(_place(Path(folder), name, seed)) for seed in entries]
            for name, entries in sealed.items()
        }
        for name, runs in results.items():
            for run, entry in zip(runs, sealed[name].values(), strict=True):
                try:
                    run.match(files.unsealed(entry))
                except ValueError as error:
                    raise ValueError(f"{path}, {name}: {error}; {REMEDY}") from error
        return cls(results, {name: entry["chosen"] for name, entry in several.items()})


def _place(folder: Path, name: str, seed: int | str) -> Path:
    """The folder of a method's run, of several seeds that of one."""
    return folder / name if seed == "" else folder / name / f"seed-{seed}"


def _row(summary: Mapping[str, Any], what: Yardstick) -> dict[str, Any]:
    """What a table has of one run."""
    cost = {"sent": (summary["bytes_up"] + summary["bytes_down"]) / 1e6, "round": summary["round"]}
    cost |= {"seconds": summary["seconds"] + summary["compile_seconds"]}
    cost |= summary["clusters"] or {}
    return (summary["personal"] or {} if summary["metric"] == str(what) else {}) | cost


def _objectives(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run says of the first two objectives of Jiang et al."""
    personal, common, unseen = (summary[model] or {} for model in ("personal", "global", "unseen_global"))
    means = {"personal": personal.get("mean"), "server": common.get("mean"), "unseen": unseen.get("mean")}
    return means | {share: personal.get(share) for share in ("better_than_global", "better_off")}


def _over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Estimate | None]:
    return {name: statistics.estimate(row.get(name) for row in rows) for name in rows[0]}


def _merged(parts: Sequence[Any]) -> Any:
    """Of plain values that are alike: the means of numbers that differ."""
    first = parts[0]
    if all(part == first for part in parts):
        return first
    if isinstance(first, Mapping):
        return {name: _merged([part[name] for part in parts]) for name in first}
    numbers = [part for part in parts if isinstance(part, int | float)]
    return statistics.mean(np.array(numbers)) if numbers else list(parts)
