"""The walk over a cohort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from pfljax.engine.walk import layout, walk


@pytest.mark.parametrize("block", [1, 2, 5])
def test_rows_without_elements_are_walked(block: int):
    plan = layout(5, block, None)
    rows = {"id": jnp.arange(plan.slots), "none": jnp.zeros((plan.slots, 0))}
    total, kept = jax.jit(lambda rows: walk(lambda shared, row: (row, row), (), rows, plan))(rows)
    assert int(total["id"]) == plan.slots * (plan.slots - 1) // 2
    assert total["none"].shape == (0,)
    assert kept["none"].shape == (plan.slots, 0)
    assert kept["id"].tolist() == list(range(plan.slots))
