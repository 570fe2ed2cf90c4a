"""SuPerFed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, tasks
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import axpy, close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
LAYERS = {"model": dict.fromkeys(network.BODY + network.HEAD, 0)}
LAYERS["layer"] = dict.fromkeys(network.BODY, 0) | dict.fromkeys(network.HEAD, 1)


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def played(algorithm: Any, **options: Any) -> play.Played:
    return play.play(TASK, algorithm, network.data(), network.ROUNDS, cohort=network.COHORT, **options)


def shares(t: int, i: int, step: int, layers: int) -> list[float]:
    """The client's lam of one step, for each layer."""
    noise = jax.random.fold_in(jax.random.fold_in(play._client_key(t, i), 0), local._NOISE)
    key = jax.random.fold_in(jax.random.fold_in(noise, step), 1)
    return [float(jax.random.uniform(jax.random.fold_in(key, layer))) for layer in range(layers)]


def squared_cosine(a: reference.Tree, b: reference.Tree) -> tuple[float, reference.Tree]:
    """And its gradient in a."""
    ab, aa, bb = reference.inner(a, b), reference.inner(a, a), reference.inner(b, b)
    value = ab**2 / (aa * bb)
    return value, {name: 2 * ab / (aa * bb) * b[name] - 2 * value / aa * a[name] for name in a}


def superfed(
    f: reference.Federation, w: Any, own: Any, layer: dict[str, int], *, lr: float, mu: float, nu: float, start: int
) -> tuple[Any, list]:
    """The shared model and the personal ones."""
    own = list(own)
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y, v = w, own[i]
            for step, rows in enumerate(f.batches(t, i, 0)):
                drawn = shares(t, i, step, 1 + max(layer.values())) if t >= start else [0.0, 0.0]
                lam = {name: drawn[place] for name, place in layer.items()}
                g = f.gradient({name: (1 - lam[name]) * y[name] + lam[name] * v[name] for name in y}, rows)
                slope = {name: (1 - lam[name]) * g[name] for name in y}
                slope = axpy(2 * mu, axpy(-1.0, w, y), slope)
                mine = {name: lam[name] * g[name] for name in y}
                if t >= start:
                    slope = axpy(nu, squared_cosine(y, v)[1], slope)
                    mine = axpy(nu, squared_cosine(v, y)[1], mine)
                y, v = axpy(-lr, slope, y), axpy(-lr, mine, v)
            results.append(y)
            own[i] = v
        w = reference.average(results, [f.sizes[i] for i in cohort])
    return w, own


@pytest.mark.parametrize("mixing", ["model", "layer"])
def test_superfed_against_loops(mixing):
    """The first round is one of FedAvg with a pull."""
    hyper: dict[str, Any] = {"mu": 0.05, "nu": 0.7, "start": 1}
    run, f = played(algorithms.superfed(TASK, solver(), mixing=mixing, lam=0.3, **hyper)), network.federation()
    own = [network.flat(row) for row in each(run.start.clients.trainable)]
    assert np.abs(own[0]["W1"] - own[1]["W1"]).max() > 0.1
    w, own = superfed(
        f, network.flat(run.start.server.server.params.trainable), own, LAYERS[mixing], lr=network.LR, **hyper
    )
    play.assert_trees_close(network.flat(run.state.server.server.params.trainable), w)
    deployed = each(run.personalized().trainable)
    for i, row in enumerate(each(run.state.clients.trainable)):
        play.assert_trees_close(network.flat(row), own[i])
        play.assert_trees_close(network.flat(deployed[i]), {name: 0.7 * w[name] + 0.3 * own[i][name] for name in w})


def each(rows: Any) -> list[Any]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in range(5)]


def test_published_numbers_of_the_cosine():
    w, own = {"w": np.array([1.0, 2.0])}, {"w": np.array([1.0, 1.0])}
    value, slope = squared_cosine(w, own)
    close(value, 0.9)
    close(slope["w"], (0.24, -0.12))


def test_before_models_are_mixed_it_is_fedavg():
    run, f = played(algorithms.superfed(TASK, solver(), mu=0.0, start=9.0)), network.federation()
    w = reference.fedavg(f, network.flat(run.start.server.server.params.trainable), lr=network.LR)
    play.assert_trees_close(network.flat(run.state.server.server.params.trainable), w)
    play.assert_bitwise(run.state.clients, run.start.clients)
    for deployed in each(run.personalized().trainable):
        play.assert_trees_close(network.flat(deployed), w)


@pytest.mark.slow
def test_validation_chooses_the_share():
    """Each client validates on what it trains on, where a share of its own model helps; without examples it is 0."""
    data = network.data()
    sizes = np.array([3, 5, 8, 0, 14], np.int32)
    data = dataclasses.replace(data, validation=data.train._replace(size=sizes))
    run = play.play(TASK, algorithms.superfed(TASK, solver(), nu=0.1, start=0.0, lam=None), data, 20)
    w, f = network.flat(run.state.server.server.params.trainable), network.federation()
    own = [network.flat(row) for row in each(run.state.clients.trainable)]
    chosen = []
    for i, row in enumerate(each(run.personalized().trainable)):
        grid = np.arange(11) / 10
        points = [{name: (1 - lam) * w[name] + lam * own[i][name] for name in w} for lam in grid]
        place = int(np.argmin([f.loss(point, f.everything[i]) for point in points])) if sizes[i] else 0
        play.assert_trees_close(network.flat(row), points[place])
        chosen.append(place)
    assert len(set(chosen)) > 2


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"superfed: mixing='layers': did you mean 'layer'\?"):
        algorithms.superfed(TASK, solver(), mixing="layers")  # pyright: ignore[reportArgumentType]
