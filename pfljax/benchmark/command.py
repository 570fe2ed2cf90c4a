"""`pfljax bench`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from pfljax.benchmark import store
from pfljax.benchmark.contender import Contender
from pfljax.benchmark.paired import Paired, compare
from pfljax.benchmark.report import Report
from pfljax.benchmark.runner import run
from pfljax.benchmark.targets import TARGETS, Target
from pfljax.benchmark.workloads import GROUPS, WORKLOADS

_WIDE = 132


def add_arguments(parser: argparse.ArgumentParser, default: str = "quick") -> None:
    """Adds the arguments of `from_command_line`, which runs the `default` where no workload is named."""
    add = parser.add_argument
    names = f"names, patterns, or {', '.join(GROUPS)} ({default} if left out)"
    add("workloads", nargs="*", default=[default], metavar="NAME", help=names)
    add("--list", action="store_true", help="list the workloads, run none")
    add("--repeats", type=int, default=5, metavar="K", help="repetitions (5)")
    add("--seconds", type=float, default=0.5, metavar="S", help="length of a repetition (0.5), at least one round")
    add("--store", metavar="DIR", help=f"where results are kept and earlier ones found ({store.default_folder()})")
    add("--no-store", action="store_true", help="keep nothing, compare with nothing")
    add(
        "--against", metavar="PATH",
        help="another checkout of pfljax: both run in turn, in as many pairs of processes as --repeats says, and the "
        "ratio of each workload is printed, with its interval; nothing is kept",
    )  # fmt: skip
    add("--json", action="store_true", help="for programs")


def from_command_line(
    options: argparse.Namespace, rivals: Sequence[Contender] = (), targets: Sequence[Target] = TARGETS
) -> Report | None:
    """Runs what the arguments ask for, beside the rivals, and prints it.

    Raises:
      ValueError: if a workload is unknown.
    """
    if options.list:
        _list()
        return None
    if options.against is not None and rivals:
        raise ValueError(f"--against {options.against}: only checkouts are paired; leave the rivals out")
    notes = Console(stderr=True)
    with notes.status("...") as status:
        show = status.update if notes.is_terminal else notes.print
        how = {"seconds": options.seconds, "progress": lambda text: show(f"timing {text} ...")}
        if options.against is not None:
            report = compare(options.against, options.workloads, pairs=options.repeats, **how)
        else:
            keep = False if options.no_store else options.store or True
            report = run(options.workloads, rivals=rivals, targets=targets, repeats=options.repeats, keep=keep, **how)
    if options.json:
        print(json.dumps(report.to_dict(), indent=1))
    else:
        print_report(report)
    return report if isinstance(report, Report) else None


def print_report(report: Report | Paired) -> None:
    """Prints a report, as wide as its table."""
    console = Console()
    Console(width=max(console.width, _WIDE)).print(report.table())


def _list() -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("workload", no_wrap=True)
    table.add_column("group")
    table.add_column("what it times")
    for workload in WORKLOADS.values():
        table.add_row(workload.name, workload.group, workload.about)
    Console().print(table)
