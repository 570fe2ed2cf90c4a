"""Methods against the rate of dropouts: how much each loses as more clients crash in every round."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from rich.console import Console

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.experiment import catalogue
from pfljax.experiment.build import load_data
from pfljax.experiment.config import Config
from pfljax.experiment.studies import compare_methods
from pfljax.results.columns import column, tabulated
from pfljax.results.comparison import Comparison, compared
from pfljax.results.result import Select
from pfljax.results.statistics import estimate
from pfljax.results.tables import Table


class Endured(NamedTuple):
    """Rate of dropouts -> the comparison at that rate."""

    runs: Mapping[float, Comparison]

    def table(self, statistic: str = "mean", *, select: Select = "last", metric: str | None = None) -> Table:
        """A row for each method, a column for each rate; over several seeds with half a 95 % interval.

        Args:
          statistic: of the clients with the models that they deploy, see `statistics.summarize`.
          select: which evaluation, see `Result.evaluation`.
          metric: what clients are compared by; that of the results if None.

        Raises:
          ValueError: if the statistic is unknown, or the metric was not measured.
        """
        first = next(iter(self.runs.values()))
        what = compared([result for runs in first.runs.values() for result in runs], metric)
        rows: dict[str, dict[str, Any]] = {name: {} for name in first}
        for rate, comparison in self.runs.items():
            for name, seeds in comparison.summaries(select=select, metric=str(what)).items():
                checks.choice(statistic, seeds[0]["personal"], "statistic")
                rows[name][f"{rate:g}"] = estimate(summary["personal"][statistic] for summary in seeds)
        shown = [column(statistic, what)._replace(name=f"{rate:g}", title=f"{rate:.0%} crash") for rate in self.runs]
        count = max(map(len, first.runs.values()))
        title = f"Test {what.title}, {statistic} over clients, by the rate of dropouts"
        return tabulated(title + f", ± 95 % interval over {count} seeds" * (count > 1), "method", rows, shown)


def under_dropouts(
    config: Config,
    methods: Sequence[str],
    rates: Sequence[checks.Share] = (0.0, 0.25, 0.5, 0.75),
    *,
    seeds: Sequence[checks.Seed] | None = None,
    progress: bool = False,
    data: FederatedData | None = None,
) -> Endured:
    """The same comparison at several rates of dropouts, `cohort.dropouts`: the same clients, seeds and cohorts.

    Args:
      config: the configuration; its own rate of dropouts does not count.
      methods: names.
      rates: chances that a sampled client does not reply, all different.
      seeds: of the runs; that of the configuration alone if None.
      progress: a live bar on the standard error.
      data: the federation, if it is at hand already.

    Raises:
      ValueError: if a rate is no share or named twice, besides what `compare_methods` raises.
    """
    checks.each(tuple[checks.Share, ...], rates=tuple(rates))
    if not rates or len(set(rates)) < len(rates):
        raise ValueError(f"rates={list(rates)}: name at least one, and each once")
    data = load_data(config.data) if data is None else data

    def at(rate: float) -> Comparison:
        lossy = replace(config, cohort=replace(config.cohort, dropouts=rate))
        return compare_methods(lossy, methods, seeds=seeds, progress=progress, data=data)

    return Endured({rate: at(rate) for rate in rates})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pfljax dropouts`."""
    parser.add_argument("--config", metavar="FILE[:ARG]", help="configuration; the digits quickstart if left out")
    parser.add_argument("--methods", required=True, metavar="A,B,...", help="names of methods or of families, or all")
    parser.add_argument("--rates", default="0,0.25,0.5,0.75", metavar="R,S,...", help="of dropouts, from 0 to 1")
    parser.add_argument("--seeds", type=int, metavar="N", help="as many runs of each, with seeds 0, 1, ...")
    parser.add_argument("--statistic", default="mean", metavar="NAME", help="of the clients, such as bottom_decile")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def from_command_line(options: argparse.Namespace, configured: Callable[[], Config]) -> None:
    """Does what `add_arguments` read."""
    try:
        rates = [float(text) for text in options.rates.split(",")]
    except ValueError:
        raise ValueError(f"--rates={options.rates}: write numbers from 0 to 1, such as --rates=0,0.5") from None
    methods = catalogue.named(options.methods)
    seeds = None if options.seeds is None else range(options.seeds)
    endured = under_dropouts(configured(), methods, rates, seeds=seeds, progress=not options.quiet)
    Console().print(endured.table(options.statistic))
