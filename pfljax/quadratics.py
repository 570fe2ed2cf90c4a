"""Federations of parabolas, where what a method converges to is known in closed form: for examples and first tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data import FederatedData, from_clients
from pfljax.engine.simulation import Simulation
from pfljax.learning.metrics import masked_mean, mean
from pfljax.types import Algorithm, Array, Batch, Params, Task, Tree


def problem(
    *, curvatures: Sequence[float] | None = None, sizes: Sequence[int] | None = None, **centers: Sequence[Any]
) -> tuple[Task, FederatedData]:
    """Client i has `f_i(w) = a_i/2 ||w - c_i||^2`, as `sizes[i]` copies of the one example `(c_i, a_i)`.

    The copies make every minibatch of a client give the full gradient, and the client count that often in an average.

    Args:
      curvatures: a_i [N], 1 if None.
      sizes: n_i [N], 1 if None.
      **centers: for each leaf of the model its c_i, numbers [N] or rows [N, ...]: `w=[...]`, or `body=[...],
        head=[...]`. Leaves start at 0.

    Returns:
      The task, which measures `loss`, and the data.

    Raises:
      ValueError: if the lists are not equally long, or there is no center.

    >>> task, data = problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> data.sizes().tolist(), task.predict(task.init(jax.random.key(0)), data.examples.x).tolist()
    ([1, 3], [0.0, 32.0, 32.0, 32.0])
    """
    leaves = {name: np.asarray(rows, float) for name, rows in centers.items()}
    count = max(map(len, leaves.values()), default=0)
    a = np.ones(count) if curvatures is None else np.asarray(curvatures, float)
    n = np.ones(count, int) if sizes is None else np.asarray(sizes, int)
    lengths = {name: len(rows) for name, rows in leaves.items()} | {"curvatures": len(a), "sizes": len(n)}
    if count == 0 or set(lengths.values()) != {count}:
        raise ValueError(f"lengths {lengths}: give w=[...], and as many curvatures and sizes as it has clients")

    def init(key: Array) -> Params:
        del key
        return Params({name: jnp.zeros(rows.shape[1:]) for name, rows in leaves.items()})

    def predict(params: Params, x: Tree) -> Array:
        off = jax.tree.map(lambda w, c: jnp.sum((w[None] - c).reshape(len(c), -1) ** 2, 1), params.trainable, x["c"])
        return x["a"] / 2 * sum(off.values())

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        del key
        return masked_mean(predict(params, batch.x), batch.mask), params.stats

    def client(i: int) -> tuple[Tree, np.ndarray]:
        example = {"a": a[i], "c": {name: rows[i] for name, rows in leaves.items()}}
        return jax.tree.map(lambda leaf: np.repeat(leaf[None], n[i], axis=0), example), np.zeros(n[i])

    data = from_clients([client(i) for i in range(count)], name="quadratics")
    return Task(init, loss, predict, (mean("loss", lambda outputs, y: outputs),)), data


def deployed(
    algorithm: Algorithm, task: Task, data: FederatedData, rounds: int, *, digits: int = 3
) -> dict[str, list[Any]]:
    """What the clients deploy after `rounds` rounds with all of them: for each leaf a list [N], rounded to `digits`.

    >>> import optax
    >>> from pfljax import algorithms
    >>> from pfljax.learning import local, plans
    >>> task, data = problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 3))
    >>> deployed(algorithms.fedavg(task, step), task, data, rounds=50)
    {'w': [6.0, 6.0]}
    """
    simulation = Simulation(task, algorithm, data, executor="vmap")
    key = jax.random.key(0)
    state, _ = simulation.run(simulation.init(key), key, rounds)
    models = simulation.personalized(state, key).trainable
    return {name: (np.asarray(leaf, float).round(digits) + 0.0).tolist() for name, leaf in models.items()}
