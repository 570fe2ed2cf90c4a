"""Runs a method through the engine, and hands the reference the batches that the engine used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data import FederatedData
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.types import Algorithm, Plan, State, Task
from tests.oracles.numpy_reference import Federation, Gradient, Rows, Tree

KEY = 7  # of every run: methods that are compared see the same draws


class Played(NamedTuple):
    """A run, in NumPy."""

    simulation: Simulation
    start: State
    state: State
    cohorts: list[list[int]]
    hyper: dict[str, Any]
    log: dict[str, np.ndarray]

    def personalized(self) -> Any:
        """Params with leaves [N, ...]."""
        return jax.device_get(self.simulation.personalized(self.state, jax.random.key(KEY), **self.hyper))


def play(
    task: Task,
    build: Algorithm | Callable[..., Algorithm],
    data: FederatedData,
    rounds: int = 1,
    *,
    cohort: int | None = None,
    begin: Callable[[State], State] = lambda state: state,
    train: FederatedData | None = None,
    **hyper: Any,
) -> Played:
    """`rounds` rounds with all clients, or with `cohort` of them drawn anew each round."""
    simulation = Simulation(task, build, data, train=train, cohort=sampling.full() if cohort is None else some(cohort))
    start = begin(simulation.init(jax.random.key(KEY + 1), **hyper))
    before = jax.device_get(start)
    state, log = simulation.run(start, jax.random.key(KEY), rounds, **hyper)
    return Played(simulation, before, jax.device_get(state), cohorts(train or data, rounds, cohort), hyper, log)


def some(size: int) -> sampling.Sampler:
    """`size` neighbours on a ring of clients, from a random one on: quicker to compile than `sampling.uniform`."""

    def sample(key: jax.Array, sizes: jax.Array) -> sampling.Draw:
        number = sizes.shape[0]
        ids = jnp.sort((jax.random.randint(key, (), 0, number) + jnp.arange(size)) % number)
        return sampling.Draw(ids, jnp.ones(size, bool), jnp.ones(size))

    return sample


def cohorts(data: FederatedData, rounds: int, cohort: int | None) -> list[list[int]]:
    """Who takes part: part of the input, like the batches."""
    if cohort is None:
        return [list(range(data.num_clients))] * rounds
    sizes = jnp.asarray(data.sizes()[: data.num_clients])
    draw = jax.jit(lambda t: some(cohort)(jax.random.fold_in(_round_key(t), 0), sizes).ids)
    return [[int(i) for i in np.asarray(draw(t))] for t in range(rounds)]


def _round_key(t: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.key(KEY), t)


def _client_key(t: Any, i: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(_round_key(t), 1), i)


def federate(
    data: FederatedData,
    plans: Plan | Sequence[Plan],
    gradient: Gradient,
    loss: Callable[[Tree, Rows], float],
    cohorts: Sequence[Sequence[int]],
) -> Federation:
    """What the loops need; `plans` has one plan for each phase."""
    plans = [plans] if isinstance(plans, Plan) else list(plans)
    ids = range(data.num_clients)
    steps = [[int(plan.steps(data.client(i))) for i in ids] for plan in plans]

    def visited(phase: int) -> Callable[..., Any]:
        def batches(i: Any, t: Any) -> Any:
            key = jax.random.fold_in(_client_key(t, i), phase)
            return jax.vmap(lambda step: plans[phase].batch(data.client(i), key, step))(
                jnp.arange(max(steps[phase]), dtype=jnp.int32)
            )

        return jax.jit(batches)

    programs = [visited(phase) for phase in range(len(plans))]

    def batches(t: int, i: int, phase: int) -> list[Rows]:
        if not steps[phase][i]:
            return []
        stacked = jax.device_get(programs[phase](i, t))
        rows = []
        for k in range(steps[phase][i]):
            batch = jax.tree.map(lambda leaf, k=k: leaf[k], stacked)
            counts = batch.mask > 0
            assert counts.any()
            rows.append((jax.tree.map(lambda leaf, counts=counts: leaf[counts], batch.x), batch.y[counts]))
        return rows

    def own(i: int) -> Rows:
        part = slice(int(data.train.start[i]), int(data.train.start[i] + data.train.size[i]))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[part], tuple(data.examples))

    return Federation(gradient, loss, batches, cohorts, [own(i) for i in ids])


def rows(tree: Any, count: int) -> list[Tree]:
    """Leaves [N, ...] as N flat dicts without the leaves that are not there."""
    return [{name: leaf[i] for name, leaf in tree.items() if leaf is not None} for i in range(count)]


def assert_trees_close(actual: Tree, desired: Tree, atol: float = 1e-12) -> None:
    """Leaf by leaf; the same names, apart from leaves that are None."""
    actual = {name: leaf for name, leaf in actual.items() if leaf is not None}
    assert actual.keys() == desired.keys()
    for name in desired:
        np.testing.assert_allclose(actual[name], desired[name], rtol=0, atol=atol, err_msg=name)


def assert_bitwise(actual: Any, desired: Any) -> None:
    """The same leaves, bit for bit."""
    assert jax.tree.structure(actual) == jax.tree.structure(desired)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(desired), strict=True):
        np.testing.assert_array_equal(a, b)
