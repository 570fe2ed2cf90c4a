"""Optimizer states that outlive a round: what a client's solvers leave for its next one."""

from __future__ import annotations

from typing import NamedTuple

from flax.core import tracers

from pfljax import tree
from pfljax.types import Array, Tree


class Remembered(NamedTuple):
    """What a client keeps from one round to the next."""

    started: Array  # [] bool: whether there was one before
    states: tuple[Tree, ...]  # of each solver call of the round, in their order


class Memory:
    """The optimizer states of one client's round: those that it finds, and those that it leaves.

    >>> import jax.numpy as jnp
    >>> memory = Memory(Remembered(jnp.asarray(True), (jnp.asarray(3.0),)))
    >>> memory.keep(memory.recalled(jnp.asarray(0.0)) + 1)
    >>> memory.states[0].item()
    4.0
    """

    def __init__(self, before: Remembered | None = None):
        self.states: tuple[Tree, ...] = ()
        self._before, self._trace = before, tracers.current_trace()

    def recalled(self, fresh: Tree) -> Tree:
        """The state with which the next call begins: that of the round before, `fresh` if there was none."""
        if self._before is None:
            return fresh
        return tree.where(self._before.started, self._before.states[len(self.states)], fresh)

    def keep(self, state: Tree) -> None:
        """Leaves a state for the next round.

        Raises:
          ValueError: if the solver is called in a loop of the method, or under another transformation.
        """
        if tracers.current_trace() != self._trace:
            raise ValueError(
                "a solver whose optimizer state persists is called in a loop of this method, and one state cannot "
                "serve all its turns: leave persistent out"
            )
        self.states += (state,)
