"""Cases of one experiment: what is changed of its configuration, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pfljax as pfl
from pfljax import experiment
from pfljax.experiment import Config


def compared(config: Config, cases: Mapping[str, Mapping[str, Any]], data: pfl.FederatedData) -> pfl.Comparison:
    """Runs every case on the same data."""
    read = {
        name: experiment.from_config_dict(experiment.overridden(config.to_dict(), changes))
        for name, changes in cases.items()
    }
    return pfl.Comparison({name: experiment.run(case, data=data, progress=True) for name, case in read.items()})
