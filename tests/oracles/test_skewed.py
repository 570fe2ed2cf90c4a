"""FedLC, FedDecorr and elastic aggregation: one common model for labels that are dealt unevenly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.feddecorr import decorrelation
from pfljax.algorithms.fedlc import Denominator, calibrated
from pfljax.learning import local, plans, tasks
from pfljax.types import Algorithm, Cohort, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import Tree, close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
SOLVE = local.descent(optax.sgd(network.LR), network.plan())
FULL = local.descent(optax.sgd(network.LR), plans.full_batch(2, max(network.SIZES)))


def trained(build: Algorithm) -> tuple[Tree, Tree]:
    """The model before and after."""
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT)
    return tuple(network.flat(state.server.params.trainable) for state in (run.start, run.state))


def averaged(w: Tree, results: dict[int, Tree]) -> Tree:
    sizes = network.federation().sizes
    return reference.average(list(results.values()), [sizes[i] for i in results])


def features(w: Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def backward(w: Tree, x: np.ndarray, error: np.ndarray, slope: Any = 0.0) -> Tree:
    """Gradients from those of the logits, and of the features beside them."""
    z = features(w, x)
    inner = (error @ w["W2"].T + slope) * (1 - z**2)
    return {"W1": x.T @ inner, "b1": inner.sum(0), "W2": z.T @ error, "b2": error.sum(0)}


@pytest.mark.parametrize("denominator", ["inclusive", "exclusive"])
def test_fedlc_against_a_loop(denominator: Any) -> None:
    """Only classes that a client has are in its sum."""
    start, end = trained(algorithms.fedlc(TASK, SOLVE, MODEL, tau=1.3, denominator=denominator))
    f, w = network.federation(), start

    def gradient(i: int) -> reference.Gradient:
        held = {k: n for k in range(network.CLASSES) if (n := int((f.everything[i][1] == k).sum()))}

        def of(v: Tree, rows: Any) -> Tree:
            x, y = rows
            logits, error = reference.logits(v, x), np.zeros((len(y), network.CLASSES))
            for s, label in enumerate(y):
                part = {k: np.exp(logits[s, k] - 1.3 * n**-0.25) for k, n in held.items()}
                if denominator == "exclusive":
                    part.pop(int(label))
                for k, weight in part.items():
                    error[s, k] = weight / sum(part.values())
                error[s, label] -= bool(part)
            return backward(v, x, error / len(y))

        return of

    for t, cohort in enumerate(f.cohorts):
        w = averaged(w, {i: reference.descend(w, gradient(i), f.batches(t, i, 0), network.LR) for i in cohort})
    play.assert_trees_close(end, w)


def test_the_constants_of_fedlc() -> None:
    shifted = jnp.array([[1.0, 0.0, -1.0]] * 2) - jnp.array([1.0, 16.0, 81.0])[None] ** -0.25
    close(calibrated(shifted, jnp.array([0, 2]), "inclusive"), (0.626006769616, 1.959340102950))
    close(calibrated(shifted, jnp.array([0, 2]), "exclusive"), (-0.139115184066, 1.807410317513))
    alone = jnp.array([[0.3, -jnp.inf, -jnp.inf]])
    for denominator in get_args(Denominator):
        value, slope = jax.value_and_grad(lambda z, how=denominator: calibrated(z, jnp.array([0]), how)[0])(alone)
        assert value == 0
        assert np.isfinite(slope[0, 0])


def test_feddecorr_against_a_loop() -> None:
    """Correlations by NumPy, their gradient by complex steps through them."""
    start, end = trained(algorithms.feddecorr(TASK, SOLVE, MODEL, beta=0.7))
    f, w = network.federation(), start

    def penalty(z: np.ndarray) -> Any:
        off = (z - z.mean(0)) / np.sqrt(((z - z.mean(0)) ** 2).mean(0) + 1e-8)
        return ((off.T @ off / len(z)) ** 2).sum() / z.shape[1] ** 2

    def gradient(v: Tree, rows: Any) -> Tree:
        x, _ = rows
        z, slope = features(v, x), np.zeros((len(x), network.HIDDEN))
        for place in np.ndindex(z.shape):
            nudge = np.zeros(z.shape, complex)
            nudge[place] = 1e-30j
            slope[place] = penalty(z + nudge).imag / 1e-30
        decorrelating = backward(v, x, np.zeros((len(x), network.CLASSES)), 0.7 * slope)
        return {name: g + decorrelating[name] for name, g in f.gradient(v, rows).items()}

    for t, cohort in enumerate(f.cohorts):
        w = averaged(w, {i: reference.descend(w, gradient, f.batches(t, i, 0), network.LR) for i in cohort})
    play.assert_trees_close(end, w, 1e-9)


def test_the_constant_of_feddecorr() -> None:
    z = jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
    close(decorrelation(z, jnp.ones(4)), 0.55, 1e-7)


def test_elastic_aggregation_against_a_loop() -> None:
    """A part of the examples is looked at, and the rest trains; each leaf moves by a part of its own."""
    build = algorithms.elastic_aggregation(TASK, FULL, tau=0.4, mu=0.8, share=0.4, batch_size=2)
    start, end = trained(build)
    f, w = network.federation(), start
    for cohort in f.cohorts:
        results, felt = {}, {}
        for i in cohort:
            (x, y), aside = f.everything[i], int(0.4 * len(f.everything[i][1]))
            felt[i] = dict.fromkeys(w, 0.0)
            for s in range(0, aside, 2):
                g = f.gradient(w, (x[s : min(s + 2, aside)], y[s : min(s + 2, aside)]))
                felt[i] = {name: 0.8 * felt[i][name] + 0.2 * (g[name] ** 2).sum() for name in w}
            results[i] = reference.descend(w, f.gradient, [(x[aside:], y[aside:])] * 2, network.LR)
        typical, mean = averaged(w, felt), averaged(w, results)
        zeta = {name: 1.4 - typical[name] / max(each[name] for each in felt.values()) for name in w}
        w = {name: w[name] + zeta[name] * (mean[name] - w[name]) for name in w}
    play.assert_trees_close(end, w)


def two(a: Any, b: Any) -> Params:
    return Params({"a": jnp.asarray(a), "b": jnp.asarray(b)})


def test_the_constants_of_elastic_aggregation() -> None:
    """`zeta` of the table of three clients and two leaves, read off a step from 0."""
    task = TASK._replace(init=lambda key: two(0.0, 0.0))
    algorithm = algorithms.elastic_aggregation(task, SOLVE, tau=0.5)
    each = two(jnp.array([1.0, 0.5, 2.0]), jnp.array([0.5, 0.25, 0.25])).trainable
    typical = jax.tree.map(jnp.mean, each)
    moved = two(-1.0, -1.0)
    cohort = Cohort(jnp.arange(3), ((moved, typical), (moved, each)), jnp.ones(3))
    after = algorithm.server_update(algorithm.init_server(jax.random.key(0), 3), cohort, jax.random.key(0))
    close(list(after.params.trainable.values()), (0.916666666667, 0.833333333333))


@pytest.mark.slow
def test_where_each_is_fedavg() -> None:
    """No correlations; as sensitive everywhere, so that all examples count; margins of no strength."""
    _, plain = trained(algorithms.fedavg(TASK, SOLVE))
    made: Sequence[Algorithm] = (
        algorithms.feddecorr(TASK, SOLVE, MODEL, beta=0.0),
        algorithms.elastic_aggregation(TASK, SOLVE, tau=1.0, share=0.0),
    )
    for build in made:
        play.assert_trees_close(trained(build)[1], plain)
