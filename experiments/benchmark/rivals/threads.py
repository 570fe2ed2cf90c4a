"""How many threads PyTorch should use: more than one only slows small models down."""
# pyright: reportMissingImports=false

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

CORES = torch.get_num_threads()


def fastest(work: Callable[[], Any]) -> None:
    """Sets PyTorch to one thread or to all cores, whichever runs `work` faster; on a GPU it does not matter."""
    if torch.cuda.is_available():
        return
    seconds = {}
    for threads in {1, CORES}:
        torch.set_num_threads(threads)
        work()
        start = time.perf_counter()
        work()
        seconds[threads] = time.perf_counter() - start
    torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))


def fastest_for(module: Any, workload: dict[str, Any], steps: int = 50) -> None:
    """`fastest` for training steps of `module` on batches of the workload's images."""
    height, width, *channels = workload["shape"]
    x = torch.zeros(workload["batch_size"], *(channels or [1]), height, width)
    y = torch.zeros(len(x), dtype=torch.long)

    def work() -> None:
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(module(x), y)
            torch.autograd.grad(loss, list(module.parameters()))

    fastest(work)
