"""Is the advice of `pfljax data describe` any good? Methods run on digits that differ in one way each, beside it.

python -m experiments.advice --rounds=40 --seeds=3
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
from rich.console import Console

import pfljax as pfl
from pfljax import cli
from pfljax.data import FederatedData, shifted
from pfljax.data.advice import advise

METHODS = ("fedavg", "fedavg_finetuned", "fedrod", "ditto", "fedrep", "ifca", "local_only")


def federations() -> dict[str, FederatedData]:
    """By what makes clients differ."""
    digits = pfl.load("digits")
    alike, ten = pfl.federate(digits, pfl.iid(20)), pfl.federate(digits, pfl.iid(10))
    return {
        "nothing": alike,
        "labels, Dirichlet 0.1": pfl.federate(digits, pfl.dirichlet(20, 0.1)),
        "labels, two classes": pfl.federate(digits, pfl.classes_per_client(20, 2)),
        "inputs, four rotations": shifted(alike, "rotation", [0, 90, 180, 270], spread="turns"),
        "names of classes, two groups": shifted(alike, "roll", [0, 3]),
        "names of classes, all others": shifted(ten, "permutation", np.arange(10), spread="each"),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    def compare() -> None:
        for name, data in federations().items():
            runs = pfl.compare(
                data, "mlp", METHODS, rounds=options.rounds, seeds=range(options.seeds), local={"lr": 0.1}
            )
            Console().print(f"clients differ in {name}; the advice:", highlight=False)
            Console().print(str(advise(data)), runs.table(), highlight=False)

    return cli.guarded(compare)


if __name__ == "__main__":
    sys.exit(main())
