"""FedLC, FedDecorr and FedSR: FedAvg on losses that know classes or features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.feddecorr import _correlation
from pfljax.data import from_clients
from pfljax.learning import local, tasks
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import axpy, close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
KEY = jax.random.key(0)


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def calibrated(logits: np.ndarray, y: np.ndarray, n: np.ndarray, tau: float, inclusive: bool) -> tuple[float, Any]:
    """Mean loss over examples, and its slope in the logits; class by class."""
    losses, slopes = [], np.zeros_like(logits)
    for s, own in enumerate(y):
        shifted = {c: logits[s, c] - tau * n[c] ** -0.25 for c in range(len(n)) if n[c]}
        total = sum(np.exp(z) for c, z in shifted.items() if inclusive or c != own)
        losses.append(-np.log(np.exp(shifted[own]) / total))
        for c, z in shifted.items():
            slopes[s, c] = (np.exp(z) / total if inclusive or c != own else 0) - (c == own)
    return float(np.mean(losses)), slopes / len(y)


def fedlc(f: reference.Federation, w: Any, *, lr: float, tau: float, inclusive: bool) -> Any:
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y, n = w, reference.class_counts(f, i, network.CLASSES)
            for x, labels in f.batches(t, i, 0):
                z = np.tanh(x @ y["W1"] + y["b1"])
                error = calibrated(z @ y["W2"] + y["b2"], labels, n, tau, inclusive)[1]
                inner = error @ y["W2"].T * (1 - z**2)
                g = {"W1": x.T @ inner, "b1": inner.sum(0), "W2": z.T @ error, "b2": error.sum(0)}
                y = axpy(-lr, g, y)
            results.append(y)
        w = reference.average(results, [f.sizes[i] for i in cohort])
    return w


@pytest.mark.parametrize("denominator", ["inclusive", "exclusive"])
def test_fedlc_against_loops(denominator):
    """Every client lacks a class."""
    build = algorithms.fedlc(TASK, solver(), MODEL, tau=0.8, denominator=denominator)
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT)
    start = network.flat(run.start.server.params.trainable)
    w = fedlc(network.federation(), start, lr=network.LR, tau=0.8, inclusive=denominator == "inclusive")
    play.assert_trees_close(network.flat(run.state.server.params.trainable), w)


def test_published_losses():
    logits, n = np.array([[1.0, 0, -1]]), np.array([1.0, 16, 81])
    expected = {(0, True): 0.626006769616, (2, True): 1.959340102950}
    expected |= {(0, False): -0.139115184066, (2, False): 1.807410317513}
    for (y, inclusive), loss in expected.items():
        close(calibrated(logits, np.array([y]), n, 1.0, inclusive)[0], loss)


def test_equal_numbers_of_all_classes_are_fedavg():
    rng = np.random.default_rng(0)
    data = from_clients([(rng.normal(size=(n, network.INPUTS)), np.arange(n) % 3) for n in (3, 6, 9)], num_classes=3)
    build = algorithms.fedlc(TASK, solver(), MODEL, tau=2.0)
    calibrates, fedavg = (play.play(TASK, each, data, 2) for each in (build, algorithms.fedavg(TASK, solver())))
    play.assert_trees_close(*(network.flat(run.state.server.params.trainable) for run in (calibrates, fedavg)))


def correlation(z: np.ndarray) -> Any:
    """`||K||_F^2 / d^2`, entry by entry of K."""
    u = z - z.mean(0)
    u = u / np.sqrt((u**2).mean(0))
    n, d = z.shape
    return sum((sum(u[s, a] * u[s, b] for s in range(n)) / n) ** 2 for a in range(d) for b in range(d)) / d**2


def test_feddecorr_against_loops():
    """The slope of the correlation by complex steps; a batch of one example has none."""

    def gradient(w: Any, rows: reference.Rows) -> Any:
        x, y = rows
        slope = reference.network_gradient(w, rows)
        for name in network.BODY if len(y) > 1 else ():
            for place in np.ndindex(w[name].shape):
                moved = {part: leaf.astype(complex) for part, leaf in w.items()}
                moved[name][place] += 1e-30j
                z = np.tanh(x @ moved["W1"] + moved["b1"])
                slope[name][place] += 0.7 * correlation(z).imag / 1e-30
        return slope

    build = algorithms.feddecorr(TASK, solver(), MODEL, beta=0.7)
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()
    assert {len(y) for _, y in f.batches(0, f.cohorts[0][-1], 0)} - {4}
    start = network.flat(run.start.server.params.trainable)
    w = reference.fedavg(f._replace(gradient=gradient), start, lr=network.LR)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), w, 1e-11)


def test_published_correlation():
    """Padding and constant features count for nothing."""
    z = np.array([[0.0, 1], [1, 0], [2, 2], [3, 1]])
    close(correlation(z), 0.55)
    close(_correlation(jnp.asarray(z), jnp.ones(4)), 0.55)
    padded = jnp.asarray(np.vstack([z, [[9.0, 9.0]]]))
    close(_correlation(padded, jnp.array([1.0, 1, 1, 1, 0])), 0.55)
    constant = jnp.asarray(np.hstack([z, np.full((4, 1), 3.0)]))
    close(_correlation(constant, jnp.ones(4)), 0.55 * 4 / 9)
    close(_correlation(jnp.asarray(z[:1]), jnp.ones(1)), 0)


def softplus(x: Any) -> Any:
    return np.log(1 + np.exp(x))


def stochastic(w: Any, rows: reference.Rows, noise: np.ndarray, alpha: float, beta: float) -> Any:
    """FedSR's loss of a batch, with what was drawn."""
    x, y = rows
    mu = np.tanh(x @ w["W1"] + w["b1"])
    sigma, s = softplus(mu @ w["S"] + w["b"]), softplus(w["t"][y])
    z = mu + sigma * noise
    logits = z @ w["W2"] + w["b2"]
    ce = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]
    kl = (np.log(s) - np.log(sigma) + (sigma**2 + (mu - w["r"][y]) ** 2) / (2 * s**2) - 0.5).sum(1)
    return np.mean(ce + alpha * np.sqrt((z**2).sum(1) + 1e-12) + beta * kl)


