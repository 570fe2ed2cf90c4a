"""Configurations, and the runs, comparisons and sweeps that they describe."""

from pfljax.experiment.experiment import (
    PARTITIONS,
    SOLVED,
    Choice,
    Config,
    RunConfig,
    check_effect,
    compare,
    compare_methods,
    from_config_dict,
    hyperparameters,
    load_data,
    overridden,
    prepare,
    resume,
    run,
)

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
