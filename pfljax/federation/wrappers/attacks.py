"""Attacks: some clients upload something else."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from pfljax import checks, tree
from pfljax.federation.wrappers.uploads import ATTACK, gaussian_like, sending
from pfljax.types import Algorithm, Array, ClientData, Tree

Attack = Callable[[Tree, Array], Tree]
"""`(what is trained in an honest upload, key) -> what is sent instead`."""

Attackers = Callable[[Array], Array]
"""`id [] -> ` whether that client attacks, bool []."""


@checks.by_hints()
def attacked(algorithm: Algorithm, attackers: Attackers, attack: Attack) -> Algorithm:
    """`algorithm` in which `attackers` train as all others do and then send `attack` of their upload.

    What they keep and deploy is honest; scores over all clients have them in it.

    Args:
      algorithm: any.
      attackers: who attacks, the same clients in every round, such as `some(20, 0.1)`.
      attack: `sign_flip`, `scaling`, `gaussian`, or any other.

    One of three undoes what the other two send, unless their median counts:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.federation.reduce import median
    >>> from pfljax.federation.wrappers import reduced_by
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[4.0, 4.0, 4.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> bad = attacked(algorithms.fedavg(task, step), lambda id: id == 1, sign_flip(2.0))
    >>> [quadratics.deployed(each, task, data, rounds=50)["w"][0] for each in (bad, reduced_by(bad, median))]
    [0.0, 4.0]
    """

    def sent(part: Tree, data: ClientData, key: Array) -> Tree:
        return tree.where(attackers(data.id), attack(part, key), part)

    return sending(algorithm, sent, ATTACK)


@checks.by_hints()
def some(clients: checks.Count, share: checks.Share | Array, *, seed: checks.Seed = 0) -> Attackers:
    """`round(share * clients)` clients at random, and with a larger share the same ones among others.

    Args:
      clients: N, the population, static.
      share: in [0, 1], traced.
      seed: of who they are.

    >>> [int(sum(some(10, share)(id) for id in jnp.arange(10))) for share in (0.0, 0.3, 1.0)]
    [0, 3, 10]
    """
    ranks = np.random.default_rng(seed).permutation(clients)

    def attacks(id: Array) -> Array:
        rank = jnp.take(jnp.asarray(ranks, jnp.int32), id, mode="fill", fill_value=clients)
        return rank.astype(float) < jnp.round(share * clients)

    return attacks


@checks.by_hints()
def sign_flip(scale: checks.Positive | Array = 1.0) -> Attack:
    """`-scale u`: away from where honest training goes.

    Args:
      scale: > 0, traced.

    >>> sign_flip(2.0)(jnp.asarray(3.0), None).item()
    -6.0
    """
    return lambda part, key: tree.scale(-scale, part)


@checks.by_hints()
def scaling(factor: checks.Positive | Array = 10.0) -> Attack:
    """`factor u`: with as many times the number of clients, the attacker's model takes the place of the mean.

    Args:
      factor: > 0, traced.

    Source: Bagdasaryan et al., "How To Backdoor Federated Learning", AISTATS 2020, equation 3.

    >>> scaling(10.0)(jnp.asarray(3.0), None).item()
    30.0
    """
    return lambda part, key: tree.scale(factor, part)


@checks.by_hints()
def gaussian(std: checks.NotNegative | Array = 1.0) -> Attack:
    """Draws from N(0, std^2) in place of the upload.

    Args:
      std: >= 0, traced; 0 is a client that sends nothing new.

    >>> import jax
    >>> abs(gaussian(0.0)(jnp.asarray(3.0), jax.random.key(0)).item())
    0.0
    """
    return lambda part, key: gaussian_like(part, std, key)
