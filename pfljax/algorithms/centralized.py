"""Centralized training: the upper reference, with all data in one place."""

from pfljax.federation.skeletons import averaging
from pfljax.types import Algorithm, LocalSolver, Task


def centralized(task: Task, local: LocalSolver) -> Algorithm:
    """Trains one model on the pooled data.

    `min_w f(w) = sum_i n_i/n f_i(w)`: averaging over a single client that holds everything (`FederatedData.pooled()`).
    A round is one pass of `local`, so that the budget is matched in passes over the data.

    Args:
      task: the model and its loss.
      local: solver of a round.

    Returns:
      An algorithm whose clients keep nothing. Uploads count as no traffic: there is no federation.

    Deviations from the source: none. Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, the SGD baseline.

    The minimiser `sum_i a_i c_i / sum_i a_i`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0], curvatures=[1.0, 3.0])
    >>> step = local.descent(optax.sgd(0.3), plans.full_batch(1, 2))
    >>> quadratics.deployed(centralized(task, step), task, data.pooled(), rounds=100)
    {'w': [6.0]}
    """
    return averaging(task, local)
