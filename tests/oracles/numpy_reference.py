"""Methods as loops over clients in NumPy, written from the papers' equations.

A tree is a flat dict of arrays. Batches are inputs: `batches(round, client, phase)` lists the `(x, y)` of the local
steps, with the rows that count and no others. Functions return new trees and change no argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Tree = dict[str, Any]
Rows = tuple[Any, np.ndarray]
Gradient = Callable[[Tree, Rows], Tree]
Batches = Callable[[int, int, int], list[Rows]]


class Federation(NamedTuple):
    """What the loops run over."""

    gradient: Gradient  # of the mean loss over rows
    loss: Callable[[Tree, Rows], float]
    batches: Batches
    cohorts: Sequence[Sequence[int]]  # the clients of each round
    everything: list[Rows]  # all training rows of each client

    @property
    def sizes(self) -> np.ndarray:
        return np.array([len(y) for _, y in self.everything], float)


def close(actual: Any, expected: Any, atol: float = 1e-12) -> None:
    """Equal up to `atol`."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)


def quadratic_loss(w: Tree, rows: Rows) -> float:
    """Mean over rows of `(w - c)' A (w - c) / 2`."""
    x, _ = rows
    return float(np.mean([(w["w"] - c) @ A @ (w["w"] - c) / 2 for A, c in zip(x["A"], x["c"], strict=True)]))


def quadratic_gradient(w: Tree, rows: Rows) -> Tree:
    """Mean over rows of `A (w - c)`."""
    x, _ = rows
    return {"w": np.mean([A @ (w["w"] - c) for A, c in zip(x["A"], x["c"], strict=True)], axis=0)}


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - np.real(z).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def network_loss(w: Tree, rows: Rows) -> float:
    """Mean cross-entropy of `tanh(x W1 + b1) W2 + b2`; without `W1`, of `x W2 + b2`."""
    x, y = rows
    features = np.tanh(x @ w["W1"] + w["b1"]) if "W1" in w else x
    return float(-np.log(_softmax(features @ w["W2"] + w["b2"])[np.arange(len(y)), y]).mean())


def network_gradient(w: Tree, rows: Rows) -> Tree:
    """Backpropagation by hand. Analytic in `w`, so that complex steps through it are exact."""
    x, y = rows
    features = np.tanh(x @ w["W1"] + w["b1"]) if "W1" in w else x
    error = (_softmax(features @ w["W2"] + w["b2"]) - np.eye(w["b2"].size)[y]) / len(y)
    top = {"W2": features.T @ error, "b2": error.sum(0)}
    if "W1" not in w:
        return top
    inner = error @ w["W2"].T * (1 - features**2)
    return {"W1": x.T @ inner, "b1": inner.sum(0), **top}


def axpy(factor: float, a: Tree, b: Tree) -> Tree:
    """`factor a + b`."""
    return {name: factor * a[name] + b[name] for name in b}


def average(trees: Sequence[Tree], weights: Sequence[float] | np.ndarray | None = None) -> Tree:
    """Mean with weights, all equal by default."""
    return {name: np.average([tree[name] for tree in trees], axis=0, weights=weights) for name in trees[0]}


def inner(a: Tree, b: Tree) -> float:
    """Sum over leaves of elementwise products."""
    return float(sum(np.sum(a[name] * b[name]) for name in a))


def hessian_vector(gradient: Gradient, w: Tree, rows: Rows, v: Tree) -> Tree:
    """`H(w) v` by a complex step through the gradient: exact to rounding."""
    h = 1e-30
    return {name: g.imag / h for name, g in gradient({n: w[n] + 1j * h * v[n] for n in w}, rows).items()}


def proximal(gradient: Gradient, lam: float, reference: Tree) -> Gradient:
    """Gradient of `f(w) + lam/2 |w - reference|^2`."""
    return lambda w, rows: axpy(lam, axpy(-1.0, reference, w), gradient(w, rows))


def descend(
    w: Tree,
    gradient: Gradient,
    batches: Sequence[Rows],
    lr: float,
    *,
    momentum: float = 0.0,
    decay: float = 0.0,
    trained: Sequence[str] | None = None,
) -> Tree:
    """Heavy-ball SGD with weight decay in the gradient, from rest; leaves outside `trained` stay."""
    w, velocity = dict(w), dict.fromkeys(w, 0.0)
    for rows in batches:
        step = gradient(w, rows)
        for name in w if trained is None else trained:
            velocity[name] = step[name] + decay * w[name] + momentum * velocity[name]
            w[name] = w[name] - lr * velocity[name]
    return w


