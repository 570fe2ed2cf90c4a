"""Sweeps: many points of one experiment, a compiled program for each group of them, a ledger of how they ended.

    swept = pfljax.sweep(config, {"local.lr": [0.01, 0.1], "run.seed": range(5)}, "runs/swept")
    print(swept)

On the command line: `pfljax sweep`.
"""

from pfljax.experiment.sweeps import spaces
from pfljax.experiment.sweeps.cluster import slurm
from pfljax.experiment.sweeps.command import add_arguments, from_command_line, print_sweep
from pfljax.experiment.sweeps.ensembles import Ensembles
from pfljax.experiment.sweeps.ledger import Ledger, Outcome
from pfljax.experiment.sweeps.outcomes import Standing, Sweep, spell_counts
from pfljax.experiment.sweeps.points import Point, by_group, deal, lay_out
from pfljax.experiment.sweeps.runner import is_sweep, load, merge, resume, sweep
from pfljax.experiment.sweeps.search import optimize
from pfljax.results.statistics import Estimate, estimate

__all__ = [
    "Ensembles",
    "Estimate",
    "Ledger",
    "Outcome",
    "Point",
    "Standing",
    "Sweep",
    "add_arguments",
    "by_group",
    "deal",
    "estimate",
    "from_command_line",
    "is_sweep",
    "lay_out",
    "load",
    "merge",
    "optimize",
    "print_sweep",
    "resume",
    "slurm",
    "spaces",
    "spell_counts",
    "sweep",
]
