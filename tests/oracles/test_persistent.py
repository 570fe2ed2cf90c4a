"""Optimizer states that outlive a round."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks, quadratics
from pfljax.engine.simulation import Simulation
from pfljax.federation.wrappers import persistent
from pfljax.learning import local, plans, schedules
from pfljax.learning.memory import Memory
from pfljax.types import Algorithm, LocalSolver
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR, MOMENTUM, ROUNDS = network.task(), network.LR, 0.6, 4


def heavy(memory: Memory | None, momentum: float = MOMENTUM) -> LocalSolver:
    return local.descent(optax.sgd(LR, momentum), network.plan(), memory)


def fedavg(memory: Memory | None) -> Algorithm:
    return algorithms.fedavg(TASK, heavy(memory))


def fedrep(memory: Memory | None) -> Algorithm:
    return algorithms.fedrep(TASK, heavy(memory), heavy(memory), masks.named(*network.HEAD))


def moved(w: reference.Tree, velocity: reference.Tree, f: reference.Federation, batches: Sequence) -> tuple:
    """Heavy-ball descent from a velocity that is not at rest, on the leaves that have one."""
    w, velocity = dict(w), dict(velocity)
    for rows in batches:
        step = f.gradient(w, rows)
        for name in velocity:
            velocity[name] = step[name] + MOMENTUM * velocity[name]
            w[name] = w[name] - LR * velocity[name]
    return w, velocity


def loop(f: reference.Federation, w: reference.Tree, own: Sequence, phases: Sequence[Sequence[str]]) -> tuple:
    """The shared leaves and those of each client; a velocity for each client and phase, from rest."""
    own, clients = list(own), len(f.everything)
    rest = {name: 0 * leaf for name, leaf in {**w, **own[0]}.items()}
    velocities = [[{name: rest[name] for name in names} for names in phases] for _ in range(clients)]
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            y = {**w, **own[i]}
            for phase in range(len(phases)):
                y, velocities[i][phase] = moved(y, velocities[i][phase], f, f.batches(t, i, phase))
            results.append({name: y[name] for name in w})
            own[i] = {name: y[name] for name in own[i]}
        w = reference.average(results, f.sizes[cohort])
    return w, own, velocities


@pytest.mark.parametrize("build", [fedavg, fedrep])
def test_momentum_goes_on_where_the_client_left_it(build):
    """Clients that were absent for some rounds go on with the velocity of their own last round."""
    run = network.train(persistent(build, network.data()), rounds=ROUNDS)
    two = build is fedrep
    f = network.federation(ROUNDS, plans=(network.plan,) * (1 + two))
    assert len({i for cohort in f.cohorts for i in cohort}) > len(f.cohorts[0])
    start, kept = run.start.clients.client, run.state.clients
    own = play.rows(start.trainable, 5) if two else [{}] * 5
    phases = [network.HEAD, network.BODY] if two else [(*network.BODY, *network.HEAD)]
    w = {name: leaf for name, leaf in run.start.server.params.trainable.items() if leaf is not None}
    w, own, velocities = loop(f, w, own, phases)
    play.assert_trees_close(run.state.server.params.trainable, w)
    for i in range(5):
        if two:
            play.assert_trees_close(play.rows(kept.client.trainable, 5)[i], own[i])
        for phase in range(len(phases)):
            trace = play.rows(kept.more.states[phase][0].trace, 5)[i]
            play.assert_trees_close(trace, velocities[i][phase])
    seen = {i for cohort in f.cohorts for i in cohort}
    assert kept.more.started.tolist() == [i in seen for i in range(5)]


@pytest.mark.slow
def test_without_momentum_nothing_persists():
    """To the bit, one program for both values: and it does with some."""

    def build(momentum):
        return persistent(lambda memory: algorithms.fedavg(TASK, heavy(memory, momentum)), network.data())

    still, moving = (network.train(build, momentum=momentum).state.server.params for momentum in (0.0, 0.5))
    plain = network.train(algorithms.fedavg(TASK, local.descent(optax.sgd(LR), network.plan())))
    play.assert_bitwise(still, plain.state.server.params)
    restarted = network.train(algorithms.fedavg(TASK, heavy(None, 0.5))).state.server.params
    assert np.abs(moving.trainable["W1"] - restarted.trainable["W1"]).max() > 1e-3


def test_a_schedule_of_steps_goes_on():
    """Each client counts its own steps: `w <- w - (w - 8) lr(step)`, lr of 1/2, then 1/4."""
    task, data = quadratics.problem(w=[8.0])
    falling = optax.sgd(lambda step: jnp.where(jnp.asarray(step) < 1, 0.5, 0.25))
    solve = lambda memory: local.descent(falling, plans.full_batch(1, 1), memory)  # noqa: E731
    kept = persistent(lambda memory: algorithms.fedavg(task, solve(memory)), data)
    assert quadratics.deployed(kept, task, data, rounds=2) == {"w": [5.0]}
    with pytest.raises(ValueError, match="a schedule, which begins anew in every round"):
        quadratics.deployed(algorithms.fedavg(task, solve(None)), task, data, rounds=2)


def test_a_learning_rate_by_the_round_meets_the_velocity_of_the_round_before():
    """v_1 = -8, v_2 = -8/2 + (w_1 - 8): w_2 = w_1 - lr_2 v_2."""
    task, data = quadratics.problem(w=[8.0])

    def build(lr):
        heavy = optax.sgd(lr, 0.5)
        solve = lambda memory: local.descent(heavy, plans.full_batch(1, 1), memory)  # noqa: E731
        return persistent(lambda memory: algorithms.fedavg(task, solve(memory)), data)

    run = play.play(task, build, data, 2, lr=schedules.step(0.5, 0.5, every=1))
    assert run.state.server.params.trainable["w"].item() == 4 + 0.25 * 8


def test_newcomers_and_adaptation_begin_afresh():
    """Two onboarding steps of local training from 0 to 8: without velocity, 8 (1 - 1/4) after two halvings."""
    task, data = quadratics.problem(w=[8.0])
    half = optax.sgd(0.5, momentum=0.9)
    solve = lambda memory: local.descent(half, plans.full_batch(1, 1), memory)  # noqa: E731
    kept = persistent(lambda memory: algorithms.ditto(task, solve(memory), solve(memory), lam=0.0), data)
    key, view = play.jax.random.key(0), data.client(0)
    client = kept.init_client(task.init(key), jnp.asarray(0), key)
    for _ in range(2):
        client = kept.onboard(task.init(key), client, view, key)
    assert client.client.trainable["w"].item() == 6.0
    assert not client.more.started


def test_a_loop_of_solver_calls_is_refused():
    """A state for each turn of FedEM's loop over models has no place."""
    net = network.model()
    task = network.task()._replace(init=net.init, predict=lambda params, x: net.apply(params, x)[0])
    build = lambda memory: algorithms.fedem(task, heavy(memory), net, 14)  # noqa: E731
    with pytest.raises(ValueError, match=r"called in a loop of this method.*leave persistent out"):
        Simulation(task, persistent(build, network.data()), network.data()).init(play.jax.random.key(0))
