"""Elastic aggregation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.server import Server
from pfljax.learning import local, plans
from pfljax.types import Cohort, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import axpy, close

pytestmark = pytest.mark.usefixtures("x64")


def method(**hyper: Any) -> Any:
    """Five minibatches for the sensitivity, each of all examples."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    return algorithms.elastic_aggregation(network.task(), solve, plans.full_batch(5, max(network.SIZES)), **hyper)


def elastic(f: reference.Federation, w: Any, *, lr: float, tau: float, mu: float, batches: int) -> Any:
    for t, cohort in enumerate(f.cohorts):
        moved, S = [], []
        for i in cohort:
            own = dict.fromkeys(w, 0.0)
            for _ in range(batches):
                g = f.gradient(w, f.everything[i])
                own = {name: mu * own[name] + (1 - mu) * np.sum(g[name] ** 2) for name in w}
            S.append(own)
            moved.append(axpy(-1.0, w, reference.descend(w, f.gradient, f.batches(t, i, 0), lr)))
        p = [f.sizes[i] / sum(f.sizes[j] for j in cohort) for i in cohort]
        mean = reference.average(moved, p)
        zeta = {n: 1 + tau - sum(q * own[n] for q, own in zip(p, S, strict=True)) / max(own[n] for own in S) for n in w}
        w = {name: w[name] + zeta[name] * mean[name] for name in w}
    return w


def test_elastic_aggregation_against_loops():
    run = network.train(method(tau=0.4, mu=0.8, share=0.5))
    start = run.start.server.params.trainable
    w = elastic(network.federation(), start, lr=network.LR, tau=0.4, mu=0.8, batches=3)
    play.assert_trees_close(run.state.server.params.trainable, w)


def test_published_steps():
    """Sensitivities of two leaves at three clients that count equally."""
    S = {"a": jnp.array([1.0, 0.5, 2.0]), "b": jnp.array([0.5, 0.25, 0.25])}
    moved = Params({"a": jnp.full((3, 2), -1.0), "b": jnp.full(3, -1.0)})
    uploads, weights = (moved, S), jnp.ones(3)
    build, w = method(), Params({"a": jnp.zeros(2), "b": jnp.zeros(())})
    cohort = Cohort(jnp.arange(3), build.reduce.lower(uploads, weights), weights)
    after = build.server_update(Server(w, optax.sgd(1.0).init(w.trainable)), cohort, jax.random.key(0))
    close(after.params.trainable["a"], [0.916666666667] * 2)
    close(after.params.trainable["b"], 0.833333333333)


def test_equal_sensitivities_and_a_tau_of_one_are_fedavg():
    """One client has the mean and the largest sensitivity."""
    run = network.train(method(tau=1.0), cohort=1)
    w = reference.fedavg(network.federation(cohort=1), run.start.server.params.trainable, lr=network.LR)
    play.assert_trees_close(run.state.server.params.trainable, w)
