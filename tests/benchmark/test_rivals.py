"""The rivals of the benchmark train the same networks, and those in PyTorch compute the same rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from experiments.benchmark.rivals.layers import same_size
from pfljax import algorithms, masks, models
from pfljax.benchmark.networks import network
from pfljax.data import from_clients
from pfljax.engine.simulation import Simulation
from pfljax.learning import local, plans, tasks

SHAPES: list[tuple[str, tuple[int, ...], int]] = [
    ("logistic", (28, 28, 1), 10),
    ("mlp", (28, 28), 62),
    ("cnn", (28, 28, 1), 10),
    ("cnn", (32, 32, 3), 100),
    ("resnet8", (32, 32, 3), 10),
    ("char_lstm", (80,), 90),
    ("lenet", (32, 32, 3), 10),
    ("small_cnn", (28, 28), 62),
]
LR, BATCH = 0.05, 4


@pytest.mark.parametrize(("model", "shape", "classes"), SHAPES)
def test_rivals_train_the_same_network(model: str, shape: tuple[int, ...], classes: int) -> None:
    ours = jax.eval_shape(network(model, shape, classes, {}).init, jax.random.key(0)).trainable
    workload = {"model": model, "model_options": {}, "shape": shape, "classes": classes}
    same_size(workload, sum(leaf.size for leaf in jax.tree.leaves(ours)))


def test_another_size_is_reported() -> None:
    with pytest.raises(ValueError, match="logistic has 11 parameters instead of 10: not the same network"):
        same_size({"model": "logistic", "model_options": {}, "shape": (2, 2), "classes": 2}, 11)


def _algorithm(method: str, task: Any, model: Any, options: dict[str, Any]) -> Any:
    plan = plans.epochs(1, BATCH)
    step = local.descent(optax.sgd(LR), plan)
    return {
        "fedavg": lambda: algorithms.fedavg(task, step),
        "ditto": lambda: algorithms.ditto(task, step, step, **options),
        "per_fedavg": lambda: algorithms.per_fedavg(task, step, plan, **options),
        "pfedme": lambda: algorithms.pfedme(task, plan, lr=LR, **options),
        "fedper": lambda: algorithms.fedper(task, step, masks.head(model), init="common"),
        "scaffold": lambda: algorithms.scaffold(task, plan, lr=LR),
        "apfl": lambda: algorithms.apfl(task, optax.sgd(LR), plan, **options),
    }[method]()


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("cnn", "fedavg", {}),
        ("mlp", "fedavg", {}),
        ("mlp", "ditto", {"lam": 0.7}),
        ("mlp", "per_fedavg", {"order": "exact", "alpha": 0.1}),
        ("mlp", "per_fedavg", {"order": "first", "alpha": 0.1}),
        ("mlp", "pfedme", {"lam": 3.0, "inner_lr": 0.1, "inner_steps": 2}),
        ("mlp", "fedper", {}),
        ("mlp", "scaffold", {}),
        ("mlp", "apfl", {"alpha": 0.4, "alpha_lr": 0.1}),
    ],
)
def test_the_pytorch_loop_computes_the_same_rounds(model: str, method: str, options: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from experiments.benchmark.rivals import pytorch

    _same_rounds(pytorch.Simulation, model, method, options)


@pytest.mark.parametrize("model", ["logistic", "mlp", "cnn"])
def test_stacked_pytorch_computes_the_same_rounds(model: str) -> None:
    pytest.importorskip("torch")
    from experiments.benchmark.rivals.pytorch_stacked import Stacked

    _same_rounds(Stacked, model, "fedavg", {})


def _same_rounds(rivals: Callable[..., Any], model: str, method: str, options: dict[str, Any]) -> None:
    """Each client repeats one example, so that neither side's random order matters."""
    torch = pytest.importorskip("torch")

    shape, draw = (16, 16, 1), np.random.default_rng(0)
    clients = [
        (np.repeat(draw.integers(0, 256, (1, *shape), dtype=np.uint8), n, 0), np.full(n, n % 5)) for n in (6, 9, 3)
    ]
    made = models.by_name(model, shape, 5)
    task = tasks.classification(made)
    simulation = Simulation(task, _algorithm(method, task, made, options), from_clients(clients, num_classes=5))
    state = simulation.init(jax.random.key(0))

    workload = {"model": model, "model_options": {}, "shape": shape, "classes": 5, "method": method}
    workload |= {"options": options, "cohort": 3, "lr": LR, "batch_size": BATCH, "epochs": 1}
    rival = rivals(workload, lambda: clients)
    rival.server = [torch.from_numpy(leaf) for leaf in _as_torch(state)]

    state, _ = simulation.run(state, jax.random.key(1), 3)
    for _ in range(3):
        rival.round()
    theirs = rival.server[:-2] + rival.kept[0] if method == "fedper" else rival.server
    for own, other in zip(_as_torch(state), theirs, strict=True):
        np.testing.assert_allclose(other.detach().numpy(), own, rtol=2e-4, atol=2e-6)


def _as_torch(state: Any) -> list[np.ndarray]:
    """The server's layers, with client 0's classifier if it is personal; kernels as PyTorch has them."""
    layers = getattr(state.server, "model", state.server).params.trainable
    if layers["classifier"]["kernel"] is None:
        layers = layers | jax.tree.map(lambda rows: rows[0], {"classifier": state.clients.trainable["classifier"]})
    leaves = []
    for name in sorted(layers, key=lambda name: ("Conv", "Dens", "clas").index(name[:4])):
        kernel = np.array(layers[name]["kernel"])
        if name != "classifier":
            kernel = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
        leaves += [kernel.copy(), np.array(layers[name]["bias"])]
    return leaves
