"""FedJAX: its own `fed_avg` on in-memory data, its default (`jit`) way of walking the clients, models in Haiku."""
# pyright: reportMissingImports=false

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from .layers import Examples, layers, same_size


def about() -> dict[str, str]:
    """Versions and the device."""
    import jax

    versions = {name: metadata.version(name) for name in ("fedjax", "jax", "dm-haiku") if _installed(name)}
    return {**versions, "device": jax.devices()[0].device_kind}


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def prepare(workload: dict[str, Any], examples: Examples, source: str | None) -> Callable[[], None]:
    """One round of FedJAX's FedAvg: sample the cohort, `algorithm.apply`, wait for the server's parameters.

    Args:
      workload: what to run.
      examples: the clients' arrays.
      source: a folder with FedJAX's sources, searched before the installed package, or None.

    Raises:
      NotImplementedError: for a method but FedAvg, or a model that is not written here.
    """
    if source:
        sys.path.insert(0, source)
    import haiku as hk
    import jax

    if not hasattr(jax, "tree_map"):  # removed from JAX; FedJAX 0.0.17 still calls it
        jax.tree_map = jax.tree.map  # pyright: ignore[reportAttributeAccessIssue]
    fedjax = importlib.import_module("fedjax")
    if workload["method"] != "fedavg":
        raise NotImplementedError(f"FedJAX has no {workload['method']}: of these methods it has FedAvg only")
    clients = {f"{i:06d}": {"x": _normalised(x), "y": y.astype(np.int32)} for i, (x, y) in enumerate(examples())}
    data = fedjax.InMemoryFederatedData(clients)
    forward = _network(hk, jax, workload)

    def loss(batch: Any, logits: Any) -> Any:
        return fedjax.metrics.unreduced_cross_entropy_loss(batch["y"], logits)

    sample = {name: leaf[: workload["batch_size"]] for name, leaf in next(iter(clients.values())).items()}
    model = fedjax.create_model_from_haiku(hk.transform(lambda batch: forward(batch["x"])), sample, loss)
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(workload["lr"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(batch_size=workload["batch_size"], num_epochs=workload["epochs"], seed=0),
    )
    sampler = fedjax.client_samplers.UniformGetClientSampler(data, workload["cohort"], seed=0)
    params = model.init(jax.random.PRNGKey(0))
    same_size(workload, sum(leaf.size for leaf in jax.tree.leaves(params)))
    state = algorithm.init(params)

    def round_() -> None:
        nonlocal state
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)

    return round_


def _normalised(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32) / 127.5 - 1
    return x[..., None] if x.ndim == 3 else x


def _network(hk: Any, jax: Any, workload: dict[str, Any]) -> Callable[[Any], Any]:
    network, classes = layers(workload), workload["classes"]

    def dropout(x: Any, rate: float) -> Any:
        return hk.dropout(hk.next_rng_key(), rate, x) if rate else x

    def forward(x: Any) -> Any:
        for channels, kernel, pooled in network.convolutions:
            x = hk.Conv2D(channels, kernel, padding="VALID")(x)
            x = jax.nn.relu(hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), "VALID")(x) if pooled else x)
        x = dropout(hk.Flatten()(x), network.dropout[0])
        for width in network.dense:
            x = jax.nn.relu(hk.Linear(width)(x))
        return hk.Linear(classes)(dropout(x, network.dropout[1]))

    return forward
