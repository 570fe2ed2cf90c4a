"""A loop in bare PyTorch: no data loader, no modules, one client after another, updates in place.

As fast as such a loop goes without changing what it computes: the examples lie normalised in memory, an epoch gathers
its permutation once, the update is written in place (an optimizer object costs half as much again on small models),
images are channels-last, and of one thread and all cores the faster is taken.
"""
# pyright: reportMissingImports=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from .layers import Examples, Layers, layers, shapes
from .threads import fastest

Weights = list[Any]
Forward = Callable[[Weights, Any], Any]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def about() -> dict[str, str]:
    """Versions, the device, and the number of threads that was chosen."""
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
    return {"torch": torch.__version__, "device": name, "threads": str(torch.get_num_threads())}


def prepare(workload: dict[str, Any], examples: Examples, source: str | None) -> Callable[[], None]:
    """One round of `workload`: draw the cohort, train its clients one after another, average.

    Raises:
      NotImplementedError: for a model or a method that this loop lacks.
    """
    del source
    torch.manual_seed(0)
    simulation = Simulation(workload, examples)
    few = range(min(2, len(simulation.clients)))
    fastest(lambda: simulation.update(few))
    return simulation.round


def normalised(x: Any, model: str) -> Any:
    """Bytes as numbers in [-1, 1], images [n, channels, height, width]; tokens as integers; on the device."""
    tensor = torch.from_numpy(x).to(DEVICE)
    if model == "char_lstm":
        return tensor.long()
    tensor = tensor.float() / 127.5 - 1
    if model in ("logistic", "mlp"):
        return tensor.flatten(1)
    tensor = tensor[..., None] if tensor.ndim == 3 else tensor
    return tensor.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


class Simulation:
    """The clients' examples, the server's model and what clients keep."""

    def __init__(self, workload: dict[str, Any], examples: Examples) -> None:
        self.workload = workload
        self.options = workload["options"]
        self.lr, self.size, self.epochs = workload["lr"], workload["batch_size"], workload["epochs"]
        self.method = METHODS.get(workload["method"])
        if self.method is None:
            raise NotImplementedError(f"no {workload['method']} here; there are {sorted(METHODS)}")
        self.clients = [
            (normalised(x, workload["model"]), torch.from_numpy(y).long().to(DEVICE)) for x, y in examples()
        ]
        self.forward, self.server = network(workload)
        self.kept: dict[int, Any] = {}
        self.control = [torch.zeros_like(p) for p in self.server]
        self.turned: Weights = []
        self.even = workload["method"] in ("per_fedavg", "pfedme", "scaffold")  # clients count equally there

    def batches(self, client: int) -> Iterator[tuple[Any, Any]]:
        """Minibatches of each epoch, gathered in a fresh order."""
        x, y = self.clients[client]
        for _ in range(self.epochs):
            order = torch.randperm(len(y), device=DEVICE)
            yield from zip(x[order].split(self.size), y[order].split(self.size), strict=True)

    def loss(self, weights: Weights, x: Any, y: Any) -> Any:
        """Mean cross-entropy of a minibatch."""
        return F.cross_entropy(self.forward(weights, x), y)

    def gradient(self, weights: Weights, x: Any, y: Any) -> Any:
        """Of the loss, with respect to each weight."""
        return torch.autograd.grad(self.loss(weights, x, y), weights)

    def update(self, cohort: Any) -> None:
        """The clients' updates and the server's."""
        assert self.method is not None
        total: Weights = []
        mass = 0.0
        for client in cohort:
            weight = 1.0 if self.even else float(len(self.clients[client][1]))
            uploaded = self.method(self, client)
            total = total or [torch.zeros_like(p) for p in uploaded]
            with torch.no_grad():
                torch._foreach_add_(total, uploaded, alpha=weight)
            mass += weight
        for p, t in zip(self.server, total, strict=False):
            torch.div(t, mass, out=p)
        if self.turned:
            torch._foreach_add_(self.control, self.turned, alpha=1 / len(self.clients))
            self.turned = []

    def round(self) -> None:
        """One round with a cohort drawn at random, finished when it returns."""
        population, cohort = len(self.clients), self.workload["cohort"]
        self.update(range(population) if cohort == population else torch.randperm(population)[:cohort].tolist())
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()


