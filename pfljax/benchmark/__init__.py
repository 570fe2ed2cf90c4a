"""The benchmark: named workloads, timed in turn with other simulators and with the machine itself.

    from pfljax import benchmark
    report = benchmark.run(["mlp", "cnn"], rivals=["pytorch"])
    rich.print(report.table())

On the command line: `pfljax bench`.
"""

from pfljax.benchmark.command import add_arguments, from_command_line, print_report
from pfljax.benchmark.contender import rival_names
from pfljax.benchmark.figure import plot
from pfljax.benchmark.report import Report, Slower
from pfljax.benchmark.rows import Row
from pfljax.benchmark.runner import run
from pfljax.benchmark.targets import TARGETS, Target
from pfljax.benchmark.workloads import WORKLOADS, Workload, select

__all__ = [
    "TARGETS",
    "WORKLOADS",
    "Report",
    "Row",
    "Slower",
    "Target",
    "Workload",
    "add_arguments",
    "from_command_line",
    "plot",
    "print_report",
    "rival_names",
    "run",
    "select",
]
