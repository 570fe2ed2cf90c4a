"""L2GD and L2SGD+."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from scipy.linalg import block_diag

from pfljax import algorithms
from pfljax.data import from_clients
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


@pytest.mark.parametrize("cohort", [None, 3])
def test_l2sgd_plus_against_loops_over_single_tosses(cohort):
    """Each step as in the docstring; with everybody the mean is computed anew before each step towards it."""
    lr, lam, p = 0.1, 2.0, 0.4
    build = algorithms.l2sgd_plus(network.task(), network.plan(), lr=lr, lam=lam, p=p)
    cohorts = sampling.full() if cohort is None else play.some(cohort)
    simulation = Simulation(network.task(), build, network.data(), cohort=cohorts)
    state = simulation.init(jax.random.key(play.KEY + 1))
    x, f = play.rows(jax.device_get(state.clients.x.trainable), 5), network.federation(4, cohort, (longest,))
    G, psi = ([{name: 0 * leaf for name, leaf in x[0].items()} for _ in range(5)] for _ in range(2))
    xbar, G_mean = reference.average(x), G[0]
    for t, drawn in enumerate(f.cohorts):
        heads, tails = (int(number) for number in jax.device_get(state.server.news))
        for _ in range(heads):
            if cohort is None:
                xbar = reference.average(x)
            for i in drawn:
                away = reference.axpy(-1.0, xbar, x[i])
                slope = reference.axpy(lam / p, away, reference.axpy(1 - 1 / p, psi[i], G[i]))
                x[i], psi[i] = reference.axpy(-lr, slope, x[i]), {name: lam * leaf for name, leaf in away.items()}
            xbar = reference.axpy(-lr, G_mean, xbar)
        for i in drawn:
            r, G[i] = x[i], f.gradient(x[i], f.everything[i])
            for rows in f.batches(t, i, 0)[:tails]:
                differ = reference.axpy(-1.0, f.gradient(r, rows), f.gradient(x[i], rows))
                slope = reference.axpy(1 / (1 - p), differ, reference.axpy(1.0, G[i], psi[i]))
                x[i] = reference.axpy(-lr, slope, x[i])
        xbar, G_mean = (reference.average([all[i] for i in drawn]) for all in (x, G))
        state, _ = simulation.run(state, KEY, 1)
        server = jax.device_get(state.server.server.params.trainable)
        play.assert_trees_close(server["model"], xbar)
        play.assert_trees_close(server["slope"], G_mean)
    for mine, expected in zip(play.rows(jax.device_get(state.clients.x.trainable), 5), x, strict=True):
        play.assert_trees_close(mine, expected)


STATIONARY = [(0.482316760636, 0.278831368529), (-0.011788826243, 1.418247052793), (-0.576627370579, 0.812403895438)]
"""Where each `x_i` is the proximal point of `f_i` at the mean, for `lam = 1`; as published."""


def test_steps_of_one_size_end_at_the_stationary_point():
    """The published one; and that of examples which all differ, on minibatches of two, where L2GD goes on and on."""
    build = algorithms.l2sgd_plus(q.task(), plans.full_batch(1, 60), lr=0.1, lam=1.0, p=0.5)
    close(play.play(q.task(), build, q.data(), 300).state.clients.x.trainable["w"], STATIONARY, 1e-9)
    draw, sizes, lam = np.random.default_rng(0), (3, 5, 4), 0.5
    roots, c = ([draw.normal(size=(n, 2, *more)) for n in sizes] for more in ((2,), ()))
    A = [root @ root.transpose(0, 2, 1) / 8 + 0.2 * np.eye(2) for root in roots]
    data = from_clients([({"A": a, "c": b}, np.zeros(len(b))) for a, b in zip(A, c, strict=True)])
    ends = [
        play.play(q.task(), method(q.task(), network.plan(2), lr=0.1, lam=lam, p=0.5), data, 400).state.clients
        for method in (algorithms.l2sgd_plus, algorithms.l2gd)
    ]
    pull = lam * np.kron(np.eye(3) - 1 / 3, np.eye(2))
    left = np.asarray(block_diag(*(a.mean(0) for a in A))) + pull
    right = np.concatenate([np.einsum("nij,nj->i", a, b) / len(b) for a, b in zip(A, c, strict=True)])
    x = np.linalg.solve(left, right).reshape(3, 2)
    close(ends[0].x.trainable["w"], x, 1e-9)
    assert np.abs(ends[1].trainable["w"] - x).max() > 0.01


def quadratic(**hyper: Any) -> Any:
    return algorithms.l2gd(q.task(), plans.full_batch(1, 60), **hyper)


def test_the_stationary_point_as_published():
    """Steps that shorten like 1/t; `x_i` is also the proximal point of `f_i` at the mean."""

    def shorter(round: Any) -> Any:
        return 1 / (round + 10.0)

    run = play.play(q.task(), lambda lr: quadratic(lr=lr, lam=1.0, p=0.5), q.data(), 4000, lr=shorter)
    close(q.prox(np.mean(STATIONARY, 0), q.A, q.C, 1.0), STATIONARY, 1e-10)
    close(run.state.clients.trainable["w"], STATIONARY, 0.02)


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