def _weights(f: Federation, cohort: Sequence[int], by_n: bool) -> list[float]:
    return [f.sizes[i] if by_n else 1.0 for i in cohort]


def fedavg(
    f: Federation, w: Tree, *, lr: float, mu: float = 0.0, server_lr: float = 1.0, by_n: bool = True, **sgd: Any
) -> Tree:
    """FedAvg, FedProx (`mu`), Reptile (`server_lr`)."""
    for t, cohort in enumerate(f.cohorts):
        results = [descend(w, proximal(f.gradient, mu, w), f.batches(t, i, 0), lr, **sgd) for i in cohort]
        w = axpy(server_lr, axpy(-1.0, w, average(results, _weights(f, cohort, by_n))), w)
    return w


def local_only(f: Federation, v: Sequence[Tree], *, lr: float, **sgd: Any) -> list[Tree]:
    """Every member of a cohort trains its own model."""
    v = list(v)
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            v[i] = descend(v[i], f.gradient, f.batches(t, i, 0), lr, **sgd)
    return v


def sharing(
    f: Federation,
    w: Tree,
    private: Sequence[Tree],
    *,
    phases: Sequence[tuple[Sequence[str] | None, float]],
    by_n: bool = True,
    **sgd: Any,
) -> tuple[Tree, list[Tree]]:
    """FedPer, FedRep, LG-FedAvg, FedBN: `w` shared leaves, `private` the rest; a phase trains some leaves at a lr."""
    private = list(private)
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y = {**w, **private[i]}
            for phase, (names, lr) in enumerate(phases):
                y = descend(y, f.gradient, f.batches(t, i, phase), lr, trained=names, **sgd)
            results.append({name: y[name] for name in w})
            private[i] = {name: y[name] for name in private[i]}
        w = average(results, _weights(f, cohort, by_n))
    return w, private


def scaffold(
    f: Federation, x: Tree, *, lr: float, server_lr: float = 1.0, option: str = "II"
) -> tuple[Tree, Tree, list[Tree]]:
    """Server model, server control c, client controls c_i."""
    zero = {name: np.zeros_like(leaf) for name, leaf in x.items()}
    c, own = zero, [zero] * len(f.everything)
    for t, cohort in enumerate(f.cohorts):
        moves, changes = [], []
        for i in cohort:
            correction, steps, y = axpy(-1.0, own[i], c), f.batches(t, i, 0), x
            for rows in steps:
                y = axpy(-lr, axpy(1.0, correction, f.gradient(y, rows)), y)
            if option == "I":
                new = f.gradient(x, f.everything[i])
            else:
                new = axpy(1 / (len(steps) * lr), axpy(-1.0, y, x), axpy(-1.0, c, own[i]))
            moves.append(axpy(-1.0, x, y))
            changes.append(axpy(-1.0, own[i], new))
            own[i] = new
        x = axpy(server_lr, average(moves), x)
        c = axpy(len(cohort) / len(f.everything), average(changes), c)
    return x, c, own


def ditto(
    f: Federation, w: Tree, v: Sequence[Tree], *, lr: float, personal_lr: float, lam: float
) -> tuple[Tree, list[Tree]]:
    """Both solvers see the batches of phase 0; the reference is the model of the round's start."""
    v = list(v)
    for t, cohort in enumerate(f.cohorts):
        for i in cohort:
            v[i] = descend(v[i], proximal(f.gradient, lam, w), f.batches(t, i, 0), personal_lr)
        results = [descend(w, f.gradient, f.batches(t, i, 0), lr) for i in cohort]
        w = average(results, _weights(f, cohort, True))
    return w, v


def pfedme(
    f: Federation,
    w: Tree,
    theta: Sequence[Tree],
    *,
    lr: float,
    inner_lr: float,
    lam: float,
    beta: float = 1.0,
    inner_steps: int = 5,
    start: str = "warm",
) -> tuple[Tree, list[Tree], list[Tree]]:
    """Server model, theta_i, and the local models w_i of the last round (in the order of its cohort)."""
    theta, own = list(theta), []
    for t, cohort in enumerate(f.cohorts):
        own = []
        for i in cohort:
            wi = personal = w
            for rows in f.batches(t, i, 0):
                personal = personal if start == "warm" else wi
                for _ in range(inner_steps):
                    personal = axpy(-inner_lr, proximal(f.gradient, lam, wi)(personal, rows), personal)
                wi = axpy(-lr * lam, axpy(-1.0, personal, wi), wi)
            theta[i] = personal
            own.append(wi)
        w = axpy(beta, axpy(-1.0, w, average(own)), w)
    return w, theta, own


