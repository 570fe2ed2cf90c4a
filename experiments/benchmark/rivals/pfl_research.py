"""pfl-research: its FederatedAveraging or SCAFFOLD on its simulated backend, with its PyTorch model."""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints, WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.algorithm.scaffold import SCAFFOLD, SCAFFOLDParams
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.data.sampling import MinimizeReuseUserSampler
from pfl.data.user_state import InMemoryUserStateStorage
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel

from .layers import Examples, channels_first, layers, same_size, shapes
from .threads import fastest_for


def about() -> dict[str, str]:
    """Versions, and the number of threads that was chosen."""
    versions = {name: metadata.version(name) for name in ("pfl", "torch")}
    return {**versions, "threads": str(torch.get_num_threads())}


def prepare(workload: dict[str, Any], examples: Examples, source: str | None) -> Callable[[], None]:
    """One central iteration of pfl-research without evaluation; the first, which always evaluates, runs here.

    As the library has it, a client's batches are cut once and come in the same order in every round.

    Raises:
      NotImplementedError: for a method that needs another local solver, or a model that is not written here.
    """
    del source
    torch.manual_seed(0)
    module = network(workload)
    same_size(workload, sum(p.numel() for p in module.parameters()))
    fastest_for(module, workload)
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), 1.0))
    clients = [
        PyTorchTensorDataset((torch.from_numpy(channels_first(x)), torch.from_numpy(y).long()), user_id=str(i))
        for i, (x, y) in enumerate(examples())
    ]
    data = FederatedDataset(clients.__getitem__, MinimizeReuseUserSampler(range(len(clients))))
    algorithm, more, weighting = _algorithm(workload["method"], len(clients))
    backend = SimulatedBackend(data, data, postprocessors=[weighting])
    train = NNTrainHyperParams(
        local_batch_size=workload["batch_size"],
        local_num_epochs=workload["epochs"],
        local_learning_rate=workload["lr"],
    )
    done = 0

    def round_() -> None:
        nonlocal done
        done += 1
        params = {"evaluation_frequency": 10**9, "train_cohort_size": workload["cohort"], "val_cohort_size": None}
        algorithm.run(
            more(central_num_iterations=done, **params), backend, model, train, send_metrics_to_platform=False
        )

    round_()
    return round_


def _algorithm(method: str, population: int) -> tuple[Any, Callable[..., Any], Any]:
    if method == "fedavg":
        return FederatedAveraging(), NNAlgorithmParams, WeightByDatapoints()
    if method == "scaffold":
        keep = {"use_gradient_as_control_variate": False, "user_state_storage": InMemoryUserStateStorage()}
        return SCAFFOLD(), partial(SCAFFOLDParams, population=population, **keep), WeightByUser()
    raise NotImplementedError(f"pfl-research has no {method}: it has FedAvg, FedProx, Reptile and SCAFFOLD")


def network(workload: dict[str, Any]) -> torch.nn.Module:
    """The model with the `loss` and `metrics` that the library asks for."""
    convolutions, _, (before, after) = layers(workload)
    pooled = [pool for *_, pool in convolutions]
    parts: list[torch.nn.Module] = []
    for outputs, inputs, *kernel in (size for size in shapes(workload) if len(size) > 1):
        if kernel:
            parts += [torch.nn.Conv2d(inputs, outputs, kernel)]
            parts += [torch.nn.MaxPool2d(2)] if pooled.pop(0) else []
        else:
            parts += [torch.nn.Flatten(), torch.nn.Linear(inputs, outputs)]
        parts += [torch.nn.ReLU()]
    classifier = parts[-2]
    first = next(i for i, part in enumerate(parts) if isinstance(part, torch.nn.Flatten))
    parts = [*parts[:first], torch.nn.Dropout(before), *parts[first:-2], torch.nn.Dropout(after), classifier]
    return Classifier(*(part for part in parts if getattr(part, "p", 1.0)))


class Classifier(torch.nn.Sequential):
    """A network with its loss."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy of a minibatch."""
        return torch.nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        """The loss as the library's evaluation wants it."""
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}
