"""FedFomo."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData
from pfljax.engine.simulation import Simulation
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Cohort, Params, Rows, State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK = q.task()
KEY = jax.random.key(play.KEY)
TABLE = q.descended(np.zeros(2), q.A, q.C, q.LR, q.STEPS)
RAW = [
    (0.795245, -0.81902, -1.14440239929),
    (-0.40951, 1.59049, 0.660432980574),
    (-1.3071325, 0.09049, 0.902548685361),
]
MIXED = [(0.40951, 0), (-0.115085979944, 0.650452723699), (-0.356499374989, 0.296852758826)]


def method(lr: float = 0.0, **options: Any) -> Algorithm:
    return algorithms.fedfomo(TASK, local.descent(optax.sgd(lr), plans.full_batch(1, 60)), **options)


def validated(data: FederatedData) -> FederatedData:
    """Everybody validates on what it trains on."""
    return dataclasses.replace(data, validation=data.train)


def four() -> FederatedData:
    """The three clients, and one like the first."""
    copy = [0, 1, 2, 0]
    return validated(q.data(q.A[copy], q.C[copy], (*q.N, 5)))


def test_weights_and_models_as_published():
    """From 0, among models of which the client's own is one, as it is ahead of what the client starts from."""
    table = Params({"w": np.vstack([TABLE, np.full((1, 2), 9.0)])})

    def begin(state: State) -> State:
        server = state.server._replace(models=table, candidates=np.array([[0, 1, 2]] * 5, np.int32))
        return state._replace(server=server, clients=Params({"w": np.zeros((4, 2))}))

    state = play.play(TASK, method(candidates=3), four(), begin=begin).state
    close(state.server.affinity[:3, :3], RAW)
    close(state.clients.trainable["w"][:3], MIXED)
    close(state.server.models.trainable["w"], state.clients.trainable["w"], 1e-14)


def test_fedfomo_against_loops():
    """Two of four others, each client validating on rows of the next, one on none; cohorts of three."""
    data = network.data()
    held = data.train
    data = dataclasses.replace(data, validation=Rows(np.roll(held.start, -1), np.array([3, 4, 5, 0, 2], np.int32)))
    validation = [
        (data.examples.x[a : a + n], np.asarray(data.examples.y)[a : a + n])
        for a, n in zip(data.validation.start, data.validation.size, strict=True)
    ]
    solve = local.descent(optax.sgd(network.LR), network.plan())
    task, draw = network.task(), np.random.default_rng(0)
    build = algorithms.fedfomo(task, solve, candidates=2, epsilon=0.4)
    run = Simulation(task, build, data, cohort=play.some(network.COHORT))
    state = run.init(KEY)
    begin = jax.tree.map(lambda leaf: leaf + 0.3 * draw.normal(size=leaf.shape), state.server.models)
    state = state._replace(server=state.server._replace(models=begin), clients=jax.tree.map(np.array, begin))
    start, candidates = play.rows(jax.device_get(begin).trainable, 5), []
    for _ in range(4):
        candidates.append(np.array(state.server.candidates).tolist())
        state, _ = run.run(state, KEY, 1)
    f = network.federation(rounds=4)
    theta, affinity = reference.fedfomo(f, start, validation, candidates, lr=network.LR)
    assert (affinity > 0).any()
    assert (affinity < 0).any()
    close(state.server.affinity, affinity)
    for models in (state.clients, state.server.models):
        for i, row in enumerate(play.rows(jax.device_get(models).trainable, 5)):
            play.assert_trees_close(row, theta[i])
    assert len({tuple(map(tuple, drawn)) for drawn in candidates}) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_without_validation_examples_it_is_local_training_bit_for_bit():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    run = network.train(algorithms.fedfomo(network.task(), solve))
    alone = network.train(algorithms.local_only(network.task(), solve, participation="cohort"))
    play.assert_bitwise(run.personalized(), alone.personalized())
    np.testing.assert_array_equal(run.state.server.affinity, 0)


