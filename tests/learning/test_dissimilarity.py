"""Dissimilarity of gradients and updates, on quadratics where both are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax.data import from_clients
from pfljax.learning import dissimilarity, local, plans
from pfljax.learning.dissimilarity import of_directions, of_gradients, of_updates
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

W = np.array([0.3, -0.4])


def by_hand(rows: np.ndarray, weights: np.ndarray) -> list[float]:
    p = weights / weights.sum()
    mean = p @ rows
    squared = sum(p[i] * rows[i] @ rows[i] for i in range(len(rows)))
    pairs = [(i, j) for i in range(len(rows)) for j in range(i)]
    cosines = [rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j]) for i, j in pairs]
    variance = sum(p[i] * (rows[i] - mean) @ (rows[i] - mean) for i in range(len(rows)))
    return [float(of) for of in (np.sqrt(squared / (mean @ mean)), squared, mean @ mean, variance, np.mean(cosines))]


@pytest.mark.parametrize("weights", ["size", "uniform"])
def test_gradients_of_quadratics(weights: dissimilarity.Weights) -> None:
    rows = np.stack([a @ (W - c) for a, c in zip(q.A, q.C, strict=True)])
    task = q.task(W)
    found = of_gradients(task, task.init(jax.random.key(0)), q.data(), weights=weights)
    np.testing.assert_allclose(found, by_hand(rows, np.array(q.N if weights == "size" else [1, 1, 1])))


def test_at_the_start_as_specified() -> None:
    """Mean of squares, square of the mean and variance at w = 0, by examples."""
    task = q.task()
    found = of_gradients(task, task.init(jax.random.key(0)), q.data())
    np.testing.assert_allclose(found[1:4], [2.125, 0.951388888889, 1.173611111111])


def test_updates_of_quadratics() -> None:
    """`w - w_K = (I - (I - lr A)^K) (w - c)`."""
    solve, task = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60)), q.task(W)
    left = [np.eye(2) - np.linalg.matrix_power(np.eye(2) - q.LR * a, q.STEPS) for a in q.A]
    rows = np.stack([m @ (W - c) for m, c in zip(left, q.C, strict=True)])
    found = of_updates(task, solve, task.init(jax.random.key(0)), q.data())
    np.testing.assert_allclose(found, by_hand(rows, np.array(q.N)))


def test_clients_that_agree_cancel_or_hold_nothing() -> None:
    same = of_directions({"a": jnp.ones((3, 2)), "b": jnp.ones((3, 1, 2))}, jnp.array([1.0, 2.0, 0.0]))
    np.testing.assert_allclose(same, [1, 4, 4, 0, 1])
    apart = of_directions({"a": jnp.array([[1.0], [-1.0]])}, jnp.ones(2))
    np.testing.assert_allclose(apart, [np.inf, 1, 0, 1, -1])
    task = q.task(W)
    x = {"A": np.repeat(q.A, 2, 0), "c": np.repeat(q.C, 2, 0)}
    clients = [
        ({name: leaf[2 * i : 2 * i + n] for name, leaf in x.items()}, np.zeros(n)) for i, n in enumerate((2, 0, 2))
    ]
    rows = np.stack([q.A[i] @ (W - q.C[i]) for i in (0, 2)])
    found = of_gradients(task, task.init(jax.random.key(0)), from_clients(clients), weights="uniform")
    np.testing.assert_allclose(found, by_hand(rows, np.ones(2)))


def test_weights_are_one_of_two() -> None:
    task = q.task()
    with pytest.raises(ValueError, match=r"weights='sizes'.*did you mean 'size'"):
        of_gradients(task, task.init(jax.random.key(0)), q.data(), weights="sizes")  # type: ignore[arg-type]