def test_fedsr_against_loops():
    """Slopes by complex steps, noise as the clients draw it; what is deployed is without."""
    alpha, beta, f = 0.2, 0.3, network.federation(rounds=2)
    run = play.play(
        TASK, algorithms.fedsr(TASK, solver(), MODEL, alpha=alpha, beta=beta), network.data(), 2, cohort=network.COHORT
    )
    w = network.flat(run.start.server.params.trainable["model"]) | run.start.server.params.trainable["noise"]
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            own = w
            for step, rows in enumerate(f.batches(t, i, 0)):
                drawn = jax.random.fold_in(jax.random.fold_in(play._client_key(t, i), 0), local._NOISE)
                drawn = jax.random.fold_in(jax.random.fold_in(drawn, step), 1)
                noise = np.asarray(jax.random.normal(drawn, (4, network.HIDDEN), float))[: len(rows[1])]
                slope = {}
                for name, leaf in own.items():
                    slope[name] = np.zeros_like(leaf)
                    for place in np.ndindex(leaf.shape):
                        moved = leaf.astype(complex)
                        moved[place] += 1e-30j
                        slope[name][place] = stochastic({**own, name: moved}, rows, noise, alpha, beta).imag / 1e-30
                own = axpy(-network.LR, slope, own)
            results.append(own)
        w = reference.average(results, [f.sizes[i] for i in cohort])
    end = run.state.server.params.trainable
    play.assert_trees_close(network.flat(end["model"]) | end["noise"], w, 1e-11)
    for i in range(5):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], run.personalized().trainable)
        play.assert_trees_close(network.flat(own), network.flat(end["model"]), 0)


def test_fedsr_without_noise_and_terms_is_fedavg():
    def silent(state: Any) -> Any:
        params = state.server.params
        noise = params.trainable["noise"] | {"b": jnp.full(network.HIDDEN, -60.0)}
        return state._replace(
            server=state.server._replace(params=params._replace(trainable={**params.trainable, "noise": noise}))
        )

    build = algorithms.fedsr(TASK, solver(), MODEL, alpha=0.0, beta=0.0)
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT, begin=silent)
    w = reference.fedavg(network.federation(), network.flat(run.start.server.params.trainable["model"]), lr=network.LR)
    play.assert_trees_close(network.flat(run.state.server.params.trainable["model"]), w)


def test_what_they_need():
    with pytest.raises(ValueError, match="feddecorr reads features, and the model has none"):
        algorithms.feddecorr(TASK, solver(), MODEL._replace(features=None))
    real = from_clients([(np.ones((3, 3)), np.ones(3))])
    with pytest.raises(ValueError, match="fedlc needs one class for each example, and labels are float"):
        algorithms.fedlc(TASK, solver(), MODEL).client_update(TASK.init(KEY), (), real.client(0), KEY)
