"""A method on a federation and on devices: what its programs are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.engine.memory import Shortage
from pfljax.engine.mesh import Device
from pfljax.engine.programs import Programs
from pfljax.engine.rounds import Rounds
from pfljax.federation import kinds
from pfljax.learning import schedules
from pfljax.types import Algorithm, Array, State, Tree

Build = Algorithm | Callable[..., Algorithm]
"""An algorithm, or what makes one from hyperparameters `**hyper`, which are then traced."""

Hyper: TypeAlias = Any
"""A hyperparameter: a number, or a function of the round."""

Traced = dict[str, Tree]
"""Hyperparameters by name, their numbers as arrays."""


def traced(hyper: Mapping[str, Hyper]) -> Traced:
    """Hyperparameters as trees of arrays.

    Raises:
      ValueError: if one is neither a finite number nor a schedule.
    """
    for name, value in hyper.items():
        if not callable(value) and not isinstance(value, Array):
            checks.value(value, float, name)
    return {name: schedules.traced(value) for name, value in hyper.items()}


@dataclass
class Site:
    """What every program of a simulation reads.

    Args:
      build: an algorithm, or what makes one.
      data: the federation that is evaluated.
      train: the federation that trains.
      rounds: the rounds; fewer clients at once where the memory is short.
      devices: of this process.
      kinds: [N + U] the kind of each client.
      everywhere, spread: where a copy on each device goes, and rows that the devices share.
      flexible: whether fewer clients at once may be tried.
    """

    build: Build
    data: FederatedData
    train: FederatedData
    rounds: Rounds
    devices: Sequence[Device]
    kinds: np.ndarray
    everywhere: Sharding
    spread: Sharding
    flexible: bool

    def __post_init__(self) -> None:
        self.programs = Programs(self.devices, self._shrink)

    def algorithm(self, hyper: Traced, number: Array | int = 0) -> Algorithm:
        """The algorithm of round `number`.

        Raises:
          ValueError: if the hyperparameters are not those that make it.
        """
        if not isinstance(self.build, Algorithm):
            made = checks.spelled()(self.build)(**schedules.at(hyper, number))
            return kinds.check(made, len(self.rounds.tasks))
        if hyper:
            raise ValueError(
                f"hyper={', '.join(hyper)}: an Algorithm has its numbers already; to trace them give a function, such "
                "as lambda lam: pfl.algorithms.ditto(task, local, local, lam=lam)"
            )
        return kinds.check(self.build, len(self.rounds.tasks))

    def members(self, *, unseen: bool = False) -> list[np.ndarray]:
        """The ids of the clients of each kind, as `Rounds.members`."""
        train, everybody = self.train.num_clients, self.data.num_clients + self.data.num_unseen
        ids = np.arange(self.data.num_clients, everybody) if unseen else np.arange(train)
        return [ids[self.kinds[ids] == kind] for kind in range(len(self.rounds.tasks))]

    def deployed(self, hyper: Traced, number: Array) -> Algorithm:
        """The algorithm that models are deployed by after `number` rounds: that of the last of them."""
        return self.algorithm(hyper, jnp.maximum(number - 1, 0))

    def places(self, ids: np.ndarray, kind: int) -> np.ndarray:
        """The rows of the clients `ids` [n] of a kind among the states of their kind."""
        return np.searchsorted(self.members()[kind], ids)

    def placement(self) -> Any:
        """The shardings of a state: client rows are spread over the devices if their number allows it."""
        even = all(len(ids) % len(self.everywhere.device_set) == 0 for ids in self.members())
        spread = self.spread if even else self.everywhere
        shardings: Any = self.everywhere, spread, self.everywhere, self.everywhere
        return State(*shardings)

    def placed(self, state: State) -> State:
        """`state` where the programs expect it."""
        return State(*(jax.device_put(part, where) for part, where in zip(state, self.placement(), strict=True)))

    def row(self, hyper: Traced, kind: int = 0) -> Tree:
        """Shapes of the state of one client of a kind."""

        def first(key: Array, hyper: Traced) -> Tree:
            algorithm = self.algorithm(hyper)
            server = self.rounds.server(algorithm, key, self.train.num_clients)
            return self.rounds.clients(algorithm, server, jnp.zeros(1, int), key, kind)

        rows = jax.eval_shape(first, jax.random.key(0), hyper)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)

    def _shrink(self, lacking: Shortage) -> None:
        """Takes fewer clients at once where the user left that open."""
        blocks = self.rounds.blocks
        fitting = tuple(max(1, block * lacking.free // lacking.need) for block in blocks)
        if self.flexible and fitting < blocks:
            self.rounds = dataclasses.replace(self.rounds, blocks=fitting)
            return
        remedy = f"executor={min(fitting)}" if fitting < blocks else "a smaller model or fewer clients"
        raise MemoryError(
            f"the run needs about {lacking.need / 1e9:.1f} GB and {lacking.free / 1e9:.1f} GB are free: try {remedy}"
        )
