"""Clients with quadratic losses, where methods have closed forms; linear regression with private intercepts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data import FederatedData, from_clients
from pfljax.learning.metrics import mean
from pfljax.types import Array, Batch, Params, Task, Tree

A = np.array([[[1.0, 0.0], [0.0, 2.0]], [[2.0, 0.0], [0.0, 1.0]], [[1.5, 0.5], [0.5, 1.0]]])
C = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]])
N = (10, 20, 30)
I2 = np.eye(2)
LR, STEPS = 0.1, 5


def _mean(values: Array, mask: Array) -> Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1)


def task(start: Sequence[float] | np.ndarray = (0.0, 0.0), spread: float = 0.0) -> Task:
    """`f(w) = (w - c)' A (w - c) / 2`, with A and c for inputs; begins at `start`, give or take `spread`."""

    def init(key: Array) -> Params:
        begin = jnp.asarray(start, float)
        return Params({"w": begin + spread * jax.random.normal(key, begin.shape)})

    def predict(params: Params, x: Tree) -> Array:
        off = params.trainable["w"][None] - x["c"]
        return jnp.einsum("bi,bij,bj->b", off, x["A"], off) / 2

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        del key
        return _mean(predict(params, batch.x), batch.mask), params.stats

    return Task(init, loss, predict, (mean("loss", lambda outputs, y: outputs),))


def data(matrices: np.ndarray = A, centers: np.ndarray = C, sizes: Sequence[int] = N) -> FederatedData:
    """Client i holds `sizes[i]` copies of its example."""
    return from_clients(
        [
            ({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n))
            for a, c, n in zip(matrices, centers, sizes, strict=True)
        ]
    )


def random(seed: int, clients: int = 4, dim: int = 3) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Matrices with eigenvalues in [0.5, 2], centers, and numbers of examples that are even and all different."""
    generator = np.random.default_rng(seed)
    bases = np.linalg.qr(generator.normal(size=(clients, dim, dim)))[0]
    matrices = np.einsum("nij,nj,nkj->nik", bases, generator.uniform(0.5, 2, (clients, dim)), bases)
    return matrices, generator.normal(size=(clients, dim)), tuple(2 * (3 * i + 1) for i in range(clients))


def shares(sizes: Any) -> np.ndarray:
    """n_i / sum n."""
    return np.asarray(sizes) / np.sum(sizes)


def weighted(blend: np.ndarray, matrices: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """`(sum_i a_i M_i)^-1 sum_i a_i M_i c_i`: where quadratics with matrices M_i agree."""
    return np.linalg.solve(np.einsum("n,nij->ij", blend, matrices), np.einsum("n,nij,nj->i", blend, matrices, centers))


def descended(w: np.ndarray, matrices: np.ndarray, centers: np.ndarray, lr: float, steps: int) -> np.ndarray:
    """[N, d] after gradient descent from w: `c + (I - lr A)^steps (w - c)`."""
    eye = np.eye(matrices.shape[-1])
    begin = np.broadcast_to(w, centers.shape)
    return np.stack(
        [
            c + np.linalg.matrix_power(eye - lr * a, steps) @ (v - c)
            for a, c, v in zip(matrices, centers, begin, strict=True)
        ]
    )


def prox(w: np.ndarray, matrices: np.ndarray, centers: np.ndarray, lam: float) -> np.ndarray:
    """[N, d] minimisers of `f_i(v) + lam/2 |v - w|^2`; w is one point or one for each client."""
    eye, reference = np.eye(matrices.shape[-1]), np.broadcast_to(w, centers.shape)
    return np.stack(
        [np.linalg.solve(a + lam * eye, a @ c + lam * u) for a, c, u in zip(matrices, centers, reference, strict=True)]
    )


LINE_X = np.array([[0.0, 1, 2], [1, 2, 4], [-1, 0, 3]])
LINE_Y = np.array([[1.0, 2, 4], [0, 2, 5], [3, 3, 8]])


def line() -> Task:
    """`(y - slope x - intercept)^2 / 2`."""

    def init(key: Array) -> Params:
        del key
        return Params({"intercept": jnp.zeros(()), "slope": jnp.zeros(())})

    def predict(params: Params, x: Tree) -> Array:
        p = params.trainable
        return p["slope"][None] * x + p["intercept"][None]

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        del key
        return _mean((predict(params, batch.x) - batch.y) ** 2 / 2, batch.mask), params.stats

    return Task(init, loss, predict, (mean("loss", lambda outputs, y: (outputs - y) ** 2 / 2),))


def line_data() -> FederatedData:
    """Three clients with three points each."""
    return from_clients(list(zip(LINE_X, LINE_Y, strict=True)))
