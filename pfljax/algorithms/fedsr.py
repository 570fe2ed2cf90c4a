"""FedSR: features that are drawn at random and kept simple, so that they serve domains that nobody has seen."""

from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning.classes import number
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.parts import joined, parted
from pfljax.types import Algorithm, Array, Batch, LocalSolver, Model, Params, Task, Tree


def fedsr(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    alpha: Array | float = 0.01,
    beta: Array | float = 5e-4,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg with features that are drawn, `z ~ N(mu(x), sigma(x)^2)`.

    With h the head, clients descend the mean over examples of

    `CE(h(z), y) + alpha ||z|| + beta KL(N(mu(x), sigma(x)^2) || N(r_y, s_y^2))`.

    `mu` are the features of the network, `sigma = softplus(mu S + b)`. S, b, and for each class `r_c` and
    `s_c = softplus(t_c)` are learned and averaged along with it. A client deploys `h(mu(x))`.

    Args:
      task: the model; its loss is not used.
      local: solver of a client's round. It sees one tree of the parts `model` and `noise`.
      model: the network of the task, which must have features; d is their number.
      alpha: strength against long features, >= 0, traced.
      beta: strength of the pull towards a distribution for each class, >= 0, traced.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| + d (d + 1) + 2 C d.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    As implemented by FL-bench, where a layer of its own makes `mu` of the features. `||z||` is rounded off at 0.
    Source: Nguyen et al., "FedSR: A Simple and Effective Domain Generalization Method for Federated Learning",
    NeurIPS 2022.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1])]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(4,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(50, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> pfl.simulate(task, fedsr(task, solve, model), data, rounds=5).clients().tolist()
    [1.0]
    """
    classes, d = number(model, "fedsr draws features"), prod(model.features_shape)

    def init(key: Array) -> Params:
        kernel = jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 1), (d, d), float)
        of_classes = {"r": jnp.zeros((classes, d)), "t": jnp.ones((classes, d))}
        return joined(model=task.init(key), noise=Params({"S": kernel, "b": jnp.zeros(d), **of_classes}))

    def loss(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        checks.classes(batch.y, "fedsr")
        w, (noise, _) = parted(both, "model", "noise")
        y, mode = batch.y.astype(int), {"train": True, "mask": batch.mask, "key": key}
        mu, stats = model.features(w, batch.x, **mode)  # pyright: ignore[reportOptionalCall]
        shape, mu = mu.shape, mu.reshape(-1, d)
        sigma = jax.nn.softplus(mu @ noise["S"] + noise["b"][None])
        z = mu + sigma * jax.random.normal(jax.random.fold_in(key, 1), mu.shape, mu.dtype)
        logits, stats = model.head(w._replace(stats=stats), z.reshape(shape), **mode)
        length = jnp.sqrt(jnp.sum(z**2, axis=1) + 1e-12)
        apart = _divergence(mu, sigma, noise["r"][y], jax.nn.softplus(noise["t"][y]))
        losses = cross_entropy(logits, y) + alpha * length + beta * apart
        return masked_mean(losses, batch.mask), {"model": stats, "noise": {}}

    def deployed(both: Params, *_: Any) -> Params:
        return parted(both, "model")[0]

    algorithm = averaging(task._replace(init=init), local, lambda both: loss, server=server)
    return algorithm._replace(personalize=deployed, server_model=deployed)


def _divergence(mu: Array, sigma: Array, r: Array, s: Array) -> Array:
    """`KL(N(mu, sigma^2) || N(r, s^2))` of the rows [B, d]."""
    return jnp.sum(jnp.log(s / sigma) + (sigma**2 + (mu - r) ** 2) / (2 * s**2) - 0.5, axis=1)