def _halves(rows: Rows) -> tuple[Rows, Rows]:
    x, y = rows
    support, query = [
        ({k: leaf[s] for k, leaf in x.items()} if isinstance(x, dict) else x[s], y[s])
        for s in (slice(0, None, 2), slice(1, None, 2))
    ]
    return support, query if len(query[1]) else support


def meta_gradient(gradient: Gradient, w: Tree, rows: Rows, alpha: float, order: str, delta: float = 1e-3) -> Tree:
    """`(I - alpha H(w)) g(w - alpha g(w))`: g at w and H on the even rows, g after adaptation on the odd ones."""
    support, query = _halves(rows)
    g = gradient(axpy(-alpha, gradient(w, support), w), query)
    if order == "first":
        return g
    if order == "exact":
        curved = hessian_vector(gradient, w, support, g)
    else:
        up, down = gradient(axpy(delta, g, w), support), gradient(axpy(-delta, g, w), support)
        curved = {name: (up[name] - down[name]) / (2 * delta) for name in w}
    return axpy(-alpha, curved, g)


def per_fedavg(f: Federation, w: Tree, *, lr: float, alpha: float, order: str) -> Tree:
    """FedAvg on the loss after one step of adaptation, uniform weights."""

    def direction(y: Tree, rows: Rows) -> Tree:
        return meta_gradient(f.gradient, y, rows, alpha, order)

    for t, cohort in enumerate(f.cohorts):
        w = average([descend(w, direction, f.batches(t, i, 0), lr) for i in cohort])
    return w


def apfl(
    f: Federation,
    w: Tree,
    v: Sequence[Tree],
    alpha: Sequence[float],
    *,
    lr: float,
    alpha_lr: float = 0.0,
    alpha_reg: float = 0.0,
    chain: bool = True,
) -> tuple[Tree, list[Tree], list[float]]:
    """All gradients at the start of a step; alpha moves at the first step of a round."""
    v, alpha = list(v), list(alpha)
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y = w
            for k, rows in enumerate(f.batches(t, i, 0)):
                mixture = {name: alpha[i] * v[i][name] + (1 - alpha[i]) * y[name] for name in y}
                at_mixture, at_y = f.gradient(mixture, rows), f.gradient(y, rows)
                slope = inner(axpy(-1.0, y, v[i]), at_mixture)
                v[i] = axpy(-lr * (alpha[i] if chain else 1), at_mixture, v[i])
                y = axpy(-lr, at_y, y)
                if k == 0:
                    alpha[i] = float(np.clip(alpha[i] - alpha_lr * (slope + alpha_reg * alpha[i]), 0, 1))
            results.append(y)
        w = average(results, _weights(f, cohort, True))
    return w, v, alpha


def nearest(f: Federation, models: Sequence[Tree], i: int) -> int:
    """The model with the smallest loss on all rows of client i; the first of equals."""
    return int(np.argmin([f.loss(model, f.everything[i]) for model in models]))


def ifca(f: Federation, models: Sequence[Tree], *, lr: float) -> list[Tree]:
    """Model averaging: each cluster becomes the plain mean of its members' results; an empty one stays."""
    models = list(models)
    for t, cohort in enumerate(f.cohorts):
        chosen = [nearest(f, models, i) for i in cohort]
        results = [descend(models[k], f.gradient, f.batches(t, i, 0), lr) for i, k in zip(cohort, chosen, strict=True)]
        for k in set(chosen):
            models[k] = average([result for result, own in zip(results, chosen, strict=True) if own == k])
    return models


def flat(tree: Tree) -> np.ndarray:
    """All leaves in one vector."""
    return np.concatenate([np.ravel(tree[name]) for name in sorted(tree)])


def fedamp_weights(table: Sequence[Tree], *, alpha: float, sigma: float) -> np.ndarray:
    """Xi [N, N] for A(x) = 1 - exp(-x / sigma)."""
    w = np.stack([flat(tree) for tree in table])
    xi = np.zeros((len(w), len(w)))
    for i in range(len(w)):
        for j in range(len(w)):
            if i != j:
                xi[i, j] = alpha * np.exp(-np.sum((w[i] - w[j]) ** 2) / sigma) / sigma
        xi[i, i] = 1 - xi[i].sum()
    return xi


def heurfedamp_weights(table: Sequence[Tree], *, sigma: float, self_weight: float) -> np.ndarray:
    """Xi [N, N] from cosines."""
    w = np.stack([flat(tree) for tree in table])
    xi = np.zeros((len(w), len(w)))
    for i in range(len(w)):
        for j in range(len(w)):
            if i != j:
                xi[i, j] = np.exp(sigma * w[i] @ w[j] / np.linalg.norm(w[i]) / np.linalg.norm(w[j]))
        xi[i] *= (1 - self_weight) / xi[i].sum()
        xi[i, i] = self_weight
    return xi


