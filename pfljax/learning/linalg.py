"""Linear algebra of small matrices that bears many clients, classes or points at once on any number of devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from pfljax.types import Array

P = ParamSpec("P")
T = TypeVar("T")


def _in_turn(solve: Callable[P, T]) -> Callable[P, T]:
    """`solve`, of which many are a loop on a CPU and a batch elsewhere.

    On a CPU a batch of LAPACK calls is spread over the threads that wait for it: two devices that do so at once wait
    for each other without end.
    """
    looped = jax.custom_batching.sequential_vmap(solve)

    @wraps(solve)
    def called(*matrices: P.args, **options: P.kwargs) -> T:
        del options
        return jax.lax.platform_dependent(*matrices, cpu=looped, default=solve)

    return called


@_in_turn
def eigh(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues [d], ascending, and eigenvectors [d, d], in columns, of a symmetric matrix [d, d].

    >>> values, vectors = jax.vmap(eigh)(jnp.array([[[2.0, 0.0], [0.0, 5.0]], [[3.0, 0.0], [0.0, 1.0]]]))
    >>> values.tolist()
    [[2.0, 5.0], [1.0, 3.0]]
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors


@_in_turn
def inv(matrix: Array) -> Array:
    """The inverse of a matrix [d, d].

    >>> inv(jnp.array([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return jnp.linalg.inv(matrix)


@_in_turn
def solve(matrix: Array, right: Array) -> Array:
    """`x` [d, ...] of `matrix x = right`, for a symmetric positive definite matrix [d, d].

    >>> solve(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([2.0, 4.0])).round(6).tolist()
    [1.0, 1.0]
    """
    return jax.scipy.linalg.solve(matrix, right, assume_a="pos")
