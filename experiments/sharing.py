"""What should be personal: layers from the top, an embedding of each client, adapters; and features that keep a secret.

python -m experiments.sharing --out=runs/sharing
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import pfljax as pfl
from pfljax import cli, experiment, files
from pfljax.experiment import Config

CONFIG = Path(__file__).parent.parent / "configs" / "sharing.py"

CASES: dict[str, dict[str, Any]] = {
    "local_only": {"algorithm.name": "local_only"},
    "top_0": {"algorithm.personal": 0},  # FedAvg
    "top_1": {"algorithm.personal": 1},
    "top_2": {"algorithm.personal": 2},
    "top_3": {"algorithm.personal": 3},  # each client alone
    "head_first": {"algorithm.head_first": True},
    "linear_body": {"model.linear": True},
    "lg_fedavg": {"algorithm.name": "lg_fedavg"},
    "vector": {"model.vector": 8, "algorithm.personal": "vector"},
    "bottleneck": {"model.bottleneck": 4, "algorithm.personal": ("bottleneck_0", "bottleneck_1")},
    "low_rank": {"model.low_rank": 4, "algorithm.personal": ("low_rank_0", "low_rank_1")},
}
"""Name -> what is changed of the configuration; `top_K` is FedPer's split depth K_P."""


def sharing(config: Config) -> pfl.Comparison:
    """Runs every case on the same data."""
    data = experiment.load_data(config.data)
    cases = {
        name: experiment.from_config_dict(experiment.overridden(config.to_dict(), changes))
        for name, changes in CASES.items()
    }
    return pfl.Comparison({name: experiment.run(case, data=data, progress=True) for name, case in cases.items()})


def inverted(share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The digits, some of them white on black and some black on white, which is their secret."""
    digits = pfl.load("digits")
    x = np.asarray(digits.x)
    return np.where((np.random.default_rng(0).random(len(x)) < share)[:, None, None, None], 255 - x, x), digits.y


def secret(x: Any) -> Any:
    """Whether an image is inverted: its upper left corner says so."""
    return (x[:, 0, 0, 0] > 127).astype("int32")


def invariance(config: Config, lam: float) -> tuple[float, float]:
    """LG-FedAvg against an adversary: mean test accuracy of the clients, and of a probe that reads the secret.

    The probe is a logistic regression on the features of a client's training examples, tried on those of its test.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = inverted()
    section = config.data or experiment.Config().data
    deal = experiment.PARTITIONS[section.partition.name](**section.partition.options)
    data = pfl.federate(pfl.from_arrays(x, y, name="inverted digits"), deal, test=section.test, seed=section.seed)
    model = pfl.models.mlp(x.shape[1:], 10, hidden=(64, 32))
    adversary = pfl.models.mlp(model.features_shape, 2, hidden=(16,))
    task = pfl.tasks.invariant(pfl.classification(model), model, adversary, secret, lam=lam)
    solve = pfl.descent(optax.sgd(config.local.lr), pfl.epochs(config.local.epochs, config.local.batch_size))
    shared = pfl.masks.union(pfl.masks.head(model), pfl.masks.named("adversary"))
    method = pfl.algorithms.lg_fedavg(task, solve, shared)
    result = pfl.simulate(task, method, data, rounds=config.run.rounds, eval_every=config.run.rounds)

    def read(number: int) -> float:
        params = result.models[number].params
        z, told = {}, {}
        for split in ("train", "test"):
            rows = getattr(data, split)
            own = x_of(data, slice(rows.start[number], rows.start[number] + rows.size[number]))
            z[split], told[split] = np.asarray(model.features(params, own)[0]), secret(own)
        return LogisticRegression(max_iter=1000).fit(z["train"], told["train"]).score(z["test"], told["test"])

    probed = np.mean([read(number) for number in range(data.num_clients)])
    return float(result.clients().mean()), float(probed)


def x_of(data: pfl.FederatedData, rows: slice) -> Any:
    """Inputs of some rows."""
    return np.asarray(data.examples.x[rows])


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="What should be personal, on digits.")
    parser.add_argument("--out", type=files.named, default=Path("runs/sharing"), help="folder for results")
    parser.add_argument("--rounds", type=int, help="of each run; as the configuration has it if left out")
    options = parser.parse_args()
    return cli.guarded(lambda: report(options.out, options.rounds))


def report(out: Path, rounds: int | None = None) -> None:
    """Runs all, prints two tables, and writes the results to `out`."""
    config, console = cli.read_config(str(CONFIG)), Console()
    if rounds is not None:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, rounds=rounds))
    comparison = sharing(config)
    comparison.save(out, replace=True)
    console.print(comparison.table())
    table = Table("lam", "accuracy", "of a probe for the secret", title="LG-FedAvg against an adversary, percent")
    for lam in (0.0, 1.0):
        table.add_row(f"{lam:g}", *(f"{100 * score:.1f}" for score in invariance(config, lam)))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