def leaves(weights: Weights) -> Weights:
    """A copy that gradients can be taken of."""
    return [p.detach().clone().requires_grad_() for p in weights]


def descend(weights: Weights, grads: Any, lr: float) -> None:
    """`w <- w - lr g`."""
    with torch.no_grad():
        for p, g in zip(weights, grads, strict=True):
            p.sub_(g, alpha=lr)


def pull(weights: Weights, anchor: Weights, share: float) -> None:
    """`w <- w - share (w - anchor)`."""
    with torch.no_grad():
        for p, a in zip(weights, anchor, strict=True):
            p.lerp_(a, share)


def fedavg(sim: Simulation, client: int) -> Weights:
    """Local SGD."""
    w = leaves(sim.server)
    for x, y in sim.batches(client):
        descend(w, sim.gradient(w, x, y), sim.lr)
    return w


def ditto(sim: Simulation, client: int) -> Weights:
    """Local SGD, beside it the personal model with its pull to the server's."""
    w, lam = leaves(sim.server), sim.options.get("lam", 0.5)
    v = sim.kept.setdefault(client, leaves(sim.server))
    for x, y in sim.batches(client):
        descend(w, sim.gradient(w, x, y), sim.lr)
        grads = sim.gradient(v, x, y)
        pull(v, sim.server, sim.lr * lam)
        descend(v, grads, sim.lr)
    return w


def per_fedavg(sim: Simulation, client: int) -> Weights:
    """A step on the loss after a step, on the two halves of each minibatch."""
    w, alpha = leaves(sim.server), sim.options.get("alpha", 0.01)
    exact = sim.options.get("order", "exact") == "exact"
    if sim.options.get("order") == "hessian_free":
        raise NotImplementedError("no Hessian-free Per-FedAvg here")
    for x, y in sim.batches(client):
        odd = slice(1, None, 2) if len(y) > 1 else slice(None)
        step = torch.autograd.grad(sim.loss(w, x[::2], y[::2]), w, create_graph=exact)
        if exact:
            adapted = [p - alpha * g for p, g in zip(w, step, strict=True)]
            meta = torch.autograd.grad(sim.loss(adapted, x[odd], y[odd]), w)
        else:
            adapted = leaves(w)
            descend(adapted, step, alpha)
            meta = sim.gradient(adapted, x[odd], y[odd])
        descend(w, meta, sim.lr)
    return w


def pfedme(sim: Simulation, client: int) -> Weights:
    """Steps towards the minimum of a Moreau envelope, found by inner steps on each minibatch."""
    lam, inner_lr = sim.options.get("lam", 15.0), sim.options.get("inner_lr", 0.05)
    w, theta = [p.clone() for p in sim.server], leaves(sim.server)
    for x, y in sim.batches(client):
        for _ in range(sim.options.get("inner_steps", 5)):
            grads = sim.gradient(theta, x, y)
            pull(theta, w, inner_lr * lam)
            descend(theta, grads, inner_lr)
        pull(w, theta, sim.lr * lam)
    sim.kept[client] = theta
    return w


def fedper(sim: Simulation, client: int) -> Weights:
    """Local SGD; the last layer stays with the client."""
    w = leaves(sim.server[:-2] + sim.kept.get(client, sim.server[-2:]))
    for x, y in sim.batches(client):
        descend(w, sim.gradient(w, x, y), sim.lr)
    sim.kept[client] = w[-2:]
    return w[:-2]


def scaffold(sim: Simulation, client: int) -> Weights:
    """SGD tilted by control variates, option II."""
    y, steps = leaves(sim.server), 0
    own = sim.kept.setdefault(client, [torch.zeros_like(p) for p in y])
    tilt = [c - c_i for c, c_i in zip(sim.control, own, strict=True)]
    for batch in sim.batches(client):
        grads = sim.gradient(y, *batch)
        descend(y, grads, sim.lr)
        descend(y, tilt, sim.lr)
        steps += 1
    new = [(x - p.detach()) / (steps * sim.lr) - t for x, p, t in zip(sim.server, y, tilt, strict=True)]
    turned = [n - c_i for n, c_i in zip(new, own, strict=True)]
    sim.turned = [a + b for a, b in zip(sim.turned, turned, strict=True)] if sim.turned else turned
    sim.kept[client] = new
    return y


