"""Clients of several kinds in one federation: each kind with a network of its own, all with one server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from pfljax import checks
from pfljax.types import Algorithm, Array, Tree


@checks.by_hints()
def of_kinds(algorithms: Sequence[Algorithm]) -> Algorithm:
    """One algorithm for clients of several kinds; a client's trait `kind` says which of `algorithms` it runs.

    The server is that of the first kind, and so is the reduction of the uploads. What the server holds and what clients
    send has the same leaves in all kinds, in the order of their names, which may differ: a head below another body. So
    kinds may differ in what clients keep, and in how they train.

    Args:
      algorithms: of each kind, each wrapped already where uploads are attacked, clipped or the like.

    Returns:
      An algorithm for a simulation that has a task for each kind. Its client states are a tuple of the kinds' states,
      leaves [clients of the kind, ...].

    Raises:
      ValueError: if servers have different leaves.

    Two networks, of which the second has a body too; both learn one head:

    >>> import optax
    >>> from pfljax import algorithms, masks, quadratics
    >>> from pfljax.learning import local, plans
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> (small, _), (large, _) = quadratics.problem(head=[1.0]), quadratics.problem(head=[5.0], body=[8.0])
    >>> of = [algorithms.lg_fedavg(task, step, masks.named("head")) for task in (small, large)]
    >>> len(of_kinds(of).kinds)
    2
    """
    if not algorithms:
        raise ValueError("algorithms=[]: give one for each kind")
    first = algorithms[0]
    servers = [jax.eval_shape(lambda part=part: part.init_server(jax.random.key(0), 2)) for part in algorithms]
    shapes = [[(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(server)] for server in servers]
    for kind, mine in enumerate(shapes):
        if mine != shapes[0]:
            raise ValueError(
                f"clients of kind {kind} share {_spell(mine)} with the server and those of kind 0 {_spell(shapes[0])}: "
                "share what all networks have alike, such as the head (lg_fedavg) or prototypes (fedproto)"
            )
    kinds = tuple(map(_reading, algorithms, servers))
    return first._replace(kinds=kinds, server_model=None, predict=None, wire=None, **dict.fromkeys(_OF_A_CLIENT, _each))


def check(algorithm: Algorithm, kinds: int) -> Algorithm:
    """`algorithm`, if it is of so many kinds.

    Raises:
      ValueError: if it is not, or was changed after its kinds were put together.
    """
    if max(1, len(algorithm.kinds)) != kinds:
        raise ValueError(
            f"an algorithm of {max(1, len(algorithm.kinds))} kinds of clients for {kinds} tasks: give a task for each "
            "kind, and make the algorithm by pfl.of_kinds"
        )
    if algorithm.kinds and any(getattr(algorithm, name) is not _each for name in _OF_A_CLIENT):
        raise ValueError(_WRAPPED)
    return algorithm


_OF_A_CLIENT = ("download", "init_client", "client_update", "personalize", "onboard")


_WRAPPED = "an algorithm of several kinds of clients cannot be wrapped: wrap that of each kind, then call of_kinds"


def _each(*_: Any) -> Any:
    """In the place of a client's functions, which each kind has its own of."""
    raise ValueError(_WRAPPED)


def _reading(algorithm: Algorithm, server: Tree) -> Algorithm:
    """`algorithm` whose clients read a server with the leaves of their own, by whatever names."""
    structure = jax.tree.structure(server)

    def download(other: Tree, id: Array) -> Tree:
        return algorithm.download(jax.tree.unflatten(structure, jax.tree.leaves(other)), id)

    return algorithm._replace(download=download)


def _spell(shapes: list[tuple[tuple[int, ...], str]]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in shapes) or "nothing"
