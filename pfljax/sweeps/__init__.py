"""Sweeps: many points of one experiment, a compiled program for each group of them, a ledger of how they ended.

    swept = pfljax.sweep(config, {"local.lr": [0.01, 0.1], "run.seed": range(5)}, "runs/swept")
    print(swept)

On the command line: `pfljax sweep`.
"""

from pfljax.sweeps import spaces
from pfljax.sweeps.cluster import slurm
from pfljax.sweeps.command import add_arguments, from_command_line, print_sweep
from pfljax.sweeps.ensembles import Ensembles
from pfljax.sweeps.ledger import Ledger, Outcome
from pfljax.sweeps.outcomes import Estimate, Standing, Sweep, estimate, spell_counts
from pfljax.sweeps.points import Point, by_group, deal, lay_out
from pfljax.sweeps.runner import is_sweep, load, merge, resume, sweep
from pfljax.sweeps.search import optimize

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
