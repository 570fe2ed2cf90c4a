"""The benchmark: named workloads, timed in turn with the machine itself, and with other simulators where there are any.

    from pfljax import benchmark
    report = benchmark.run(["mlp", "cnn"], repeats=3)
    rich.print(report.table())

On the command line: `pfljax bench`. `compare` runs this checkout against another one.
"""

from pfljax.benchmark.command import add_arguments, from_command_line, print_report
from pfljax.benchmark.contender import Contender
from pfljax.benchmark.figure import plot
from pfljax.benchmark.paired import Paired, Ratio, compare
from pfljax.benchmark.report import Report, Slower
from pfljax.benchmark.rows import Row
from pfljax.benchmark.runner import run
from pfljax.benchmark.targets import TARGETS, Target, over
from pfljax.benchmark.workloads import WORKLOADS, Workload, select

__all__ = [
    "TARGETS",
    "WORKLOADS",
    "Contender",
    "Paired",
    "Ratio",
    "Report",
    "Row",
    "Slower",
    "Target",
    "Workload",
    "add_arguments",
    "compare",
    "from_command_line",
    "over",
    "plot",
    "print_report",
    "run",
    "select",
]
