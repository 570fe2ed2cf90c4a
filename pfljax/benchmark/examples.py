"""The examples of a workload: random, of the right shape, the same for every contender.

Imports NumPy only: the worker loads this file in interpreters without pfljax.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Clients = list[tuple[np.ndarray, np.ndarray]]


def arrays(workload: dict[str, Any]) -> Clients:
    """`(x uint8 [n, *shape], y int64 [n])` of each client; tokens of a text model lie below its vocabulary.

    The arrays of all clients are neighbours in one block of memory.
    """
    count, generator = sizes(workload), np.random.default_rng(workload["seed"])
    levels = workload["classes"] if workload["model"] == "char_lstm" else 256
    x = generator.integers(0, levels, (count.sum(), *workload["shape"]), np.uint8)
    y = generator.integers(0, workload["classes"], count.sum())
    ends = np.cumsum(count)
    return [(x[end - n : end], y[end - n : end]) for end, n in zip(ends, count, strict=True)]


def sizes(workload: dict[str, Any]) -> np.ndarray:
    """[N] examples of each client, from the workload's `sizes`:

    - `{"kind": "equal", "examples": n}`;
    - `{"kind": "power_law", "mean": m, "exponent": s}`: in proportion to `i^-s`, in random order;
    - `{"kind": "dirichlet", "mean": m, "alpha": a}`: each of the classes dealt in shares drawn from Dirichlet(a);
    - `{"kind": "balanced", "of": sizes}`: whole batches, as many in all as with those sizes, dealt evenly.

    Every client has at least one example.

    Raises:
      ValueError: for another kind.
    """
    return _sizes(workload["sizes"], workload)


def _sizes(spec: dict[str, Any], workload: dict[str, Any]) -> np.ndarray:
    clients, generator = workload["clients"], np.random.default_rng(workload["seed"])
    if spec["kind"] == "equal":
        return np.full(clients, spec["examples"])
    if spec["kind"] == "balanced":
        batches = -(-_sizes(spec["of"], workload) // workload["batch_size"]).sum()
        return workload["batch_size"] * (batches // clients + (np.arange(clients) < batches % clients))
    if spec["kind"] == "power_law":
        shares = generator.permutation(np.arange(1.0, clients + 1) ** -spec["exponent"])
    elif spec["kind"] == "dirichlet":
        shares = generator.dirichlet(np.full(clients, spec["alpha"]), workload["classes"]).sum(axis=0)
    else:
        raise ValueError(f"sizes of kind {spec['kind']!r}: choose equal, power_law, dirichlet or balanced")
    return np.maximum(1, np.round(spec["mean"] * clients * shares / shares.sum()).astype(int))


def client_steps(workload: dict[str, Any]) -> float:
    """Local steps of a round over the whole cohort; the mean over cohorts where sizes differ."""
    steps = -(-sizes(workload) // workload["batch_size"]) * workload["epochs"]
    return float(workload["cohort"] * steps.mean())
