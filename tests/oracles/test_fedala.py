"""FedALA."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.learning import local, plans
from pfljax.types import Params, State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

HEAD = masks.named(*network.HEAD)


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def fedala(**options: Any) -> Any:
    """Five steps a pass for the weights, each on all examples of the client."""
    plan = plans.full_batch(5, max(network.SIZES))
    return algorithms.fedala(network.task(), solver(), plan, HEAD, **options)


def mixture(w: Any, v: Any, weights: Any) -> Any:
    return {name: v[name] + (w[name] - v[name]) * weights[name] if name in weights else w[name] for name in w}


def loops(
    f: reference.Federation, w: Any, *, lr: float, weight_lr: float, share: float, passes: int
) -> tuple[Any, list, list, list]:
    """Server model, the clients' models and weights, and how many passes each took at its first time."""
    v, taken = [w] * 5, [0] * 5
    weights = [{name: np.ones_like(w[name]) for name in network.HEAD} for _ in range(5)]
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            losses: list[float] = []
            differs = any(np.any(w[name] != v[i][name]) for name in network.HEAD)
            while True:
                for _ in range(int(np.ceil(5 * share))):
                    g = f.gradient(mixture(w, v[i], weights[i]), f.everything[i])
                    weights[i] = {
                        name: np.clip(a - weight_lr * g[name] * (w[name] - v[i][name]), 0, 1)
                        for name, a in weights[i].items()
                    }
                losses.append(f.loss(mixture(w, v[i], weights[i]), f.everything[i]))
                steady = len(losses) > 10 and np.std(losses[-11:-1]) < 0.1
                if not differs or taken[i] or steady or len(losses) == passes:
                    break
            if differs and not taken[i]:
                taken[i] = len(losses)
            v[i] = reference.descend(mixture(w, v[i], weights[i]), f.gradient, f.batches(t, i, 0), lr)
            results.append(v[i])
        w = reference.average(results, [f.sizes[i] for i in cohort])
    return w, v, weights, taken


@pytest.mark.parametrize("passes", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_fedala_against_loops(passes):
    """Few passes end the first time, or losses that stay as they are; other rounds take one."""
    hyper = {"weight_lr": 5.0, "share": 0.5, "passes": passes}
    run, f = network.train(fedala(**hyper), rounds=4), network.federation(4)
    w, v, weights, taken = loops(f, run.start.server.params.trainable, lr=network.LR, **hyper)
    assert {number for number in taken if number} == ({3} if passes == 3 else {11})
    assert 0 < np.mean(np.concatenate([own["W2"].ravel() for own in weights]) < 1) < 1
    play.assert_trees_close(run.state.server.params.trainable, w)
    close(run.state.clients.fresh, [number == 0 for number in taken])
    deployed = play.rows(run.personalized().trainable, 5)
    for i, row in enumerate(play.rows(run.state.clients.v.trainable, 5)):
        play.assert_trees_close(row, v[i])
        play.assert_trees_close(deployed[i], v[i])
    for mine, expected in zip(play.rows(run.state.clients.weights, 5), weights, strict=True):
        play.assert_trees_close(mine, expected)


def test_weights_and_mixtures_as_published():
    """One step from weights of 1, the clients' models being those after the first round, w their mean."""
    solve = local.descent(optax.sgd(0.0), plans.full_batch(1, 60))
    build = algorithms.fedala(
        q.task(), solve, plans.full_batch(1, 60), masks.everything, share=1.0, passes=1, deploy="mixed"
    )
    trained = q.descended(np.zeros(2), q.A, q.C, q.LR, q.STEPS)

    def begin(state: State) -> State:
        server = state.server._replace(params=Params({"w": q.shares(q.N) @ trained}))
        return state._replace(server=server, clients=state.clients._replace(v=Params({"w": trained})))

    run = play.play(q.task(), build, q.data(), begin=begin)
    weights = [(0.393906173449, 0.687544334911), (0.967298819235, 0.319968615922), (0.73408748168, 1)]
    theta = [
        (0.197832926187, 0.271756482003),
        (-0.123687945834, 0.683429032755),
        (-0.198169453581, 0.395256666667),
    ]
    close(run.state.clients.weights["w"], weights)
    close(run.state.clients.v.trainable["w"], theta)
    first = run.simulation.personalized(begin(run.start), jax.random.key(0))
    close(first.trainable["w"], theta)


@pytest.mark.slow
def test_weights_that_rest_are_fedavg_or_local_only():
    """At 1 nothing is kept of the own model, at 0 everywhere nothing is taken of the server's."""
    run, f = network.train(fedala(weight_lr=0.0)), network.federation()
    start = run.start.server.params.trainable
    play.assert_trees_close(run.state.server.params.trainable, reference.fedavg(f, start, lr=network.LR))
    build = algorithms.fedala(network.task(), solver(), network.plan(), masks.everything, weight_lr=0.0)

    def begin(state: State) -> State:
        nothing = jax.tree.map(jnp.zeros_like, state.clients.weights)
        return state._replace(clients=state.clients._replace(weights=nothing))

    own = play.play(network.task(), build, network.data(), network.ROUNDS, cohort=network.COHORT, begin=begin)
    alone = reference.local_only(f, [start] * 5, lr=network.LR)
    for mine, expected in zip(play.rows(own.state.clients.v.trainable, 5), alone, strict=True):
        play.assert_trees_close(mine, expected)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"fedala: deploy='mix': did you mean 'mixed'\?"):
        fedala(deploy="mix")
