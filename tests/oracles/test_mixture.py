"""APFL."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import plans
from pfljax.types import Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK = q.task()
V = np.array([[1.5, -0.5], [0.5, 1.0], [-2.0, 0.0]])


def test_one_step_moves_along_three_gradients():
    def begin(state):
        return state._replace(clients=state.clients._replace(v=Params({"w": np.array(V)})))

    build = algorithms.apfl(TASK, optax.sgd(q.LR), plans.full_batch(1, 60), alpha=0.5, alpha_lr=0.2)
    run = play.play(TASK, build, q.data(), begin=begin)
    # Client 1, from the published numbers
    moved = run.state.clients.v.trainable["w"]
    close(moved[0], V[0] - q.LR * np.array((-0.125, -0.25)), 1e-14)
    close(run.state.clients.alpha[0], 0.5 + 0.2 * 0.125, 1e-14)
    # All of them: the gradient at the mixture V / 2, the slope along alpha <v - 0, gradient>
    slopes = np.stack([a @ (v / 2 - c) for a, v, c in zip(q.A, V, q.C, strict=True)])
    close(moved, V - q.LR * slopes / 2, 1e-14)
    alpha = np.clip(0.5 - 0.2 * (V * slopes).sum(1), 0, 1)
    close(run.state.clients.alpha, alpha, 1e-14)
    w = q.shares(q.N) @ q.descended(np.zeros(2), q.A, q.C, q.LR, 1)
    close(run.state.server.params.trainable["w"], w, 1e-14)
    mixed = alpha[:, None] * moved + (1 - alpha[:, None]) * w
    close(run.personalized().trainable["w"], mixed, 1e-14)


@pytest.mark.parametrize(
    "hyper",
    [{"alpha_lr": 0.0}, {"alpha_lr": 3.0}, {"alpha_lr": 1.0, "alpha_reg": 0.5, "chain": False}],
    ids=["fixed", "adaptive", "as in code"],
)
def test_apfl_against_loops(hyper):
    build = algorithms.apfl(network.task(), optax.sgd(network.LR), network.plan(), alpha=0.4, **hyper)
    run = network.train(build)
    start = run.start.server.params.trainable
    w, v, alpha = reference.apfl(
        network.federation(), start, play.rows(run.start.clients.v.trainable, 5), [0.4] * 5, lr=network.LR, **hyper
    )
    assert (np.std(alpha) > 1e-3) == (hyper["alpha_lr"] > 0)
    play.assert_trees_close(run.state.server.params.trainable, w)
    close(run.state.clients.alpha, alpha)
    for i, row in enumerate(play.rows(run.state.clients.v.trainable, 5)):
        play.assert_trees_close(row, v[i])


def test_outputs_are_mixed():
    """Of the two models that are trained as ever; where outputs are linear in the weights it makes no difference."""
    x = np.random.default_rng(3).normal(size=(6, network.INPUTS))
    for hidden in (False, True):
        task = network.task(hidden)
        build: Any = algorithms.apfl(task, optax.sgd(network.LR), network.plan(), alpha=0.3, mix="outputs")
        pairs = network.train(build, hidden=hidden).personalized()
        for i in range(5):
            pair = jax.tree.map(lambda leaf, i=i: leaf[i], pairs)
            v, w = (np.asarray(task.predict(part, x)) for part in (pair.own.v, pair.w))
            assert np.abs(v - w).max() > 1e-3
            said, single = build.predict(pair, x), jax.tree.map(lambda v, w: 0.3 * v + 0.7 * w, pair.own.v, pair.w)
            close(said, 0.3 * v + 0.7 * w)
            assert np.allclose(said, task.predict(single, x), rtol=0, atol=1e-12) != hidden
    with pytest.raises(ValueError, match=r"apfl: mix='output': did you mean 'outputs'\?"):
        algorithms.apfl(TASK, optax.sgd(0.1), plans.full_batch(1, 60), mix="output")  # pyright: ignore[reportArgumentType]
