"""VIRTUAL."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.learning import local, plans
from pfljax.types import Cohort
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import Federation, Tree, close

pytestmark = pytest.mark.usefixtures("x64")

TASK, HEAD = network.task(), masks.named(*network.HEAD)
OPTIONS = {"prior": 20.0, "beta": 0.5, "damping": 0.6, "samples": 2}


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def drawn(t: int, i: int, step: int, like: Tree, samples: int) -> list[Tree]:
    """The standard normal numbers of a local step: part of the input, like the batches."""
    key = jax.random.key(play.KEY)
    for number in (t, 1, i, 0, 2**32 - 1, step):
        key = jax.random.fold_in(key, number)
    names, sizes = sorted(like), [like[name].size for name in sorted(like)]
    found = []
    for each in jax.random.split(key, samples):
        parts = np.split(np.asarray(jax.random.normal(each, (sum(sizes),))), np.cumsum(sizes)[:-1])
        found.append({name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)})
    return found


def loops(f: Federation, w: Tree, *, prior: float, beta: float, damping: float, samples: int) -> tuple[Any, ...]:
    """Precisions and shifts of theta, and the clients' means and logarithms of scales of phi."""
    precision = {name: np.full(w[name].shape, prior) for name in network.BODY}
    shift = {name: prior * w[name] for name in network.BODY}
    zero = {name: np.zeros(w[name].shape) for name in network.BODY}
    factors = [(zero, zero)] * len(f.everything)
    scale = {name: np.full(w[name].shape, -np.log(prior) / 2) for name in network.HEAD}
    phi = [({name: w[name] for name in network.HEAD}, scale)] * len(f.everything)
    for t, cohort in enumerate(f.cohorts):
        changes = []
        for i in cohort:
            cavity = reference.axpy(-1, factors[i][0], precision), reference.axpy(-1, factors[i][1], shift)
            m = {name: shift[name] / precision[name] for name in network.BODY} | phi[i][0]
            r = {name: -np.log(precision[name]) / 2 for name in network.BODY} | phi[i][1]
            to = {name: (cavity[0][name], cavity[1][name], 1.0) for name in network.BODY}
            to |= dict.fromkeys(network.HEAD, (prior, 0.0, beta))
            for k, rows in enumerate(f.batches(t, i, 0)):
                slopes, spreads = [], []
                for noise in drawn(t, i, k, w, samples):
                    away = {name: np.exp(r[name]) * noise[name] for name in w}
                    up, down = (f.gradient(reference.axpy(sign, away, m), rows) for sign in (1, -1))
                    slopes.append({name: (up[name] + down[name]) / 2 for name in w})
                    spreads.append({name: (up[name] - down[name]) / 2 * away[name] for name in w})
                slope, spread = reference.average(slopes), reference.average(spreads)
                for name, (p, h, weight) in to.items():
                    share = weight / f.sizes[i]
                    slope[name] = slope[name] + share * (p * m[name] - h)
                    spread[name] = spread[name] + share * (p * np.exp(2 * r[name]) - 1)
                m, r = reference.axpy(-network.LR, slope, m), reference.axpy(-network.LR, spread, r)
            phi[i] = {name: m[name] for name in network.HEAD}, {name: r[name] for name in network.HEAD}
            new = {name: np.maximum(np.exp(-2 * r[name]), cavity[0][name]) for name in network.BODY}
            found = reference.axpy(-1, cavity[0], new), {name: new[name] * m[name] - cavity[1][name] for name in new}
            moved = [
                reference.axpy(damping, reference.axpy(-1, s, s_new), s)
                for s, s_new in zip(factors[i], found, strict=True)
            ]
            changes.append([reference.axpy(-1, s, s_new) for s, s_new in zip(factors[i], moved, strict=True)])
            factors[i] = moved[0], moved[1]
        for change in changes:
            precision, shift = reference.axpy(1, change[0], precision), reference.axpy(1, change[1], shift)
    return precision, shift, phi


def test_virtual_against_loops():
    """Three of five unequal clients in a round, with heads of their own and the same samples."""
    run = network.train(algorithms.virtual(TASK, solver(), HEAD, **OPTIONS))
    body, heads = run.start.server.trainable.shift, run.start.clients.phi.trainable.mean
    w = {name: body[name] / OPTIONS["prior"] for name in network.BODY}
    w |= {name: heads[name][0] for name in network.HEAD}
    precision, shift, phi = loops(network.federation(), w, **OPTIONS)
    found = run.state.server.trainable
    play.assert_trees_close(found.precision, precision, 1e-9)
    play.assert_trees_close(found.shift, shift, 1e-9)
    theta = {name: shift[name] / precision[name] for name in network.BODY}
    for i, deployed in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(deployed, theta | phi[i][0], 1e-9)
        own = run.state.clients.phi.trainable.log_scale
        play.assert_trees_close({name: own[name][i] for name in network.HEAD}, phi[i][1], 1e-9)


@pytest.mark.parametrize("cohort", [None, 2])
def test_the_exact_posterior_of_gaussian_clients(cohort):
    """Its mean whatever the order of clients, and the diagonal of its precision `I + sum_i A_i` up to samples."""
    solve = local.descent(optax.sgd(0.1), plans.full_batch(20, 1))
    build = algorithms.virtual(q.task(), solve, masks.nothing, prior=1.0, damping=1.0, samples=200)
    run = play.play(q.task(), build, q.data(sizes=(1, 1, 1)), 60, cohort=cohort)
    close(run.personalized().trainable["w"], np.broadcast_to((-0.045871559633, 0.504587155963), (3, 2)), 1e-9)
    close(run.state.server.trainable.precision["w"], (5.5, 5.0), 0.3)


@pytest.mark.slow
def test_points_of_their_own_are_local_training():
    """No width to speak of, nothing shared, no price for what the own weights know."""
    build = algorithms.virtual(TASK, solver(), masks.everything, prior=1e20, beta=0.0)
    run = network.train(build)
    alone = network.train(algorithms.local_only(TASK, solver(), participation="cohort"))
    for mine, expected in zip(*(play.rows(r.personalized().trainable, 5) for r in (run, alone)), strict=True):
        play.assert_trees_close(mine, expected, 1e-9)


def test_the_belief_is_never_wider_than_the_prior():
    """Whatever is sent."""
    algorithm: Any = algorithms.virtual(q.task(), solver(), masks.nothing, prior=2.0)
    q_0 = algorithm.init_server(jax.random.key(0), 2)
    sent = jax.tree.map(lambda leaf: 9 * jnp.ones_like(leaf), q_0)
    cohort = Cohort(jnp.arange(2), sent, jnp.ones(2))
    close(algorithm.server_update(q_0, cohort, jax.random.key(0)).trainable.precision["w"], (2.0, 2.0))
