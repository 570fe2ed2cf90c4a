"""Probes: small models, fitted in seconds, whose scores show in what clients differ before any run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pfljax.data.federated import FederatedData, places
from pfljax.data.groups import truth

_CLIENTS, _ROWS, _WIDTH, _GROUPS = 60, 10_000, 48, (2, 3, 4)
_STRENGTHS = (0.1, 1.0, 10.0, 100.0, 1000.0)
_STEPS, _NEAR = 200, 1e-4
_BELIEF = 10.0  # examples that the shares of all classes count for where a client counts its own

PROBES = {
    "shared": "one model for all",
    "priors": "one model, and each client's shares of the classes",
    "standardized": "one model, inputs standardized by client",
    "groups": "a model for each of some groups of clients",
    "near": "models of their own, near the common one",
    "own": "models of their own, from their own examples alone",
}
"""What is fitted, and what it is."""


class Found(NamedTuple):
    """Scores of the probes."""

    scores: dict[str, np.ndarray]  # [M] of each probe, on the clients' test examples
    metric: str  # accuracy, or explained variance
    groups: np.ndarray  # [M] the group of each client, as found or told
    told: bool  # whether the groups are the trait of the clients


class _Client(NamedTuple):
    x: np.ndarray  # [n, d + 1] features and a one
    y: np.ndarray  # [n, C] or [n, outputs]
    held_x: np.ndarray
    held_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def probe(data: FederatedData, *, seed: int = 0) -> Found:
    """Fits each of `PROBES` to training examples and scores it on the clients' test examples.

    Models are linear in up to 48 principal components of the standardized inputs (of texts, of how often each token
    occurs): logistic regressions, `min_W sum_j l(W x_j, y_j) + s/2 |W - W_0|^2`, and least squares for real targets.
    `W_0` is 0 for the common model and for `own` (s = 1), the common model for `near`. Where there is a choice, of s
    and of the number of groups, every fourth training example decides, which no candidate has seen. Groups are the
    trait `group`, or those of K-means on the differences `W_i - W_0`.

    Args:
      data: with test examples; of more than 60 clients that have some, 60 at random count.
      seed: of what is random.

    Raises:
      ValueError: if fewer than two clients have examples to train and test on, or inputs are several arrays.
    """
    data = data.at(0)
    generator = np.random.Generator(np.random.PCG64([seed, 11]))
    ready = np.flatnonzero((data.sizes()[: data.num_clients] > 3) & (data.sizes("test")[: data.num_clients] > 0))
    if len(ready) < 2:
        raise ValueError(
            f"{data.name} has {len(ready)} clients with four examples to train on and one to test: give test=0.25"
        )
    chosen = np.sort(generator.permutation(ready)[:_CLIENTS])
    clients, centred = _clients(data, chosen, _features(data, generator)), data.num_classes is not None
    solve, score = (_logistic, _accuracy) if centred else (_least_squares, _explained(clients))
    common = _fit(clients, solve, generator)
    scores = {"shared": _scored(clients, [common] * len(clients), score)}
    if centred:
        scores["priors"] = _with_priors(clients, common, score)
    alike = [_standardized(client) for client in clients]
    scores["standardized"] = _scored(alike, [_fit(alike, solve, generator)] * len(clients), score)
    near = {s: [solve(c.x, c.y, common, s) for c in clients] for s in _STRENGTHS}
    best = max(_STRENGTHS, key=lambda s: _scored(clients, near[s], score, held=True).mean())
    scores["near"] = _scored(clients, near[best], score)
    known, zero = truth(data), np.zeros_like(common)
    groups = _grouped(clients, near[10.0], common, solve, score, generator) if known is None else known[chosen]
    scores["groups"] = _scored(clients, _of_groups(clients, groups, solve, generator), score)
    scores["own"] = _scored(clients, [solve(c.x, c.y, zero, 1.0) for c in clients], score)
    order = {name: scores[name] for name in PROBES if name in scores}
    return Found(order, "accuracy" if centred else "explained variance", groups, known is not None)


def _features(data: FederatedData, generator: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """Inputs [n, ...] as features [n, d + 1]."""
    x = data.examples.x
    if not hasattr(x, "dtype"):
        raise ValueError(f"an example of {data.name} is several arrays: describe it by its labels and sizes alone")
    tokens = x.dtype.kind in "iu" and x.dtype != np.uint8
    largest = min(int(np.max(x)) + 1, 512) if tokens else 0

    def flat(rows: np.ndarray) -> np.ndarray:
        if not tokens:
            return np.asarray(rows, float).reshape(len(rows), -1)
        flattened = np.minimum(np.asarray(rows).reshape(len(rows), -1), largest - 1)
        return np.stack([np.bincount(row, minlength=largest) for row in flattened]).astype(float)

    held = places(data.train.start[: data.num_clients], data.train.size[: data.num_clients])
    sample = flat(np.asarray(x)[generator.permutation(held)[: _ROWS // 4]])
    mean, scale = sample.mean(0), sample.std(0) + 1e-9
    scale[sample.std(0) < 1e-6] = np.inf
    values, vectors = np.linalg.eigh(np.cov(((sample - mean) / scale).T).reshape(len(mean), -1))
    basis = vectors[:, values > 1e-9][:, -_WIDTH:] / np.sqrt(values[values > 1e-9][-_WIDTH:])

    def features(rows: np.ndarray) -> np.ndarray:
        made = (flat(rows) - mean) / scale @ basis
        return np.concatenate([made, np.ones((len(made), 1))], axis=1)

    return features


def _clients(data: FederatedData, chosen: np.ndarray, features: Callable[..., np.ndarray]) -> list[_Client]:
    x, y = np.asarray(data.examples.x), np.asarray(data.examples.y)
    if data.num_classes is None:
        targets = y.reshape(len(y), -1).astype(float)
    elif y.ndim == 1:
        targets = np.eye(data.num_classes)[y]
    else:
        raise ValueError(f"an example of {data.name} has several labels: describe it by its labels and sizes alone")
    found = []
    for client in chosen:
        rows, tests = (
            places(part.start[client : client + 1], part.size[client : client + 1]) for part in (data.train, data.test)
        )
        held = np.arange(len(rows)) % 4 == 3
        parts = (rows[~held], rows[held], tests)
        found.append(_Client(*(leaf for part in parts for leaf in (features(x[part]), targets[part]))))
    return found


def _fit(clients: list[_Client], solve: Callable[..., np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """One model of all."""
    x, y = np.concatenate([client.x for client in clients]), np.concatenate([client.y for client in clients])
    rows = generator.permutation(len(x))[:_ROWS]
    return solve(x[rows], y[rows], np.zeros((x.shape[1], y.shape[1])), 1.0)


def _logistic(x: np.ndarray, y: np.ndarray, start: np.ndarray, strength: float) -> np.ndarray:
    """Steps of Nesterov's in the metric `X' X / 2 + s I`, which bounds the curvature (Boehning, 1992)."""
    metric = np.linalg.inv(x.T @ x / 2 + strength * np.eye(x.shape[1]))
    w = before = start
    for step in range(_STEPS):
        ahead = w + step / (step + 3) * (w - before)
        logits = x @ ahead
        odds = np.exp(logits - logits.max(1, keepdims=True))
        slope = x.T @ (odds / odds.sum(1, keepdims=True) - y) + strength * (ahead - start)
        before, w = w, ahead - metric @ slope
        if np.abs(w - before).max() < _NEAR:
            break
    return w


def _least_squares(x: np.ndarray, y: np.ndarray, start: np.ndarray, strength: float) -> np.ndarray:
    left = x.T @ x + strength * np.eye(x.shape[1])
    return np.linalg.solve(left, x.T @ y + strength * start)


def _accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    return float((outputs.argmax(1) == y.argmax(1)).mean()) if len(y) else np.nan


def _explained(clients: list[_Client]) -> Callable[[np.ndarray, np.ndarray], float]:
    """`1 - MSE_i / V` with the variance V of all targets, which is that of no client."""
    variance = np.concatenate([client.y for client in clients]).var() + 1e-12
    return lambda outputs, y: float(1 - np.square(outputs - y).mean() / variance) if len(y) else np.nan


def _scored(
    clients: list[_Client], models: list[np.ndarray], score: Callable[..., float], *, held: bool = False
) -> np.ndarray:
    pairs = [(client.held_x, client.held_y) if held else (client.test_x, client.test_y) for client in clients]
    return np.array([score(x @ model, y) for (x, y), model in zip(pairs, models, strict=True)])


def _with_priors(clients: list[_Client], common: np.ndarray, score: Callable[..., float]) -> np.ndarray:
    """Logits plus `log p_i(y) - log p(y)`, of shares that lean on those of all."""
    total = np.sum([client.y.sum(0) for client in clients], axis=0) + 1e-3
    share, scores = total / total.sum(), []
    for client in clients:
        own = (client.y.sum(0) + _BELIEF * share) / (len(client.y) + _BELIEF)
        scores.append(score(client.test_x @ common + np.log(own / share), client.test_y))
    return np.array(scores)


def _standardized(client: _Client) -> _Client:
    mean, scale = client.x[:, :-1].mean(0), client.x[:, :-1].std(0) + 0.1

    def change(x: np.ndarray) -> np.ndarray:
        return np.concatenate([(x[:, :-1] - mean) / scale, x[:, -1:]], axis=1)

    return client._replace(x=change(client.x), held_x=change(client.held_x), test_x=change(client.test_x))


def _grouped(
    clients: list[_Client],
    models: list[np.ndarray],
    common: np.ndarray,
    solve: Callable[..., np.ndarray],
    score: Callable[..., float],
    generator: np.random.Generator,
) -> np.ndarray:
    """The best of some numbers of groups, one among them, by the examples that nobody has seen."""
    from scipy.cluster.vq import kmeans2

    apart = np.stack([(model - common).ravel() for model in models])
    apart = apart / (np.linalg.norm(apart, axis=1, keepdims=True) + 1e-12)
    best, found = -np.inf, np.zeros(len(clients), int)
    for count in (1, *(k for k in _GROUPS if 2 * k <= len(clients))):
        group = kmeans2(apart, count, minit="++", rng=generator)[1] if count > 1 else found
        made = _of_groups(clients, group, solve, generator)
        if (reached := np.nanmean(_scored(clients, made, score, held=True))) > best + 1e-9:
            best, found = reached, group
    return found


def _of_groups(
    clients: list[_Client], group: np.ndarray, solve: Callable[..., np.ndarray], generator: np.random.Generator
) -> list[np.ndarray]:
    models = {
        k: _fit([client for client, mine in zip(clients, group, strict=True) if mine == k], solve, generator)
        for k in np.unique(group)
    }
    return [models[mine] for mine in group]
