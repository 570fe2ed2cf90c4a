"""Cases of one experiment: what is changed of its configuration, by name; and its command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pfljax as pfl
from pfljax import cli, experiment, files
from pfljax.experiment import Config


def main(about: str, out: str, report: Callable[[Path, int | None], None]) -> int:
    """Reads the command line of an experiment and runs it.

    Args:
      about: what it is, for the help.
      out: the usual folder for results.
      report: `(folder for results, rounds or None)`: runs all and prints tables.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=files.named, default=Path(out), help="folder for results")
    parser.add_argument("--rounds", type=int, help="of each run; as the configuration has it if left out")
    options = parser.parse_args()
    return cli.guarded(lambda: report(options.out, options.rounds))


def read(path: Path, rounds: int | None) -> Config:
    """The configuration of a file, with other rounds unless None."""
    config = cli.read_config(str(path))
    return config if rounds is None else dataclasses.replace(config, run=dataclasses.replace(config.run, rounds=rounds))


def compared(config: Config, cases: Mapping[str, Mapping[str, Any]], data: pfl.FederatedData) -> pfl.Comparison:
    """Runs every case on the same data."""
    read = {
        name: experiment.from_config_dict(experiment.overridden(config.to_dict(), changes))
        for name, changes in cases.items()
    }
    return pfl.Comparison({name: experiment.run(case, data=data, progress=True) for name, case in read.items()})
