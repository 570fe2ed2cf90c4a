"""Attacks: some clients upload something else, each by itself or after they have seen what all would upload."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks, tree
from pfljax.federation.reduce import reduced, stack, weighted
from pfljax.federation.wrappers.uploads import ATTACK, changed, gaussian_like, sending
from pfljax.types import Algorithm, Array, ClientData, Reduce, Reply, Tree

Attack = Callable[[Tree, Array], Tree]
"""`(what is trained in an honest upload, key) -> what is sent instead`."""

Collusion = Callable[[Array, Array, Array], Array]
"""`(a leaf [M, ...] of what all would upload, attackers [M], honest clients [M]) -> what each attacker sends [...]`.

Who is not heard is neither.
"""

Attackers = Callable[[Array], Array]
"""`id [] -> ` whether that client attacks, bool []."""


@checks.by_hints()
def attacked(algorithm: Algorithm, attackers: Attackers, attack: Attack) -> Algorithm:
    """`algorithm` in which `attackers` train as all others do and then send `attack` of their upload.

    What they keep and deploy is honest; scores over all clients have them in it.

    Args:
      algorithm: any.
      attackers: who attacks, the same clients in every round, such as `some(20, 0.1)`.
      attack: `sign_flip`, `scaling`, `gaussian`, or any other that knows its own upload alone.

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
def colluding(algorithm: Algorithm, attackers: Attackers, collusion: Collusion) -> Algorithm:
    """`algorithm` in which `attackers` see what the clients of a round would upload and all send the same instead.

    What they keep and deploy is honest. It is made where uploads meet: wrappers that change each upload, `clipped` and
    `compressed`, go inside, and `reduced_by` outside.

    Args:
      algorithm: any.
      attackers: who attacks, as in `attacked`.
      collusion: `alie`, `inner_product`, or any other.

    One attacker of three, which knows the other two, holds the mean where it is:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[4.0, 8.0, 4.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> bad = colluding(algorithms.fedavg(task, step), lambda id: id == 2, inner_product(2.0))
    >>> quadratics.deployed(bad, task, data, rounds=50)["w"]
    [0.0, 0.0, 0.0]
    """

    def client_update(download: Tree, client: Tree, data: ClientData, key: Array) -> Reply:
        reply = algorithm.client_update(download, client, data, key)
        return reply._replace(upload=(attackers(data.id), reply.upload))

    return algorithm._replace(
        client_update=client_update,
        reduce=_agreed(algorithm.reduce, collusion),
        wire=lambda upload: (algorithm.wire or tree.nbytes)(upload[1]),
    )


def _agreed(reduce: Reduce, collusion: Collusion) -> Reduce:
    def lower(terms: tuple[Array, Tree], weights: Array) -> Tree:
        (attacks, uploads), heard = terms, weights > 0

        def leaf(rows: Array) -> Array:
            theirs = attacks.reshape(-1, *[1] * (rows.ndim - 1))
            return jnp.where(theirs, collusion(rows, attacks & heard, ~attacks & heard), rows)

        return reduced(reduce, changed(lambda part: jax.tree.map(leaf, part), uploads), weights)

    return Reduce(stack.lift, lower, summed=False, instead=lambda other: _agreed(reduce.instead(other), collusion))


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


@checks.by_hints()
def alie(z: checks.NotNegative | Array = 1.0) -> Collusion:
    """`mean - z std` of each coordinate over what the attackers would upload: within the spread of the honest.

    Args:
      z: >= 0, traced. Of n clients with m attackers the paper takes `Phi^-1((n - m - s) / (n - m))`, where
        `s = floor(n / 2 + 1) - m`; `std` is that of the population of attackers, 0 of a single one.

    Source: Baruch et al., "A Little Is Enough: Circumventing Defenses For Distributed Learning", NeurIPS 2019,
    Algorithm 3.

    >>> who = jnp.array([True, True, False])
    >>> alie(1.5)(jnp.array([3.0, 5.0, 90.0]), who, ~who).item()
    2.5
    """

    def sent(rows: Array, attackers: Array, honest: Array) -> Array:
        center = weighted(rows, attackers.astype(rows.dtype))[None]
        return center[0] - z * jnp.sqrt(weighted(jnp.square(rows - center), attackers.astype(rows.dtype)))

    return sent


@checks.by_hints()
def inner_product(epsilon: checks.Positive | Array = 0.5) -> Collusion:
    """`-epsilon` times the mean of what honest clients upload: their inner product with the true direction is negative.

    Args:
      epsilon: > 0, traced; below 1 distances between uploads do not tell attackers from others.

    Source: Xie et al., "Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product Manipulation", UAI 2019,
    section 4.

    >>> who = jnp.array([True, False, False])
    >>> inner_product(0.5)(jnp.array([70.0, 3.0, 5.0]), who, ~who).item()
    -2.0
    """
    return lambda rows, attackers, honest: -epsilon * weighted(rows, honest.astype(rows.dtype))
