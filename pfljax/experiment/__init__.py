"""Configurations, and the runs, comparisons and sweeps that they describe."""

from pfljax.experiment.build import hyperparameters, load_data, prepare
from pfljax.experiment.changes import check_effect, overridden
from pfljax.experiment.config import PARTITIONS, SOLVED, Choice, Config, RunConfig, from_config_dict
from pfljax.experiment.runs import compare, run
from pfljax.experiment.studies import compare_methods, resume

__all__ = [
    "PARTITIONS",
    "SOLVED",
    "Choice",
    "Config",
    "RunConfig",
    "check_effect",
    "compare",
    "compare_methods",
    "from_config_dict",
    "hyperparameters",
    "load_data",
    "overridden",
    "prepare",
    "resume",
    "run",
]