def from_table(table: Any) -> Any:
    def begin(state: State) -> State:
        models = Params({"w": np.array(table)})
        return state._replace(server=state.server._replace(models=models), clients=jax.tree.map(np.array, models))

    return begin


def test_who_is_served_by_nobody_stays():
    """At their optima all but the copy of the first gain nothing; it and the first are at distance 0."""
    centers = q.C[[0, 1, 2, 0]]
    state = play.play(TASK, method(), four(), 2, begin=from_table(centers)).state
    np.testing.assert_array_equal(state.clients.trainable["w"], centers)
    assert (state.server.affinity[~np.eye(4, dtype=bool)] <= 0).all()
    assert state.server.affinity[0, 3] == state.server.affinity[3, 0] == 0


@pytest.mark.slow
def test_the_model_of_a_diverged_client_leaves_no_trace():
    table = np.vstack([TABLE, np.full((1, 2), np.nan)])
    state = play.play(TASK, method(), four(), begin=from_table(table)).state
    sound = play.play(TASK, method(), validated(q.data()), begin=from_table(TABLE)).state
    close(state.clients.trainable["w"][:3], sound.clients.trainable["w"])
    close(state.server.affinity[:3], np.hstack([sound.server.affinity, np.zeros((3, 1))]))


def drawn(algorithm: Algorithm, affinity: np.ndarray, draws: int) -> np.ndarray:
    """Candidates [draws, N + 1, M] after rounds in which nobody replied."""
    count = len(affinity)
    silent = jnp.full(1, count)
    server = algorithm.init_server(KEY, count)._replace(affinity=jnp.asarray(affinity))
    width = server.candidates.shape[1]
    cohort = Cohort(silent, (jnp.zeros((1, width)), Params({"w": jnp.zeros((1, 2))})), jnp.zeros(1))
    keys = jax.random.split(KEY, draws)
    return np.asarray(jax.jit(jax.vmap(lambda key: algorithm.server_update(server, cohort, key).candidates))(keys))


AFFINITY = np.array([[9, 3, 2, 1, -1], [0, 9, 0, -2, 1], [-1, -2, 9, -3, -4], [1, 2, 3, 9, 4], [0, 0, 0, 0, 9.0]])


def test_candidates_are_the_others_of_highest_affinity():
    """All different, never the client itself; equal ones, and newcomers' are drawn."""
    found = drawn(method(candidates=2, epsilon=0.0), AFFINITY, 400)
    best = [{(1, 2)}, {(0, 4), (2, 4)}, {(0, 1)}, {(2, 4)}]
    for i, expected in enumerate(best):
        assert {tuple(sorted(map(int, pair))) for pair in found[:, i]} == expected
    assert len({tuple(sorted(map(int, pair))) for pair in found[:, 4]}) == 6
    assert len({tuple(sorted(map(int, pair))) for pair in found[:, 5]}) == 10


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 1.0])
def test_epsilon_is_the_chance_of_a_random_candidate(epsilon: float):
    """One candidate of four others: the best at `1 - epsilon + epsilon / 4`, each of the rest at `epsilon / 4`."""
    found = drawn(method(candidates=1, epsilon=epsilon), AFFINITY, 4000)[:, 0, 0]
    expected = np.array([0, 1 - epsilon + epsilon / 4, *[epsilon / 4] * 3])
    close(np.bincount(found, minlength=5) / 4000, expected, 0.04)


def test_a_newcomer_takes_the_models_that_serve_it():
    """From 0 towards the only better one of the two that it receives, all the way."""
    algorithm, data = method(), validated(q.data())
    received = Params({"w": jnp.array([[-5.0, 0.0], [0.5, 0.0]])})
    start = algorithm.init_client(received, jnp.asarray(3), KEY)
    close(start.trainable["w"], np.zeros(2))
    close(algorithm.onboard(received, start, data.client(0), KEY).trainable["w"], [0.5, 0.0])
