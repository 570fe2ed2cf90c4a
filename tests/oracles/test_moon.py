"""MOON."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, losses, tasks
from tests.oracles import contrast, network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

NET, LR = network.model(), network.LR
TASK = tasks.classification(NET)
SOLVE = local.descent(optax.sgd(LR), network.plan())


def train(method, rounds: int = network.ROUNDS) -> play.Played:
    return play.play(TASK, method, network.data(), rounds, cohort=network.COHORT)


def shared(run: play.Played) -> reference.Tree:
    return network.flat(run.state.server.params.trainable)


@pytest.mark.slow
@pytest.mark.parametrize(("mu", "rounds"), [(0.0, 3), (5.0, 1)])
def test_without_a_contrast_and_in_the_first_round_it_is_fedavg(mu, rounds):
    """Received model and last one are equal at first: both cosines are, and their slopes cancel."""
    moon = train(algorithms.moon(TASK, SOLVE, NET, mu=mu), rounds)
    play.assert_trees_close(shared(moon), shared(train(algorithms.fedavg(TASK, SOLVE), rounds)))


def features(w: reference.Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def test_against_a_loop():
    mu, temperature = 2.0, 0.5
    run = train(algorithms.moon(TASK, SOLVE, NET, mu=mu, temperature=temperature), 4)
    f, w = network.federation(4), network.flat(run.start.server.params.trainable)
    previous = [w] * 5
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:

            def contrasted(y, rows, w=w, before=previous[i]):
                x, _ = rows
                z = features(y, x)
                by_z = contrast.slope(z, features(w, x), features(before, x), temperature) / len(x)
                inner = mu * by_z * (1 - z**2)
                g = f.gradient(y, rows)
                return {**g, "W1": g["W1"] + x.T @ inner, "b1": g["b1"] + inner.sum(0)}

            previous[i] = reference.descend(w, contrasted, f.batches(t, i, 0), LR)
            results.append(previous[i])
        w = reference.average(results, f.sizes[cohort])
    play.assert_trees_close(shared(run), w)
    for i, row in enumerate(play.rows(network.flat(run.state.clients.trainable), 5)):
        play.assert_trees_close(row, previous[i])


def test_the_contrast_and_its_slope():
    """By hand: cosines 1/sqrt(2) and 0 at tau = 1/2; and features that are zero have none."""
    z, near, far = (jnp.asarray([row]) for row in ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)))
    value = losses.contrastive(z, near, far, 0.5)
    reference.close(value, np.log(1 + np.exp(-np.sqrt(2))))
    rows = np.random.default_rng(0).normal(size=(3, 4, 5))
    begin, other, third = map(jnp.asarray, rows)
    by_z = play.jax.grad(lambda z: losses.contrastive(z, other, third, 0.7).sum())(begin)
    reference.close(by_z, contrast.slope(rows[0], rows[1], rows[2], 0.7))
    loss, dead = play.jax.value_and_grad(lambda z: losses.contrastive(z, near, far, 0.5).sum())(0 * z)
    reference.close(loss, np.log(2))
    np.testing.assert_array_equal(dead, 0)
