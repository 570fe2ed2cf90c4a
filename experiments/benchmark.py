"""The benchmark for the README: a table of ratios, every number as JSON, and a figure of cohort sizes.

python -m experiments.benchmark --out=runs/benchmark --rival pytorch --rival pfllib=PATH/TO/PFLlib
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pfljax import benchmark, cli, files


def main() -> int:
    """Reads the command line: that of `pfljax bench`, and a folder."""
    parser = argparse.ArgumentParser(description="The benchmark for the README.")
    parser.add_argument(
        "--out", type=files.named, default=Path("runs/benchmark"), help="folder for table, figure and numbers"
    )
    benchmark.add_arguments(parser, default="default")
    options = parser.parse_args()

    def program() -> None:
        report = benchmark.from_command_line(options)
        if report is not None:
            publish(report, options.out)

    return cli.guarded(program)


def publish(report: benchmark.Report, out: Path) -> None:
    """Writes `benchmark.json`, `ratios.md` and, where cohorts of several sizes were run, `cohorts.png`."""
    report.save(out / "benchmark.json")
    files.write(out / "ratios.md", report.markdown().encode())
    if any(row.workload.startswith("cohort_") and row.median for row in report.rows):
        benchmark.plot(report, out / "cohorts.png")
    print(f"\n{report.markdown()}\n{', '.join(sorted(path.name for path in out.iterdir()))} in {out}")


if __name__ == "__main__":
    sys.exit(main())
