"""CBFL."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local
from pfljax.types import State, Tree
from tests.oracles import groups, network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

CLUSTERS, CODE, WARM_UP = 2, 2, 2


def encoded(encoder: Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ encoder["A"] + encoder["a"])


def reconstruction(encoder: Tree, rows: reference.Rows) -> Tree:
    """The gradient of the mean of `||B tanh(A x + a) + b - x||^2 / 2`, by hand."""
    x, _ = rows
    codes = encoded(encoder, x)
    error = (codes @ encoder["B"] + encoder["b"] - x) / len(x)
    inner = error @ encoder["B"].T * (1 - codes**2)
    return {"A": x.T @ inner, "a": inner.sum(0), "B": codes.T @ error, "b": error.sum(0)}


def named(encoder: Tree) -> Tree:
    layers = {"A": ("encode", "kernel"), "a": ("encode", "bias"), "B": ("decode", "kernel"), "b": ("decode", "bias")}
    return {name: encoder[layer][part] for name, (layer, part) in layers.items()}


def test_autoencoder_communities_and_models_against_loops():
    """Without noise; cohorts, minibatches, and models that have no example in some of them."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    build = partial(
        algorithms.cbfl, network.task(), solve, network.INPUTS, clusters=CLUSTERS, code=CODE, warm_up=WARM_UP
    )
    run = network.train(build, rounds=6, noise=0.0)
    f, start = network.federation(6), run.start.server
    encoder, centers = named(start.encoder.trainable), np.zeros((CLUSTERS, CODE))
    models = play.rows(start.models.trainable, CLUSTERS)

    def community(x: np.ndarray) -> np.ndarray:
        return ((encoded(encoder, x)[:, None] - centers) ** 2).sum(2).argmin(1)

    def of(k: int, w: Tree, rows: reference.Rows) -> Tree:
        x, y = rows
        mine = community(x) == k
        return f.gradient(w, (x[mine], y[mine])) if mine.any() else {name: 0 * leaf for name, leaf in w.items()}

    for t, cohort in enumerate(f.cohorts):
        batches = {i: f.batches(t, i, 0) for i in cohort}
        if t < WARM_UP:
            results = [reference.descend(encoder, reconstruction, batches[i], network.LR) for i in cohort]
            encoder = reference.average(results, f.sizes[cohort].tolist())
        elif t == WARM_UP:
            codes = np.stack([encoded(encoder, f.everything[i][0]).mean(0) for i in cohort])
            labels = groups.best_partition(codes, CLUSTERS)
            centers = np.stack([codes[labels == k].mean(0) for k in range(CLUSTERS)])
            if not np.allclose(centers, run.state.server.centers):  # k-means may number them the other way round
                centers = centers[::-1]
        else:
            counts = {i: np.bincount(community(f.everything[i][0]), minlength=CLUSTERS) for i in cohort}
            assert np.sum(list(counts.values()), axis=0).all()
            for k in range(CLUSTERS):
                results = [reference.descend(models[k], partial(of, k), batches[i], network.LR) for i in cohort]
                models[k] = reference.average(results, [counts[i][k] for i in cohort])
    close(run.state.server.centers, centers)
    play.assert_trees_close(named(run.state.server.encoder.trainable), encoder)
    for k, row in enumerate(play.rows(run.state.server.models.trainable, CLUSTERS)):
        play.assert_trees_close(row, models[k])
    x = np.concatenate([x for x, _ in f.everything])
    outputs = np.stack([np.tanh(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"] for w in models])
    predict = build(noise=0.0).predict
    assert predict is not None
    close(
        predict(jax.tree.map(jnp.asarray, run.state.server), jnp.asarray(x)), outputs[community(x), np.arange(len(x))]
    )


@pytest.mark.slow
def test_one_community_is_fedavg():
    """The models of FedAvg, whose rounds begin after the warm-up; noise moves the autoencoder alone."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    build = partial(algorithms.cbfl, network.task(), solve, network.INPUTS, clusters=1, warm_up=1)
    run = network.train(build, rounds=4, noise=0.5)

    def later(state: State) -> State:
        return state._replace(round=jnp.asarray(2))

    fedavg = network.train(algorithms.fedavg(network.task(), solve), rounds=2, begin=later)
    expected = fedavg.state.server.params.trainable
    play.assert_trees_close(play.rows(run.state.server.models.trainable, 1)[0], expected)
