"""The demo: seven methods on real handwritten digits, with a table and a figure.

python -m experiments.demo --out=runs/demo
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from pfljax import cli, experiment, files
from pfljax.results import plots

METHODS = ("local_only", "fedavg", "fedavg_finetuned", "fedper", "per_fedavg", "pfedme", "ditto")
CONFIG = Path(__file__).parent.parent / "configs" / "digits_quickstart.py"


def demo(out: Path) -> None:
    """Compares `METHODS` and writes the results to `out`, over those of an earlier demo."""
    console, start = Console(), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    config = cli.read_config(str(CONFIG))
    data = experiment.load_data(config.data).describe()
    console.print(
        f"{data['train_examples']} training images on {data['clients']} clients, who have seen "
        f"{data['labels_per_client']:.1f} of {data['classes']} digits on average",
        highlight=False,
    )
    comparison = experiment.compare_methods(config, METHODS, progress=True)
    comparison.save(out, replace=True)
    figure = plots.save(comparison, out / "comparison.png")
    console.print(comparison.table())
    console.print(f"{time.perf_counter() - start:.0f} s in all; figure: {figure}", highlight=False, soft_wrap=True)


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Seven methods on real handwritten digits.")
    parser.add_argument("--out", type=files.named, default=Path("runs/demo"), help="folder for results")
    options = parser.parse_args()
    return cli.guarded(lambda: demo(options.out))


if __name__ == "__main__":
    sys.exit(main())
