"""Another reduction."""

from __future__ import annotations

from pfljax import checks
from pfljax.types import Algorithm, Reduce


@checks.by_hints()
def reduced_by(algorithm: Algorithm, reduction: Reduce) -> Algorithm:
    """`algorithm` whose uploads are reduced by `reduction`; within each cluster, where the method has clusters.

    Args:
      algorithm: any that makes one tree of the uploads.
      reduction: `mean` weighs clients by examples, `uniform(mean)` equally; `median`, `trimmed`, `krum` and
        `geometric_median` bear attackers.

    Raises:
      ValueError: if the method needs all uploads as they are.

    Two honest clients and one with a broken sensor:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.federation.reduce import median
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[3.0, 4.0, 900.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(reduced_by(algorithms.fedavg(task, step), median), task, data, rounds=100)
    {'w': [4.0, 4.0, 4.0]}
    """
    return algorithm._replace(reduce=algorithm.reduce.instead(reduction))
