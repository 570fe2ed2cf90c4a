"""Optimizer states that a client keeps from one of its rounds to the next."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.federation.skeletons import Both, keeping
from pfljax.learning.memory import Memory, Remembered
from pfljax.types import Algorithm, Array, ClientData, Reply, Tree


@checks.by_hints()
def persistent(build: Callable[[Memory | None], Algorithm], data: FederatedData) -> Algorithm:
    """A method whose solvers go on with the optimizer states that they left in the client's last round.

    Momentum, the moments of Adam and the counts of a schedule outlive the round, in solvers that are made with the
    memory. Onboarding and the training of `personalize` begin afresh.

    Args:
      build: `memory ->` the algorithm, whose solvers get the memory: `lambda memory: fedavg(task, descent(optimizer,
        plan, memory))`.
      data: the federation that trains, for its shapes.

    Returns:
      An algorithm whose clients keep these states beside what they kept: of SGD with momentum as much as is trained, of
      Adam twice that. A client begins with fresh states, and goes on with those of the last round in which it replied.

    Raises:
      ValueError: if a method calls such a solver in a loop.

    Deviations from the source: it is an option of any method; papers restart the optimizer in each round unless they
    say otherwise, as Sattler et al. do, "Clustered Federated Learning", 2020 (authors' code).

    Without a pause it is descent with momentum in one piece, `v <- 0.5 v + (w - 8)`, `w <- w - v / 4`:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[8.0])
    >>> heavy, step = optax.sgd(0.25, momentum=0.5), plans.full_batch(1, 1)
    >>> kept = persistent(lambda memory: algorithms.fedavg(task, local.descent(heavy, step, memory)), data)
    >>> [quadratics.deployed(kept, task, data, rounds)["w"][0] for rounds in (1, 2, 3)]
    [2.0, 4.5, 6.625]
    """

    def remembering(before: Remembered | None, *args: Tree) -> tuple[Reply, tuple[Tree, ...]]:
        memory = Memory(before)
        return build(memory).client_update(*args), memory.states

    def start(download: Tree, client: Tree, key: Array) -> Remembered:
        shapes = jax.eval_shape(lambda data: remembering(None, download, client, data.client(0), key)[1], data)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return Remembered(jnp.asarray(False), zeros)

    def client_update(download: Tree, kept: Both, data: ClientData, key: Array) -> Reply:
        reply, states = remembering(kept.more, download, kept.client, data, key)
        return reply._replace(client=Both(reply.client, Remembered(jnp.asarray(True), states)))

    return keeping(build(None), start, client_update)
