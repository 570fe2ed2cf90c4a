"""Synthetic federations: Gaussian inputs, labels of a linear classifier that differs from client to client."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pfljax import checks
from pfljax.checks import Count, NotNegative, Seed
from pfljax.data import door
from pfljax.data.dataset import Dataset, from_arrays


def synthetic_v2(
    tau: float = 0.5,
    beta: float = 0.5,
    *,
    clients: int = 30,
    sizes: Sequence[int] | None = None,
    dim: int = 60,
    num_classes: int = 10,
    seed: int = 0,
) -> Dataset:
    """Synthetic(tau, beta) in which the first number does control how far concepts differ.

    `W_k = W_0 + tau Z_k`, `b_k = b_0 + tau z_k` with one standard normal `W_0, b_0` for all and standard normal
    `Z_k, z_k`; inputs and labels as in `synthetic`. At tau = 0 all clients share one concept.

    Args:
      tau: spread of the concepts, standard deviation >= 0.
      beta: spread of the input means, standard deviation >= 0.
      clients: N.
      sizes: examples of each client; `min(floor(LN(4, 2)) + 50, 1000)` drawn if None.
      dim: length of an input.
      num_classes: C.
      seed: an integer.

    Returns:
      A data set whose groups are the clients: partition it with `natural()`.
    """
    checks.each(NotNegative, tau=tau, beta=beta)
    _check(clients, dim, num_classes, seed)
    counts = np.minimum(_log_normal(clients, seed), 1000) if sizes is None else door.array(sizes, "sizes")
    shape = (dim + 1, num_classes)
    common = _stream(seed, 0).standard_normal(shape)

    def concept(generator: np.random.Generator) -> np.ndarray:
        return common + tau * generator.standard_normal(shape)

    return _generate(f"synthetic_v2({tau}, {beta})", concept, _means(beta), clients, counts, dim, num_classes, seed)


def synthetic(
    alpha: float = 0.5,
    beta: float = 0.5,
    *,
    iid: bool = False,
    clients: int = 30,
    sizes: Sequence[int] | None = None,
    dim: int = 60,
    num_classes: int = 10,
    seed: int = 0,
) -> Dataset:
    """Synthetic(alpha, beta) of FedProx, as published; **alpha is inert**, prefer `synthetic_v2`.

    `u_k ~ N(0, alpha)`, `W_k, b_k ~ N(u_k, 1)`; `B_k ~ N(0, beta)`, `v_k ~ N(B_k, 1)`, `x ~ N(v_k, Sigma)` with
    `Sigma_jj = j^-1.2`; `y = argmax(W_k' x + b_k)`. alpha and beta are used as standard deviations, as in the published
    code. `u_k` adds the same number to every logit and cancels in the argmax: labels do not depend on alpha, and
    concepts differ fully even at alpha = 0, because `W_k` is drawn afresh for every client.

    Args:
      iid: one standard normal `W, b` for all clients, and `v_k = B_k (1, ..., 1)`.
      sizes: examples of each client; `floor(LN(4, 2)) + 50` drawn if None: the largest may hold most of all.
      alpha, beta, clients, dim, num_classes, seed: see `synthetic_v2`.

    Returns:
      A data set whose groups are the clients: partition it with `natural()`.

    Source: Li et al., "Federated optimization in heterogeneous networks", MLSys 2020, section 5.1.
    """
    checks.each(NotNegative, alpha=alpha, beta=beta)
    _check(clients, dim, num_classes, seed)
    counts = _log_normal(clients, seed) if sizes is None else door.array(sizes, "sizes")
    shape = (dim + 1, num_classes)
    common = _stream(seed, 0).standard_normal(shape)

    def concept(generator: np.random.Generator) -> np.ndarray:
        own = alpha * generator.standard_normal() + generator.standard_normal(shape)
        return common if iid else own

    name = "synthetic(iid)" if iid else f"synthetic({alpha}, {beta})"
    means = _means(beta, spread=0.0 if iid else 1.0)
    return _generate(name, concept, means, clients, counts, dim, num_classes, seed)


def _log_normal(clients: int, seed: int) -> np.ndarray:
    return np.floor(_stream(seed, 1).lognormal(4, 2, clients)).astype(int) + 50


def _means(beta: float, spread: float = 1.0) -> Callable[[np.random.Generator, int], np.ndarray]:
    return lambda generator, dim: beta * generator.standard_normal() + spread * generator.standard_normal(dim)


def _generate(
    name: str,
    concept: Callable[[np.random.Generator], np.ndarray],
    mean: Callable[[np.random.Generator, int], np.ndarray],
    clients: int,
    sizes: np.ndarray,
    dim: int,
    num_classes: int,
    seed: int,
) -> Dataset:
    if sizes.shape != (clients,) or sizes.dtype.kind not in "iu" or sizes.min() < 0:
        raise ValueError(f"sizes={sizes}: give one whole number of at least 0 for each of {clients} clients")
    scale = np.arange(1, dim + 1) ** -0.6
    inputs, targets = [], []
    for client, size in enumerate(sizes):
        generator = _stream(seed, 2, client)
        weights = concept(generator)
        x = mean(generator, dim) + scale * generator.standard_normal((size, dim))
        inputs.append(x)
        targets.append(np.argmax(x @ weights[:-1] + weights[-1], axis=1))
    return from_arrays(
        np.concatenate(inputs).astype(np.float32),
        np.concatenate(targets),
        groups=np.repeat(np.arange(clients), sizes),
        num_classes=num_classes,
        name=name,
    )


def _check(clients: int, dim: int, num_classes: int, seed: int) -> None:
    checks.each(Count, clients=clients, dim=dim, num_classes=num_classes)
    checks.each(Seed, seed=seed)


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, *path]))
