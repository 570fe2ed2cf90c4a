"""L2GD."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pfljax import algorithms
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.learning import plans
from pfljax.types import Params, Plan, State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(play.KEY)
LONGEST = 40


def longest() -> Plan:
    """As many minibatches as a coin may ask for."""
    return plans.lasting(LONGEST, network.plan())


@pytest.mark.parametrize("cohort", [None, 3])
def test_l2gd_against_loops_over_single_tosses(cohort):
    """Each step as in the paper, with the mean computed anew before each step towards it."""
    lr, lam, p = 0.1, 2.0, 0.4
    build = algorithms.l2gd(network.task(), network.plan(), lr=lr, lam=lam, p=p)
    cohorts = sampling.full() if cohort is None else play.some(cohort)
    simulation = Simulation(network.task(), build, network.data(), cohort=cohorts)
    state = simulation.init(jax.random.key(play.KEY + 1))
    x, f = play.rows(jax.device_get(state.clients.trainable), 5), network.federation(4, cohort, (longest,))
    asked = []
    for t, drawn in enumerate(f.cohorts):
        heads, tails = (int(number) for number in state.server.news)
        asked.append((heads, tails))
        xbar = {name: np.array(leaf) for name, leaf in state.server.server.params.trainable.items()}
        for _ in range(heads):
            if cohort is None:
                xbar = reference.average(x)
            for i in drawn:
                x[i] = reference.axpy(-lr * lam / p, reference.axpy(-1.0, xbar, x[i]), x[i])
        for i in drawn:
            x[i] = reference.descend(x[i], f.gradient, f.batches(t, i, 0)[:tails], lr / (1 - p))
        state, _ = simulation.run(state, KEY, 1)
        play.assert_trees_close(
            jax.device_get(state.server.server.params.trainable), reference.average([x[i] for i in drawn])
        )
    for mine, expected in zip(play.rows(jax.device_get(state.clients.trainable), 5), x, strict=True):
        play.assert_trees_close(mine, expected)
    assert len(set(asked)) > 1
    assert min(min(pair) for pair in asked) >= 1
    assert max(tails for _, tails in asked) <= LONGEST


def quadratic(**hyper: Any) -> Any:
    return algorithms.l2gd(q.task(), plans.full_batch(1, 60), **hyper)


def test_the_stationary_point_as_published():
    """Steps that shorten like 1/t; `x_i` is also the proximal point of `f_i` at the mean."""

    def shorter(round: Any) -> Any:
        return 1 / (round + 10.0)

    run = play.play(q.task(), lambda lr: quadratic(lr=lr, lam=1.0, p=0.5), q.data(), 4000, lr=shorter)
    expected = [(0.482316760636, 0.278831368529), (-0.011788826243, 1.418247052793), (-0.576627370579, 0.812403895438)]
    close(q.prox(np.mean(expected, 0), q.A, q.C, 1.0), expected, 1e-10)
    close(run.state.clients.trainable["w"], expected, 0.02)


def test_steps_that_reach_the_mean_forget_where_clients_were():
    """`lr lam = p` is FedAvg with as many local steps as the coin says."""

    def apart(state: State) -> State:
        return state._replace(clients=Params({"w": np.array(q.C) + 7.0}))

    build = quadratic(lr=0.125, lam=2.0, p=0.25)
    one, other = (play.play(q.task(), build, q.data(), begin=begin) for begin in (apart, lambda state: state))
    play.assert_bitwise(one.state, other.state)
    moved = q.descended(np.zeros(2), q.A, q.C, 0.125 / 0.75, int(one.start.server.news.tails))
    close(one.state.clients.trainable["w"], moved)
    close(one.state.server.server.params.trainable["w"], moved.mean(0))


def test_the_coin():
    """Runs of heads and of tails of the lengths of a coin, so that `p (1 - p)` of the steps need a communication."""
    p, number = 0.3, 20_000
    keys = jax.random.split(jax.random.key(0), number)
    heads, tails = jax.vmap(lambda key: quadratic(p=p).init_server(key, 3).news)(keys)
    assert heads.min() == tails.min() == 1
    for lengths, more in ((heads, p), (tails, 1 - p)):
        mean, spread = 1 / (1 - more), np.sqrt(more) / (1 - more)
        close(lengths.mean(), mean, 4 * spread / np.sqrt(number))
        close((lengths > 1).mean(), more, 4 * np.sqrt(p * (1 - p) / number))
    close(number / (heads.sum() + tails.sum()), p * (1 - p), 0.005)
    assert abs(np.corrcoef(heads, tails)[0, 1]) < 4 / np.sqrt(number)
