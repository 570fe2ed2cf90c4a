"""PyTorch with stacked clients: `vmap(grad(loss))` steps all clients of a cohort at once.

No loader, no modules, no optimizer objects; of one thread and all cores the faster is taken. Where clients have
different sizes, they are sorted, so that each step is one of those that are not finished.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .layers import Examples
from .pytorch import DEVICE, Weights, about, network, normalised
from .threads import fastest

__all__ = ["about", "prepare"]


def prepare(workload: dict[str, Any], examples: Examples, source: str | None) -> Callable[[], None]:
    """One round of FedAvg: draw the cohort, train its clients side by side, average.

    Raises:
      NotImplementedError: for another method, a model that `vmap` cannot stack, or one that this folder lacks.
    """
    del source
    torch.manual_seed(0)
    simulation = Stacked(workload, examples)
    fastest(lambda: simulation.update(simulation.draw(), steps=10))
    return simulation.round


class Stacked:
    """The examples of all clients, padded to the longest, and the server's model."""

    def __init__(self, workload: dict[str, Any], examples: Examples) -> None:
        if workload["method"] != "fedavg":
            raise NotImplementedError(f"no {workload['method']} with stacked clients, only fedavg")
        if workload["model"] == "char_lstm":
            raise NotImplementedError("torch.func.vmap has no rule for LSTM layers")
        self.workload = workload
        self.forward, server = network(workload)
        self.server = [p.contiguous() for p in server]  # vmap knows no channels-last
        clients = examples()
        self.x = pad_sequence([normalised(x, workload["model"]) for x, _ in clients], batch_first=True)
        self.y = pad_sequence([torch.from_numpy(y).long().to(DEVICE) for _, y in clients], batch_first=True)
        self.sizes = torch.tensor([len(y) for _, y in clients], device=DEVICE)
        self.gradients = vmap(grad(self.loss), randomness="different")

    def loss(self, weights: Weights, x: Any, y: Any, mask: Any) -> Any:
        """Mean cross-entropy of the examples of a minibatch that are there."""
        return (F.cross_entropy(self.forward(weights, x), y, reduction="none") * mask).sum() / mask.sum()

    def draw(self) -> Any:
        """The cohort's clients, [M], those with most examples first."""
        cohort = torch.randperm(len(self.sizes), device=DEVICE)[: self.workload["cohort"]]
        return cohort[self.sizes[cohort].argsort(descending=True)]

    def update(self, cohort: Any, steps: int | None = None) -> Weights:
        """The mean of the cohort's models after its local epochs, or so many `steps` of each."""
        sizes, size = self.sizes[cohort], self.workload["batch_size"]
        training = (sizes > torch.arange(0, int(sizes[0]), size, device=DEVICE)[:, None]).sum(1).tolist()
        weights = [p.expand(len(cohort), *p.shape).clone() for p in self.server]
        for _ in range(self.workload["epochs"]):
            batches = self.shuffled(sizes).split(size, dim=1)
            for count, rows in list(zip(training, batches, strict=True))[:steps]:
                self.step([p[:count] for p in weights], cohort[:count, None], rows[:count])
        shares = sizes / sizes.sum()
        return [torch.tensordot(shares, p, 1) for p in weights]

    def step(self, w: Weights, clients: Any, rows: Any) -> None:
        """Moves the models of these clients [m, 1] by a step on these examples [m, B]."""
        mask = (rows < self.sizes[clients]).float()
        grads = self.gradients(w, self.x[clients, rows], self.y[clients, rows], mask)
        torch._foreach_add_(w, list(grads), alpha=-self.workload["lr"])

    def shuffled(self, sizes: Any) -> Any:
        """[M, longest] places of each client's examples in a fresh order, padding behind them."""
        places = torch.arange(int(sizes[0]), device=DEVICE)
        drawn = torch.rand(len(sizes), len(places), device=DEVICE)
        return drawn.masked_fill(places >= sizes[:, None], 2.0).argsort(1)

    def round(self) -> None:
        """One round, finished when it returns."""
        self.server = self.update(self.draw())
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
