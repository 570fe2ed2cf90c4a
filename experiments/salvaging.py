"""Salvaging: a model is federated, plainly or under defences that cost accuracy, and then each client adapts it.

python -m experiments.salvaging --out=runs/salvaging
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import pfljax as pfl
from experiments import cases
from pfljax import experiment

CONFIG = Path(__file__).parent.parent / "configs" / "salvaging.py"

FEDERATIONS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "private": {"wrappers.clip": 1.0, "wrappers.noise": 0.6},
    "median": {"wrappers.reduce": "median"},
}
"""How the common model comes about."""

ADAPTATIONS: dict[str, dict[str, Any]] = {
    "finetuned": {"algorithm.name": "fedavg_finetuned"},
    "frozen": {"algorithm.name": "fedavg_finetuned", "algorithm.tuned": "head"},
    "distilled": {"algorithm.name": "fedavg_distilled"},
    "ewc": {"algorithm.name": "fedavg_ewc"},
}
"""What clients do with it: all of it trained, its head alone, with it as a teacher, or each weight held as it mattered
(the paper's multi-task learning)."""

CASES: dict[str, dict[str, Any]] = {"local_only": {"algorithm.name": "local_only"}} | {
    f"{federation}{adaptation and '_'}{adaptation}": defence | adapted
    for federation, defence in FEDERATIONS.items()
    for adaptation, adapted in {"": {"algorithm.name": "fedavg"}, **ADAPTATIONS}.items()
}
"""Name -> what is changed of the configuration."""

COLUMNS = ("mean", "bottom_decile", "worst", "better_off", "better_than_global")


def gains(comparison: pfl.Comparison, diversity: np.ndarray) -> dict[str, tuple[float, float]]:
    """What an adaptation gives on average to clients of few classes, and to the others.

    Args:
      comparison: of some of `CASES`.
      diversity: [N] how many classes each client has; few are those up to the median.
    """
    few, found = diversity <= np.median(diversity), {}
    for name in comparison:
        federation, _, adaptation = name.partition("_")
        if adaptation in ADAPTATIONS and federation in comparison:
            gain = comparison[name].clients() - comparison[federation].clients()
            found[name] = float(np.nanmean(gain[few])), float(np.nanmean(gain[~few]))
    return found


def main() -> int:
    """Reads the command line."""
    return cases.main("Who gains by adapting a common model, on digits.", "runs/salvaging", report)


def report(out: Path, rounds: int | None = None) -> None:
    """Runs all, prints two tables, and writes the results to `out`."""
    config, console = cases.read(CONFIG, rounds), Console()
    data = experiment.load_data(config.data)
    comparison = cases.compared(config, CASES, data)
    comparison.save(out, replace=True)
    console.print(comparison.table(COLUMNS))
    diversity = (data.label_counts()[: data.num_clients] > 0).sum(axis=1)
    table = Table("case", "few classes", "more", title="Mean gain by adaptation, points of accuracy")
    for name, gain in gains(comparison, diversity).items():
        table.add_row(name, *(f"{100 * points:+.1f}" for points in gain))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
