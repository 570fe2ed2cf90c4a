"""FedSR."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, tasks
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import axpy

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


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


@pytest.mark.slow
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


def test_what_it_needs():
    with pytest.raises(ValueError, match="fedsr draws features, and the model has none"):
        algorithms.fedsr(TASK, solver(), MODEL._replace(features=None))
