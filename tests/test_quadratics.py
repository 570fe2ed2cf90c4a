"""The testbed: its losses, what weighs a client, and what it refuses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, quadratics
from pfljax.learning import local, plans
from pfljax.learning.local import mean_gradient, mean_loss
from pfljax.types import Params

CENTERS = {"body": [[0.0, 1.0], [2.0, -1.0], [4.0, 6.0]], "head": [1.0, 5.0, -3.0]}
CURVATURES, SIZES = [1.0, 2.0, 0.5], [1, 3, 4]
KEY = jax.random.key(0)


def test_losses_and_gradients_are_those_of_the_formula():
    """`f_i(w) = a_i/2 ||w - c_i||^2`, its gradient `a_i (w - c_i)`; a minibatch says the same as all examples."""
    task, data = quadratics.problem(curvatures=CURVATURES, sizes=SIZES, **CENTERS)
    w = {"body": np.array([3.0, -2.0]), "head": np.array(0.5)}
    params = Params(jax.tree.map(lambda leaf: jnp.asarray(leaf, float), w))
    assert data.sizes().tolist() == SIZES
    for i, a in enumerate(CURVATURES):
        off = {name: w[name] - np.array(CENTERS[name][i]) for name in w}
        value = a / 2 * sum(np.sum(leaf**2) for leaf in off.values())
        np.testing.assert_allclose(mean_loss(task.loss, params, data.client(i), KEY), value, rtol=1e-6)
        for size in (2, 8):
            grads = mean_gradient(task.loss, params, data.client(i), KEY, size)
            for name, leaf in grads.items():
                np.testing.assert_allclose(leaf, a * off[name], rtol=1e-6)


def test_deployed_is_the_mean_weighted_by_examples():
    task, data = quadratics.problem(sizes=SIZES, **CENTERS)
    step = local.descent(optax.sgd(0.5), plans.full_batch(1, 4))
    models = quadratics.deployed(algorithms.fedavg(task, step), task, data, rounds=60)
    assert models == {"body": [[2.75, 2.75]] * 3, "head": [0.5] * 3}


def test_digits():
    task, data = quadratics.problem(w=[0.0, 1.0, 1.0])
    step = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))
    assert quadratics.deployed(algorithms.fedavg(task, step), task, data, 1, digits=1) == {"w": [0.7] * 3}


@pytest.mark.parametrize(
    "arguments", [{}, {"w": []}, {"w": [1.0, 2.0], "sizes": [1]}, {"w": [1.0], "v": [1.0, 2.0]}], ids=str
)
def test_lists_of_different_lengths_are_refused(arguments):
    with pytest.raises(ValueError, match="give w="):
        quadratics.problem(**arguments)
