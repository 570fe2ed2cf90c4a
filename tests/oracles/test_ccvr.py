"""CCVR."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.ccvr import gaussians, moments, virtual
from pfljax.data import from_clients
from pfljax.learning import local, plans, tasks
from pfljax.types import Model, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

MODEL, SAMPLES, RATE, STEPS = network.model(), 6, 0.5, 4
TASK = tasks.classification(MODEL)
SOLVE = local.descent(optax.sgd(network.LR), network.plan())
TUNE = local.descent(optax.sgd(RATE), plans.full_batch(STEPS, network.CLASSES * SAMPLES))

# Examples are their features.
PLAIN = Model(
    lambda key: Params({}), lambda params, x, **_: (x, {}), lambda params, z, **_: (z, {}), features_shape=(2,)
)


def pooled(clients: list[tuple]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the server makes of what clients `(x, y)` send."""
    data = from_clients(clients, num_classes=2)
    sent = [moments(PLAIN, Params({}), data.client(i), 2) for i in range(len(clients))]
    sizes = np.array([len(y) for _, y in clients], float)
    mean = jax.tree.map(lambda *leaves: jnp.asarray(np.average(leaves, axis=0, weights=sizes)), *sent)
    return gaussians(mean, jnp.asarray(sizes.sum()))


def test_means_and_covariances_are_those_of_all_examples_however_they_are_dealt() -> None:
    """The constants of the specification, then any partition; classes of one example and of none."""
    first, second = [[0.0, 0.0], [2.0, 0.0]], [[4.0, 1.0], [4.0, 3.0], [1.0, 2.0]]
    N, mu, S = pooled([(first, [0, 0]), (second, [0, 0, 0])])
    close(mu[0], (2.2, 1.2))
    close(S[0], [[3.2, 1.2], [1.2, 1.7]])
    np.testing.assert_array_equal(N, [5, 0])
    assert not mu[1].any()
    assert not S[1].any()
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(30, 2)), np.append(draw.integers(0, 2, 29) * 0, 1)
    for cuts in ([10], [1, 2, 29], [15, 20]):
        parts = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
        N, mu, S = pooled(list(parts))
        close(mu[0], x[y == 0].mean(0))
        close(S[0], np.cov(x[y == 0], rowvar=False))
        close(mu[1], x[-1])
        close(S[1], 0)


@pytest.mark.slow
def test_draws_are_spread_as_they_should_be() -> None:
    S = jnp.array([[[3.2, 1.2], [1.2, 1.7]], [[1.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    mu = jnp.array([[2.0, 1.0], [-1.0, 0.0], [9.0, 9.0]])
    drawn = virtual(jnp.array([5.0, 0.0, 4.0]), mu, S, jax.random.key(0), 20_000)
    assert int(drawn.size) == 40_000
    x, y = np.asarray(drawn.examples.x)[:40_000], np.asarray(drawn.examples.y)[:40_000]
    assert set(y.tolist()) == {0, 2}, "a class that nobody has is not drawn"
    for k in (0, 2):
        np.testing.assert_allclose(x[y == k].mean(0), mu[k], atol=0.05)
        np.testing.assert_allclose(np.cov(x[y == k], rowvar=False), S[k], atol=0.1)


@pytest.mark.parametrize("power", [None, 0.5])
def test_against_a_loop(power: float | None) -> None:
    """The server model is that of FedAvg, bit for bit, and the head that is deployed one that was trained on draws.

    With a power the features are transformed, and so they are where clients predict.
    """
    method: Any = algorithms.ccvr(TASK, SOLVE, TUNE, MODEL, samples=SAMPLES, power=power)
    run = play.play(TASK, method, network.data(), 3, cohort=3)
    plain = play.play(TASK, algorithms.fedavg(TASK, SOLVE), network.data(), 3, cohort=3)
    play.assert_bitwise(run.state.server.model.params, plain.state.server.params)
    keys = jax.random.key(play.KEY), jax.random.key(play.KEY + 1)
    before, _ = run.simulation.advance(run.simulation.init(keys[1]), keys[0], 2, 4)
    states = jax.device_get(before), run.state
    w, new = (network.flat(state.server.model.params.trainable) for state in states)
    f = network.federation()
    x, y = (np.concatenate(part) for part in zip(*(f.everything[i] for i in run.cohorts[-1]), strict=True))
    z = hidden(w, x)
    z = np.sign(z) * np.abs(z) ** (power or 1)
    counts = np.bincount(y, minlength=network.CLASSES)
    mu = np.stack([z[y == k].mean(0) for k in range(network.CLASSES)])
    S = np.stack([np.cov(z[y == k], rowvar=False) if n > 1 else np.zeros((4, 4)) for k, n in enumerate(counts)])
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(keys[0], 2), 2), 0)  # of the server in round 2
    drawn = virtual(jnp.asarray(counts, float), jnp.asarray(mu), jnp.asarray(S), key, SAMPLES)
    head = {name: new[name] for name in network.HEAD}
    goal = np.eye(network.CLASSES)[np.asarray(drawn.examples.y)]
    features = np.asarray(drawn.examples.x)
    for _ in range(STEPS):
        p = np.exp(features @ head["W2"] + head["b2"])
        error = (p / p.sum(1, keepdims=True) - goal) / len(goal)
        head = reference.axpy(-RATE, {"W2": features.T @ error, "b2": error.sum(0)}, head)
    for own in play.rows(network.flat(run.personalized().trainable), 5):
        play.assert_trees_close(own, new | head, 1e-8)
    if power:
        own, z = jax.tree.map(lambda leaf: leaf[0], run.personalized()), hidden(new, x)
        seen = np.sign(z) * np.sqrt(np.abs(z))
        close(method.predict(own, x), seen @ head["W2"] + head["b2"], 1e-8)


@pytest.mark.slow
def test_the_first_power_leaves_features_as_they_are() -> None:
    plain, powered = (
        play.play(TASK, algorithms.ccvr(TASK, SOLVE, TUNE, MODEL, samples=SAMPLES, power=power), network.data(), 2)
        for power in (None, 1.0)
    )
    for one, other in zip(*(jax.tree.leaves(run.state.server) for run in (plain, powered)), strict=True):
        close(one, other, 1e-12)


def hidden(w: dict, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="samples=0: it must be a whole number of at least 1"):
        algorithms.ccvr(TASK, SOLVE, TUNE, MODEL, samples=0)
    with pytest.raises(ValueError, match="ccvr draws features, and the model has none"):
        algorithms.ccvr(TASK, SOLVE, TUNE, MODEL._replace(features=None))