def fedamp(
    f: Federation,
    table: Sequence[Tree],
    *,
    lr: float,
    lam: float,
    alpha: float,
    weights: Callable[[Sequence[Tree]], np.ndarray],
    start: str = "cloud",
) -> list[Tree]:
    """The server's table of models after the rounds."""
    table = list(table)
    for t, cohort in enumerate(f.cohorts):
        xi, old = weights(table), list(table)
        for i in cohort:
            u = average(old, xi[i])
            begin = u if start == "cloud" else old[i]
            table[i] = descend(begin, proximal(f.gradient, lam / alpha, u), f.batches(t, i, 0), lr)
    return table


def class_counts(f: Federation, i: int, classes: int) -> np.ndarray:
    """Training rows of each class that client i holds."""
    return np.array([(f.everything[i][1] == c).sum() for c in range(classes)], float)


def two_heads(w: Tree, own: Tree, rows: Rows, counts: np.ndarray, gamma: float) -> tuple[Tree, Tree]:
    """Gradients of FedRoD: of body and head by balanced softmax, of the second head by what both predict."""
    x, y = rows
    z, goal = np.tanh(x @ w["W1"] + w["b1"]), np.eye(len(counts))[y]
    generic = z @ w["W2"] + w["b2"]
    balanced = np.exp(generic) * counts**gamma
    error = (balanced / balanced.sum(1, keepdims=True) - goal) / len(y)
    inner = error @ w["W2"].T * (1 - z**2)
    shared = {"W1": x.T @ inner, "b1": inner.sum(0), "W2": z.T @ error, "b2": error.sum(0)}
    error = (_softmax(generic + z @ own["W2"] + own["b2"]) - goal) / len(y)
    return shared, {"W2": z.T @ error, "b2": error.sum(0)}


def fedrod(
    f: Federation, w: Tree, own: Sequence[Tree], *, lr: float, personal_lr: float, gamma: float = 1.0
) -> tuple[Tree, list[Tree]]:
    """The shared model and the clients' heads: in each step both gradients are taken, then both move."""
    own = list(own)
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y, counts = w, class_counts(f, i, len(w["b2"]))
            for rows in f.batches(t, i, 0):
                shared, personal = two_heads(y, own[i], rows, counts, gamma)
                y, own[i] = axpy(-lr, shared, y), axpy(-personal_lr, personal, own[i])
            results.append(y)
        w = average(results, _weights(f, cohort, True))
    return w, own


def made_head(g: Tree, shares: np.ndarray, like: Tree) -> tuple[Tree, np.ndarray]:
    """`V relu(U pi + u) + v` as a head, and the hidden layer."""
    hidden = np.maximum(shares @ g["U"] + g["u"], 0)
    flat = hidden @ g["V"] + g["v"]
    split = like["W2"].size
    return {"W2": flat[:split].reshape(like["W2"].shape), "b2": flat[split:]}, hidden


def fedrod_hyper(f: Federation, w: Tree, g: Tree, *, lr: float, gamma: float = 1.0) -> tuple[Tree, Tree]:
    """The shared model and the shared network of heads."""
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y, net, counts = w, g, class_counts(f, i, len(w["b2"]))
            shares = counts / counts.sum()
            for rows in f.batches(t, i, 0):
                own, hidden = made_head(net, shares, w)
                shared, personal = two_heads(y, own, rows, counts, gamma)
                slope = np.concatenate([personal["W2"].ravel(), personal["b2"]])
                inner = net["V"] @ slope * (hidden > 0)
                gradient = {"U": np.outer(shares, inner), "u": inner, "V": np.outer(hidden, slope), "v": slope}
                y, net = axpy(-lr, shared, y), axpy(-lr, gradient, net)
            results.append((y, net))
        weights = _weights(f, cohort, True)
        w, g = (average([result[part] for result in results], weights) for part in (0, 1))
    return w, g


def nearest_vote(
    z: np.ndarray, keys: np.ndarray, values: np.ndarray, classes: int, *, k: int, scale: float
) -> np.ndarray:
    """kNN-Per's p_knn [C] of one example."""
    distances = [float(np.sum((z - key) ** 2)) for key in keys]
    votes = np.zeros(classes)
    for s in sorted(range(len(keys)), key=distances.__getitem__)[:k]:
        votes[values[s]] += np.exp(-distances[s] / (len(z) * scale))
    return votes / votes.sum()


