"""Bounded and noisy uploads: differentially private averaging, client by client."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers.reduction import reduced_by
from pfljax.federation.wrappers.uploads import NOISE, changed, gaussian_like, sending
from pfljax.types import Algorithm, Array, ClientData, Cohort, Tree

Place = Literal["server", "client"]


@checks.by_hints()
def clipped(algorithm: Algorithm, norm: checks.Positive | Array) -> Algorithm:
    """`algorithm` whose uploads are no longer than `norm`: `u <- u min(1, norm / ||u||)`.

    The length is that of all that is trained in the upload together; statistics neither count nor shrink.

    Args:
      algorithm: any; it takes the upload for a difference, as it is in all methods of the table.
      norm: longest L2 norm, > 0, traced.

    Source: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018, section 2 (flat
    clipping).

    The far client pulls no harder than the near ones, so that their median is where it ends:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[3.0, 4.0, 900.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(clipped(algorithms.fedavg(task, step), 0.2), task, data, rounds=100)
    {'w': [4.0, 4.0, 4.0]}
    """

    def clip(part: Tree, data: ClientData, key: Array) -> Tree:
        length = jnp.sqrt(tree.squared_norm(part))
        return tree.scale(jnp.where(length > norm, norm / length, 1), part)

    return sending(algorithm, clip, 0)


@checks.by_hints()
def noised(
    algorithm: Algorithm,
    multiplier: checks.NotNegative | Array,
    clip: checks.Positive | Array,
    *,
    at: Place = "server",
) -> Algorithm:
    """`algorithm` with uploads clipped to `clip`, and Gaussian noise in proportion to it.

    - `at="server"`: DP-FedAvg. Clients count equally, and the sum of the m uploads that are heard gets
      `N(0, (multiplier clip)^2)` in each number: their mean that of std `multiplier clip / m`. The server is trusted.
    - `at="client"`: each upload gets `N(0, (multiplier clip)^2)` before it leaves; the method reduces as it does.

    No budget is accounted for: give `multiplier`, the share of clients in a round and the number of rounds to an
    accountant. It has to know that the mean is over the clients that were heard, whose number is not hidden. Outside
    of any guarantee are running statistics (use a model without, or keep them with the clients, as FedBN does), the
    cluster that a client of IFCA names, and what clients keep and deploy themselves. Validation scores are not noised.

    Args:
      algorithm: any; at the server, one whose uploads become one tree.
      multiplier: standard deviation in units of `clip`, >= 0, traced; 0 only clips.
      clip: see `clipped`, traced.
      at: where the noise is added.

    Raises:
      ValueError: if noise at the server is asked of a method that keeps all uploads apart, or by clusters.

    Deviations from the source: the sum is divided by the number of clients that were heard, not by its expectation.
    Source: McMahan et al., ICLR 2018, Algorithm 1.

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[0.0, 8.0], sizes=[1, 3])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 3))
    >>> quadratics.deployed(noised(algorithms.fedavg(task, step), 0.0, clip=9.0), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """
    bounded = clipped(algorithm, clip)
    if at == "client":
        return sending(bounded, lambda part, data, key: _noisy(part, multiplier * clip, key), NOISE)

    equal = uniform(mean)
    if algorithm.reduce.instead(equal) is not equal:
        raise ValueError("at='server' puts noise on one sum of all clients, and this method has several: at='client'")

    def server_update(server: Tree, cohort: Cohort, key: Array) -> Tree:
        number = jnp.maximum(jnp.sum(cohort.weights > 0), 1).astype(float)
        std, own = multiplier * clip / number, jax.random.fold_in(key, NOISE)
        uploads = changed(lambda part: _noisy(part, std, own), cohort.uploads)
        return algorithm.server_update(server, cohort._replace(uploads=uploads), key)

    return reduced_by(bounded._replace(server_update=server_update), equal)


def _noisy(part: Tree, std: Array | float, key: Array) -> Tree:
    return tree.add(part, gaussian_like(part, std, key))
