"""What should be personal: layers from the top, an embedding of each client, adapters; and features that keep a secret.

python -m experiments.sharing --out=runs/sharing
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import pfljax as pfl
from experiments import cases
from pfljax import experiment
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


def inverted(share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The digits, some of them white on black and some black on white, which is their secret."""
    digits = pfl.load("digits")
    x = np.asarray(digits.x)
    return np.where((np.random.default_rng(0).random(len(x)) < share)[:, None, None, None], 255 - x, x), digits.y


def secret(x: Any) -> Any:
    """Whether an image is inverted: its upper left corner says so."""
    return (x[:, 0, 0, 0] > 127).astype("int32")


def invariance(config: Config, lam: float) -> tuple[float, float, float]:
    """LG-FedAvg against an adversary: mean accuracy of the clients, of their adversaries, and of probes.

    All on test examples. A probe is a logistic regression on the features of the client's training examples: what it
    reads that the adversary does not is hidden from the one and still there.
    """
    from sklearn.linear_model import LogisticRegression

    x, y = inverted()
    section: Any = config.data
    deal = experiment.PARTITIONS[section.partition.name](**section.partition.options)
    data = pfl.federate(pfl.from_arrays(x, y, name="inverted digits"), deal, test=section.test, seed=section.seed)
    model = pfl.models.mlp(x.shape[1:], 10, hidden=(64, 32))
    features: Any = model.features
    adversary = pfl.models.mlp(model.features_shape, 2, hidden=(16,))
    task = pfl.tasks.invariant(pfl.classification(model), model, adversary, secret, lam=lam)
    solve = pfl.descent(optax.sgd(0.05), pfl.epochs(2, batch_size=10))
    method = pfl.algorithms.lg_fedavg(task, solve, pfl.masks.head(model))
    result = pfl.simulate(task, method, data, rounds=config.run.rounds, eval_every=config.run.rounds)
    deployed: Any = result.models

    def read(number: int) -> tuple[float, float]:
        params, probe = deployed[number].params, LogisticRegression(max_iter=1000)
        inputs = [data.examples.x[start : start + size] for start, size in rows_of(data, number)]
        (z, told), (new, kept) = ((features(params, x)[0], secret(x)) for x in inputs)
        said = adversary.apply(pfl.Params(params.trainable["adversary"]), new)[0].argmax(-1)
        return float((said == kept).mean()), float(probe.fit(z, told).score(new, kept))

    misled, probed = np.mean([read(number) for number in range(data.num_clients)], axis=0)
    return float(result.clients().mean()), float(misled), float(probed)


def rows_of(data: pfl.FederatedData, number: int) -> list[tuple[int, int]]:
    """Where the training and the test examples of a client start, and how many there are."""
    return [(int(rows.start[number]), int(rows.size[number])) for rows in (data.train, data.test)]


def main() -> int:
    """Reads the command line."""
    return cases.main("What should be personal, on digits.", "runs/sharing", report)


def report(out: Path, rounds: int | None = None) -> None:
    """Runs all, prints two tables, and writes the results to `out`."""
    config, console = cases.read(CONFIG, rounds), Console()
    comparison = cases.compared(config, CASES, experiment.load_data(config.data))
    comparison.save(out, replace=True)
    console.print(comparison.table())
    table = Table("lam", "accuracy", "of the adversary", "of a probe", title="LG-FedAvg and a secret, percent")
    for lam in (0.0, 1.0):
        table.add_row(f"{lam:g}", *(f"{100 * score:.1f}" for score in invariance(config, lam)))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