def apfl(sim: Simulation, client: int) -> Weights:
    """Local SGD, beside it the personal part of the mixture and its weight."""
    w, alpha_lr = leaves(sim.server), sim.options.get("alpha_lr", 0.0)
    v, alpha = sim.kept.get(client) or (leaves(sim.server), sim.options.get("alpha", 0.5))
    for number, (x, y) in enumerate(sim.batches(client)):
        mixed = [p.detach().lerp(q.detach(), alpha).requires_grad_() for p, q in zip(w, v, strict=True)]
        own, both = sim.gradient(w, x, y), sim.gradient(mixed, x, y)
        slope = 0.0
        if number == 0 and alpha_lr:
            slope = sum(((q - p) * g).sum().item() for p, q, g in zip(w, v, both, strict=True))
        descend(w, own, sim.lr)
        descend(v, both, sim.lr * alpha)
        alpha = min(max(alpha - alpha_lr * slope, 0.0), 1.0)
    sim.kept[client] = v, alpha
    return w


METHODS: dict[str, Callable[[Simulation, int], Weights]] = {
    "apfl": apfl,
    "ditto": ditto,
    "fedavg": fedavg,
    "fedper": fedper,
    "per_fedavg": per_fedavg,
    "pfedme": pfedme,
    "scaffold": scaffold,
}


def network(workload: dict[str, Any]) -> tuple[Forward, Weights]:
    """The model's function `(weights, x) -> logits` and its weights, those of the classifier last."""
    weights = initial(shapes(workload))
    if workload["model"] == "resnet8":
        return resnet8, weights
    if workload["model"] == "char_lstm":
        return partial(char_lstm, silent=torch.zeros_like(weights[3])), weights
    return partial(feed_forward, network=layers(workload)), weights


def initial(sizes: list[tuple[int, ...]]) -> Weights:
    """Normal matrices and kernels of variance one over the fan-in, scales of one before each second bias of a norm."""
    weights: Weights = []
    for i, size in enumerate(sizes):
        if len(size) > 1:
            weight = torch.randn(size) / math.prod(size[1:]) ** 0.5
        else:
            scale = i + 1 < len(sizes) and sizes[i + 1] == size
            weight = torch.ones(size) if scale else torch.zeros(size)
        weight = weight.to(DEVICE)
        weights.append(weight.contiguous(memory_format=torch.channels_last) if len(size) == 4 else weight)
    return weights


def feed_forward(p: Weights, x: Any, *, network: Layers) -> Any:
    """Convolutions, pooling, dropout and dense layers as `network` lists them."""
    place = 0
    for _, _, pooled in network.convolutions:
        x = F.conv2d(x, p[place], p[place + 1])
        x = (F.max_pool2d(x, 2) if pooled else x).relu_()
        place += 2
    before, after = network.dropout
    x = x.flatten(1)
    x = F.dropout(x, before) if before else x
    for _ in network.dense:
        x = F.linear(x, p[place], p[place + 1]).relu_()
        place += 2
    x = F.dropout(x, after) if after else x
    return F.linear(x, p[place], p[place + 1])


def resnet8(p: Weights, x: Any) -> Any:
    """Three residual blocks of two 3x3 convolutions with group norm."""
    remaining = iter(p)

    def convolved(x: Any, stride: int = 1) -> Any:
        kernel, scale, shift = (next(remaining) for _ in range(3))
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return F.group_norm(x, max(len(scale) // 16, 1), scale, shift)

    x = convolved(x).relu_()
    for stride in (1, 2, 2):
        y = convolved(convolved(x, stride).relu_())
        x = F.relu((x if stride == 1 else convolved(x, stride)) + y)
    return F.linear(x.mean((2, 3)), *remaining)


def char_lstm(p: Weights, tokens: Any, *, silent: Any) -> Any:
    """The second bias of PyTorch's cell is held at zero: one bias a gate, as in the other contenders."""
    layers, x = (len(p) - 3) // 3, F.embedding(tokens, p[0])
    flat = [w for i in range(layers) for w in (*p[1 + 3 * i : 4 + 3 * i], silent)]
    start = x.new_zeros(layers, len(x), silent.numel() // 4)
    x = torch.lstm(x, (start, start), flat, True, layers, 0.0, True, False, True)[0]
    return F.linear(x[:, -1], p[-2], p[-1])
