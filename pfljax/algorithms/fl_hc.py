"""FL+HC: hierarchical clustering of the clients' updates, once, and a FedAvg for each cluster from then on."""

from pfljax.federation.clustering import Linkage, Measure, agglomerated, cut, distances, merges_until
from pfljax.federation.clusters import grouping_once
from pfljax.types import Algorithm, Array, LocalSolver, Params, Task


def fl_hc(
    task: Task,
    local: LocalSolver,
    *,
    clusters: int = 8,
    warm_up: int = 3,
    threshold: Array | float | None = None,
    linkage: Linkage = "average",
    measure: Measure = "l2",
    floor: int = 1,
) -> Algorithm:
    """FedAvg for n rounds; in the next, clients train its model `w` and are clustered by `w_i - w`; then FedAvg apart.

    Agglomerative clustering: the two nearest clusters become one until the nearest are further apart than T. Then
    each cluster c starts at `w`: `w_c <- sum_{i in c} n_i w_i / sum_{i in c} n_i`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      clusters: K at most, static: more become one beyond T.
      warm_up: n, static.
      threshold: T, traced. None: clusters are those left by the largest gap between the distances of two mergers in a
        row; one cluster has no gap, so there are two at least if three clients took part.
      linkage: the distance of clusters: "single", "complete", "average" or "ward" (with "l2"), static.
      measure: the distance of updates: "l1", "l2" or "cosine", static.
      floor: a smaller cluster dissolves, and its members join the nearest of the others, static; 1 in the paper.

    Returns:
      An algorithm whose clients keep nothing and deploy the model of their cluster. Down and up: |params|. A newcomer
      trains `w` for a round and deploys the model of the cluster whose mean update is nearest.

    Raises:
      ValueError: if a count is below 1, a choice is none, "ward" measures anything but "l2", or the reduction hands on
        anything but the uploads.

    Deviations from the source: T may be None. Where only a cohort takes part in the round of the clustering, the
    others join as newcomers do, when they first take part: what they upload then counts for no model.
    Source: Briggs et al., "Federated Learning with Hierarchical Clustering of Local Updates to Improve Training on
    Non-IID Data", IJCNN 2020, Algorithm 1.

    The means of the two clusters:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 2.0, 8.0, 9.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(fl_hc(task, step, threshold=2.0), task, data, rounds=50)
    {'w': [1.5, 1.5, 8.5, 8.5]}
    """

    if linkage == "ward" and measure != "l2":
        raise ValueError(f"linkage='ward' needs measure='l2', not {measure!r}: choose 'average', or that measure")

    def group(moves: Params, present: Array, key: Array) -> Array:
        made = agglomerated(distances(moves, moves, measure), present, linkage)
        return cut(made, present, merges_until(made, present, clusters, threshold))

    def away(moves: Params, means: Params) -> Array:
        return distances(moves, means, measure)

    return grouping_once(task, local, group, away, clusters=clusters, warm_up=warm_up, floor=floor)
