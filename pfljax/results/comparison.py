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
from pfljax.results.columns import SHOWN, best, cell, column, tabulated
from pfljax.results.costs import NEVER
from pfljax.results.result import Result, Select, import_pandas
from pfljax.results.stored import REMEDY, vacant


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
          columns: statistics of `statistics.summarize`, `loss`, `sent`, `seconds`, `round`, of methods with clusters
            `clusters`, `moved` and `ari` (see `Result.clusters`); `mean`, `std`, `worst`,
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
            cost |= summary["clusters"] or {}
            rows[name] = (summary["personal"] or {} if summary["metric"] == str(what) else {}) | cost
        if self.reference is not None:
            rows["local_only"] |= {"better_off": None, "tied": None}
        if columns is None:
            columns = [*SHOWN, *(["better_off"] if self.reference else []), "sent", "seconds"]
        checks.names(columns, dict.fromkeys(name for row in rows.values() for name in row), "columns")
        clients = max(row.get("clients", 0) for row in rows.values())
        lower = ", lower is better" * what.lower_is_better
        shown = [column(name, what) for name in columns]
        title = f"Test {what.title}{lower}, over {clients} clients"
        ended = "\n".join(f"{name}: {result.reason}" for name, result in self.items() if result.reason)
        return tabulated(title, "method", rows, shown, caption=ended or None)

    def objectives(self, target: float | None = None, *, select: Select = "last", metric: str | None = None) -> Table:
        """The three objectives of Jiang et al. for each method: personal models, the server model, how soon.

        What clients deploy, and the share of them that are better off with it than with the server model (`>server`)
        and than alone; the server model, for clients without data to adapt it, and the same for unseen clients; and
        what it took until the mean of what clients deploy was as good as the target.

        Args:
          target: a score; 95 % of the best method's mean if None, of a loss 1 / 0.95 of the least.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric.

        Source: Jiang et al., "Improving Federated Learning Personalization via Model Agnostic Meta Learning", 2019.
        """
        what = compared([*self.values()], metric)
        measured = {name: result for name, result in self.items() if what.name in result.measured}
        summaries = self.summary(select=select, metric=str(what))
        rows = {}
        for name in measured:
            personal, common, unseen = (
                summaries[name][model] or {} for model in ("personal", "global", "unseen_global")
            )
            rows[name] = {"personal": personal.get("mean"), "server": common.get("mean"), "unseen": unseen.get("mean")}
            rows[name] |= {share: personal.get(share) for share in ("better_than_global", "better_off")}
        means = [row["personal"] for row in rows.values() if row["personal"] is not None]
        if not means:
            raise ValueError("no client has test examples: ask for some when the data are dealt, test=0.25")
        usual = max(means) * 0.95 if what.sign > 0 else min(means) / 0.95
        goal = usual if target is None else target
        for name, result in measured.items():
            cost = result.until(goal, metric=str(what))
            if cost != NEVER:
                rows[name] |= {"rounds": cost.rounds, "sent": cost.sent / 1e6, "seconds": cost.seconds}
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
        correlation, and the chance of a line as steep if there is no relation; see `statistics.trend`.

        Args:
          traits: name -> a number of each client [N], such as its bandwidth; training examples and rounds in which it
            was heard if None.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; `metric` if None.

        Raises:
          ValueError: if no result has measured the metric, or a trait is not of all clients.
        """
        what = compared([*self.values()], metric)
        table = Table(f"Test {what.title} by what clients are")
        table.add_names("method")
        table.add_names("trait")
        for title in ("by 1 std", "correlation", "chance"):
            table.add_numbers(title)
        for name, result in self.items():
            if what.name not in result.measured:
                continue
            scored = what.sign * result.clients(select=select, metric=str(what))
            for trait, values in (result.traits() if traits is None else traits).items():
                line = statistics.trend(scored, np.asarray(values, float))
                numbers = (scores.number(line.correlation), scores.number(line.chance))
                table.add(name, trait, what.spell(line.slope), *numbers)
        return table

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
        files.write_json(folder / "summary.json", {name: self[name].sealed(summaries[name]) for name in self})
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
        results = {name: Result.load(Path(folder) / name) for name in summaries}
        for name, result in results.items():
            try:
                result.match(files.unsealed(summaries[name]))
            except ValueError as error:
                raise ValueError(f"{path}, {name}: {error}; {REMEDY}") from error
        return cls(results)
