"""How many clients are trained at once: what the user says, or what suits the backend, the model and the memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax

from pfljax import checks, tree
from pfljax.engine import memory
from pfljax.engine.mesh import Device
from pfljax.types import Task

Executor = Literal["auto", "vmap", "sequential"] | checks.Count
"""All clients at once, one by one, or blocks of so many."""

# On a CPU small models gain from a few clients at once, large ones from staying in the cache.
_CPU_BLOCK, _CACHED_PARAMS = 8, 100_000
# A client in training holds its model, gradient, optimizer state, upload and activations.
_COPIES = 12


def size(executor: Executor, task: Task, clients: int, devices: Sequence[Device]) -> int:
    """Clients at once on one of the `devices`, of `clients` in all.

    `auto` on a CPU takes a few clients of a small model and one of a large one, because what stays in the cache is
    fastest; on an accelerator as many as the free memory should hold.
    """
    share = -(-clients // len(devices))
    if isinstance(executor, int):
        return executor
    if executor != "auto":
        return {"vmap": share, "sequential": 1}[executor]
    params = jax.eval_shape(task.init, jax.random.key(0)).trainable
    if devices[0].platform == "cpu":
        count = sum(leaf.size for leaf in jax.tree.leaves(params))
        return max(1, min(_CPU_BLOCK, _CACHED_PARAMS // count))
    free = memory.available(devices[0])
    return share if free is None else max(1, min(share, free // (_COPIES * tree.nbytes(params))))
