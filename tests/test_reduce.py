"""Reductions against numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax.federation.reduce import grouped, mean, stack, uniform
from pfljax.types import Array, Params, Reduce, Tree


def _by_weight(terms: Tree, weights: Array) -> Tree:
    return jnp.sum(terms * weights) / jnp.maximum(jnp.sum(weights), 1)


UNSUMMED = Reduce(lambda upload, weight: upload, _by_weight, summed=False)

CLUSTERS, UPLOADS, WEIGHTS = jnp.array([0, 1, 0, 1]), jnp.array([1.0, 5.0, 4.0, 7.0]), jnp.array([1.0, 2.0, 3.0, 0.0])


def lowered(reduce: Reduce) -> tuple[list[float], list[float]]:
    terms = jax.vmap(reduce.lift)((CLUSTERS, UPLOADS), WEIGHTS)
    if reduce.summed:
        terms = jax.tree.map(lambda leaf: leaf.sum(axis=0), terms)
    uploads, weights = reduce.lower(terms, WEIGHTS)
    return uploads.tolist(), weights.tolist()


@pytest.mark.parametrize("inner", [mean, UNSUMMED], ids=["summed", "unsummed"])
def test_a_cluster_weighs_its_own_members(inner: Reduce):
    """(1 + 3 * 4) / 4 and 5: the client of weight 0 does not count, and the third cluster is empty."""
    assert lowered(grouped(3, inner)) == ([3.25, 5.0, 0.0], [4.0, 2.0, 0.0])


@pytest.mark.parametrize("inner", [mean, UNSUMMED], ids=["summed", "unsummed"])
def test_members_of_a_cluster_may_count_equally(inner: Reduce):
    assert lowered(grouped(3, uniform(inner))) == ([2.5, 5.0, 0.0], [4.0, 2.0, 0.0])


def test_a_stack_hands_on_all_uploads():
    np.testing.assert_array_equal(stack.lower(jax.vmap(stack.lift)(UPLOADS, WEIGHTS), WEIGHTS), UPLOADS)


def test_a_grouped_reduction_of_a_method_with_one_model_is_refused():
    with pytest.raises(ValueError, match="grouped reduces uploads"):
        grouped(2, mean).lift(Params({"w": jnp.ones(2)}), jnp.asarray(1.0))
