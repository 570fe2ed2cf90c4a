"""The benchmark for the README, beside other simulators: a table of ratios, every number as JSON, a figure of cohorts.

python -m experiments.benchmark --out=runs/benchmark --rival pytorch --rival pfllib=PATH/TO/PFLlib
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmark import targets
from experiments.benchmark.contenders import find_rivals, rival_names
from pfljax import benchmark, cli, files


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the command line: that of `pfljax bench`, a folder, and the rivals."""
    parser = argparse.ArgumentParser(description="The benchmark for the README, beside other simulators.")
    add = parser.add_argument
    add("--out", type=files.named, default=Path("runs/benchmark"), help="folder for table, figure and numbers")
    add(
        "--rival", action="append", default=[], metavar="NAME[=PATH]",
        help=f"another simulator ({', '.join(rival_names())}, or FILE.py), from its sources in PATH; may be repeated",
    )  # fmt: skip
    add("--rivals", choices=("auto", "none"), default="none", help="auto: all rivals whose library can be imported")
    add("--rival-python", action="append", default=[], metavar="NAME=PYTHON", help="interpreter that has its library")
    benchmark.add_arguments(parser, default="default")
    options = parser.parse_args(arguments)

    def program() -> None:
        report = benchmark.from_command_line(options, _rivals(options), targets.TARGETS)
        if report is not None:
            publish(report, options.out)

    return cli.guarded(program)


def _rivals(options: argparse.Namespace) -> list[benchmark.Contender]:
    pythons = {}
    for text in options.rival_python:
        name, equals, python = text.partition("=")
        if not equals:
            raise ValueError(f"--rival-python {text}: write NAME=PYTHON")
        pythons[name] = python
    return find_rivals([*options.rival, *(["auto"] if options.rivals == "auto" else [])], pythons)


def publish(report: benchmark.Report, out: Path) -> None:
    """Writes `benchmark.json`, `ratios.md` and, where cohorts of several sizes were run, `cohorts.png`."""
    report.save(out / "benchmark.json")
    files.write(out / "ratios.md", report.markdown().encode())
    if any(row.workload.startswith("cohort_") and row.median for row in report.rows):
        benchmark.plot(report, out / "cohorts.png")
    print(f"\n{report.markdown()}\n{', '.join(sorted(path.name for path in out.iterdir()))} in {out}")


if __name__ == "__main__":
    sys.exit(main())