def fedfomo(
    f: Federation,
    theta: Sequence[Tree],
    validation: Sequence[Rows],
    candidates: Sequence[Sequence[Sequence[int]]],
    *,
    lr: float,
) -> tuple[list[Tree], np.ndarray]:
    """The clients' models and P; `candidates[t][i]` are those of client i in round t."""
    theta, affinity = list(theta), np.zeros((len(theta), len(theta)))
    for t, cohort in enumerate(f.cohorts):
        old = list(theta)
        for i in cohort:
            weights = {}
            for j in candidates[t][i]:
                apart = np.linalg.norm(flat(old[j]) - flat(old[i]))
                if apart > 0 and len(validation[i][1]):
                    weights[j] = (f.loss(old[i], validation[i]) - f.loss(old[j], validation[i])) / apart
                    affinity[i, j] += weights[j]
            positive = {j: weight for j, weight in weights.items() if weight > 0}
            for j, weight in positive.items():
                theta[i] = axpy(weight / sum(positive.values()), axpy(-1.0, old[i], old[j]), theta[i])
            theta[i] = descend(theta[i], f.gradient, f.batches(t, i, 0), lr)
    return theta, affinity


def logits(w: Tree, x: np.ndarray) -> np.ndarray:
    """`tanh(x W1 + b1) W2 + b2`."""
    return np.tanh(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"]


def feddf(
    f: Federation, w: Tree, x: np.ndarray, *, lr: float, distil_steps: int, distil_lr: float, by_n: bool = True
) -> Tree:
    """FedAvg, then Adam with a cosine on `KL(softmax(mean_k z(x; w_k)) || softmax(z(x; w)))` over all of x."""
    for t, cohort in enumerate(f.cohorts):
        results = [descend(w, f.gradient, f.batches(t, i, 0), lr) for i in cohort]
        w = average(results, _weights(f, cohort, by_n))
        goal = _softmax(np.mean([logits(y, x) for y in results], axis=0))
        m, v = ({name: np.zeros_like(leaf) for name, leaf in w.items()} for _ in range(2))
        for step in range(distil_steps):
            z = np.tanh(x @ w["W1"] + w["b1"])
            error = (_softmax(z @ w["W2"] + w["b2"]) - goal) / len(x)
            inner = error @ w["W2"].T * (1 - z**2)
            g = {"W1": x.T @ inner, "b1": inner.sum(0), "W2": z.T @ error, "b2": error.sum(0)}
            rate = distil_lr * (1 + np.cos(np.pi * step / distil_steps)) / 2
            m = {name: 0.9 * m[name] + 0.1 * g[name] for name in g}
            v = {name: 0.999 * v[name] + 0.001 * g[name] ** 2 for name in g}
            unbiased = {name: m[name] / (1 - 0.9 ** (step + 1)) for name in g}
            scale = {name: np.sqrt(v[name] / (1 - 0.999 ** (step + 1))) + 1e-8 for name in g}
            w = {name: w[name] - rate * unbiased[name] / scale[name] for name in g}
    return w


def responsibilities(losses: np.ndarray, pi: np.ndarray) -> np.ndarray:
    """FedEM's q [n, M] from the losses [n, M] of the models."""
    q = pi * np.exp(-losses)
    return q / q.sum(1, keepdims=True)


def fedem(f: Federation, models: Sequence[Tree], pi: Sequence[np.ndarray], *, lr: float) -> tuple[list[Tree], list]:
    """The shared models and the clients' weights; q is that of the models as they were received."""
    models, pi = list(models), list(pi)

    def of(received: Sequence[Tree], weights: np.ndarray, rows: Rows) -> np.ndarray:
        x, y = rows
        each = [[f.loss(w, (x[s : s + 1], y[s : s + 1])) for w in received] for s in range(len(y))]
        return responsibilities(np.array(each), weights)

    def weighted(q: np.ndarray, w: Tree, rows: Rows) -> Tree:
        x, y = rows
        return average([axpy(q[s] - 1, g, g) for s in range(len(y)) for g in [f.gradient(w, (x[s:][:1], y[s:][:1]))]])

    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            own, trained = pi[i], list(models)
            for rows in f.batches(t, i, 0):
                q = of(models, own, rows)
                trained = [axpy(-lr, weighted(q[:, m], w, rows), w) for m, w in enumerate(trained)]
            results.append(trained)
            pi[i] = of(models, own, f.everything[i]).mean(0)
        models = [average([each[m] for each in results], _weights(f, cohort, True)) for m in range(len(models))]
    return models, pi
