"""Which way to compute a convolution and its gradients is fastest here: milliseconds a client-step of each variant.

python -m experiments.layers --clients=8
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

import pfljax as pfl
from pfljax.models.kernels.convolve import VARIANTS, convolve
from pfljax.types import Array

LAYERS = {
    "cnn, first": ((28, 28, 1), (5, 5, 1, 32), 1, "VALID"),
    "cnn, second": ((12, 12, 32), (5, 5, 32, 64), 1, "VALID"),
    "resnet8, stem": ((32, 32, 3), (3, 3, 3, 16), 1, "SAME"),
    "resnet8, stage 1": ((32, 32, 16), (3, 3, 16, 16), 1, "SAME"),
    "resnet8, stage 3": ((8, 8, 64), (3, 3, 64, 64), 1, "SAME"),
    "resnet18, halving": ((16, 16, 128), (3, 3, 128, 256), 2, "SAME"),
    "resnet18, shortcut": ((16, 16, 128), (1, 1, 128, 256), 2, "SAME"),
    "mobilenet, depthwise": ((16, 16, 128), (3, 3, 1, 128), 1, "SAME"),
    "mobilenet, pointwise": ((16, 16, 128), (1, 1, 128, 128), 1, "SAME"),
    "resnext, 32 groups": ((8, 8, 128), (3, 3, 4, 128), 1, "SAME"),
}
"""Name -> (image, kernel, stride, padding)."""


def step(name: str, clients: int, batch: int, repeats: int) -> tuple[Callable[..., Array], tuple[Array, Array]]:
    """`repeats` gradient steps of all clients on one layer, and their arguments; one client is not vmapped."""
    image, kernel, stride, padding = LAYERS[name]
    groups = image[-1] // kernel[-2]

    def train(x: Array, k: Array) -> Array:
        def loss(x: Array, k: Array) -> Array:
            numbers = ("NHWC", "HWIO", "NHWC")
            steps = (stride, stride)
            out = convolve(x, k, steps, padding, dimension_numbers=numbers, feature_group_count=groups)
            return jnp.mean(out**2)

        def move(_: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
            return jax.tree.map(lambda a, g: a - 0.01 * g, pair, jax.grad(loss, (0, 1))(*pair))

        x, k = jax.lax.fori_loop(0, repeats, move, (x, k))
        return k + x.ravel()[0]

    lead = (clients,) if clients > 1 else ()
    arguments = (jnp.ones((*lead, batch, *image)), jnp.full((*lead, *kernel), 0.1))
    return (jax.vmap(train) if lead else train), arguments


def measure(name: str, clients: int, batch: int, repeats: int) -> dict[str, float]:
    """Milliseconds a client-step of each variant: medians of five runs, interleaved."""
    programs = {}
    for variant in VARIANTS:
        os.environ["PFLJAX_CONVOLUTION"] = variant
        jax.clear_caches()
        function, arguments = step(name, clients, batch, repeats)
        programs[variant] = (jax.jit(function).lower(*arguments).compile(), arguments)
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(6):
        for variant, (program, arguments) in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            seconds[variant].append(time.perf_counter() - start)
    return {v: 1e3 * statistics.median(times[1:]) / repeats / clients for v, times in seconds.items()}


def main() -> int:
    """Reads the command line and prints the table."""
    parser = argparse.ArgumentParser(description="The variants of a convolution on this machine.")
    parser.add_argument("--clients", type=int, default=1, help="clients under vmap")
    parser.add_argument("--batch", type=int, default=10, help="examples a step")
    parser.add_argument("--repeats", type=int, default=5, help="steps in one program")
    parser.add_argument("--layers", nargs="*", choices=list(LAYERS), default=list(LAYERS), metavar="LAYER")
    options = parser.parse_args()
    pfl.configure()
    title = f"ms a client-step on {jax.default_backend()}, {options.clients} clients, batch {options.batch}"
    table = Table("layer", *VARIANTS, "fastest", title=title)
    for name in options.layers:
        times = measure(name, options.clients, options.batch, options.repeats)
        table.add_row(name, *(f"{t:.2f}" for t in times.values()), min(times, key=lambda v: times[v]))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
