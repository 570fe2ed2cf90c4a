"""What every method of the table keeps, whatever it does."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pfljax import algorithms, models
from pfljax.data import FederatedData
from pfljax.engine import accounting
from pfljax.engine.checkpoint import Checkpoints
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.types import Algorithm, Params, State, Task, keep
from tests.zoo import (
    CLASSES,
    CLIENTS,
    FAMILIES,
    FEATURES,
    FEDERATED,
    GROUPS,
    MODEL,
    ORIGINALS,
    TASK,
    UNSEEN,
    VALIDATION,
    federation,
    recipe_of,
)

KEY = jax.random.key(7)

AT_MOST = 4
"""Rounds of one call, so that any number of them is one program."""


@pytest.fixture(params=ORIGINALS, scope="module")
def name(request: pytest.FixtureRequest) -> str:
    """A method; the tests of one follow each other, because they share its programs."""
    return request.param


def simulation(name: str, **options: Any) -> Simulation:
    return Simulation(TASK, recipe_of(name).make, federation(), devices=jax.devices()[:1], **options)


@functools.lru_cache(maxsize=1)
def traced(name: str) -> tuple[Simulation, list[str]]:
    """Traced hyperparameters; clients drop out, number 3 always; and a line for each time the method is built."""
    builds = []

    def build(**hyper: Any) -> Algorithm:
        builds.append(name)
        return recipe_of(name).make(**hyper)

    options = {"cohort": _without_client_3, "onboard_rounds": 2, "devices": jax.devices()[:1]}
    return Simulation(TASK, build, federation(), **options), builds


def _without_client_3(key: jax.Array, sizes: jax.Array) -> sampling.Draw:
    draw = sampling.dropouts(sampling.uniform(5), 0.6)(key, sizes)
    return draw._replace(replied=draw.replied & (draw.ids != 3))


def copied(state: State) -> State:
    """What a donated state was."""
    return jax.tree.map(np.array, state)


def rows(clients: Any, ids: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[ids], clients)


def finite(values: Any) -> None:
    jax.tree.map(lambda leaf: np.testing.assert_equal(np.isfinite(leaf), True), values)


def changed(a: Any, b: Any) -> bool:
    return any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(np.asarray(a) != b), a, b)))


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.usefixtures("strict")
def test_absent_clients_leave_no_trace(name: str):
    """Rows outside the cohort and of dropped clients keep their bits; if nobody replied, so does the server."""
    (run, _), hyper = traced(name), recipe_of(name).hyper
    state, silent = run.init(KEY, **hyper), 0
    for _ in range(8):
        before = copied(state)
        state, log = run.advance(state, KEY, 1, AT_MOST, **hyper)
        after, present = copied(state), set(log["ids"][0][log["replied"][0]].tolist())
        absent = np.array([id for id in range(CLIENTS) if id not in present])
        same(rows(before.clients, absent), rows(after.clients, absent))
        if not present:
            same(before.server, after.server)
            silent += 1
    assert silent, "no round was silent: the draw no longer tests it"


@pytest.mark.usefixtures("strict")
def test_one_program_serves_all_values_and_a_dropped_clients_nan_does_not_leak(name: str):
    (run, builds), hyper = traced(name), recipe_of(name).hyper
    before = len(builds)
    healthy = run.site.train
    start = int(healthy.train.start[3])
    examples = healthy.examples._replace(x=healthy.examples.x.at[start].set(np.nan))
    run.site.train = dataclasses.replace(healthy, examples=examples)
    finals = []
    for factor in (1.0, 0.9, 0.5):
        values = {key: factor * value for key, value in hyper.items()}
        state, log = run.advance(run.init(KEY, **values), KEY, AT_MOST, AT_MOST, **values)
        finals.append(copied(state))
        finite(rows(finals[-1].clients, np.array([0, 1, 2, 4, 5])))
        finite(finals[-1].server)
        assert log["finite"].all()
    run.site.train = healthy
    fresh = 0 if before else 2  # one trace of init, one of the rounds
    assert len(builds) == before + fresh
    assert changed(finals[0], finals[2]), "the values made no difference"


def test_a_resumed_run_has_the_bits_of_one_that_was_left_alone(name: str, tmp_path: Path):
    """The state after two rounds, written and read by others, goes on as if it had never left."""
    (run, _), hyper = traced(name), recipe_of(name).hyper
    state, _ = run.advance(run.init(KEY, **hyper), KEY, 2, AT_MOST, **hyper)
    Checkpoints(tmp_path).save(state, {"rounds": np.arange(1)})
    read, _ = Checkpoints(tmp_path).restore(run.init(KEY, **hyper))
    whole, _ = run.advance(run.init(KEY, **hyper), KEY, 4, AT_MOST, **hyper)
    resumed, _ = run.advance(read, KEY, 2, AT_MOST, **hyper)
    same(whole, resumed)


one_of_each_family = pytest.mark.parametrize("name", FAMILIES, scope="module")


@pytest.mark.usefixtures("x64")
@one_of_each_family
def test_blocks_of_any_size_give_the_same(name: str):
    """One by one, and in blocks of which the last is short; cohort, work and steps differ from client to client.

    In float64, of which CCVR's factors of covariances take a digit.
    """
    cohort = sampling.stragglers(sampling.uniform(5), 0.5)
    finals = []
    for executor in ("sequential", 2):
        run = simulation(name, cohort=cohort, executor=executor)
        state, _ = run.run(run.init(KEY), KEY, 3)
        finals.append(copied(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), *finals)


@pytest.mark.usefixtures("strict")
@one_of_each_family
def test_everybody_is_evaluated_and_newcomers_are_personalized(name: str):
    (run, _), hyper = traced(name), recipe_of(name).hyper
    state, _ = run.advance(run.init(KEY, **hyper), KEY, 2, AT_MOST, **hyper)
    before = copied(state)
    scores = run.evaluate(state, KEY, **hyper)
    same(before, copied(state))
    assert scores["personal", "test", "accuracy"].shape == (CLIENTS,)
    assert scores["unseen_personal", "test", "loss"].shape == (UNSEEN,)
    for score in (score for name, score in scores.items() if "/test/" in name):
        assert np.isfinite(score).all()
    validated = np.array(VALIDATION[:CLIENTS]) > 0
    np.testing.assert_array_equal(np.isfinite(scores["personal", "validation", "accuracy"]), validated)
    models = run.personalized(state, KEY, **hyper)
    jax.tree.map(lambda leaf: np.testing.assert_equal(leaf.shape[0], CLIENTS), models)
    if recipe_of(name).make(**hyper).predict is None:
        assert isinstance(models, Params)
        expected = jax.eval_shape(TASK.init, KEY)
        jax.tree.map(lambda leaf, one: np.testing.assert_equal(leaf.shape, (CLIENTS, *one.shape)), models, expected)


@pytest.mark.usefixtures("strict")
@one_of_each_family
def test_each_round_of_onboarding_changes_what_a_newcomer_keeps(name: str):
    recipe, data, id = recipe_of(name), federation(), jax.numpy.asarray(CLIENTS)
    algorithm = recipe.make(**recipe.hyper)

    @jax.jit
    def start() -> tuple[Any, Any]:
        download = algorithm.download(algorithm.init_server(KEY, CLIENTS), id)
        return download, algorithm.init_client(download, id, KEY)

    @jax.jit
    def onboarded(download: Any, state: Any, data: FederatedData) -> Any:
        return algorithm.onboard(download, state, data.client(id), KEY)

    download, state = start()
    states = [state]
    for _ in range(3):
        states.append(onboarded(download, states[-1], data))
    for before, now in itertools.pairwise(states):
        if algorithm.onboard is keep:
            same(before, now)
        else:
            assert changed(before, now)


@pytest.mark.usefixtures("strict")
def test_traffic_is_that_of_the_paper(name: str):
    """|w| = (8*6 + 6) + (6 + 6 scale and shift, 6 + 6 statistics) + (6*4 + 4) = 106; head 28; norms 24."""
    recipe, row = recipe_of(name), algorithms.METHODS[name]
    numbers = {"w": 106, "head": 28, "norms": 24, "stats": 12, "leaves": 6}
    numbers |= {"clients": CLIENTS, "classes": CLASSES, "groups": GROUPS, "features": 6, "inputs": 8}
    options = {key: parameter.default for key, parameter in inspect.signature(row.factory).parameters.items()}
    down, up = (eval(formula, {}, options | dict(row.example) | numbers) for formula in (row.down, row.up))
    assert accounting.wire_bytes(recipe.make(**recipe.hyper), federation()) == (4 * down, 4 * up)


@pytest.mark.usefixtures("x64")
@one_of_each_family
def test_the_order_of_clients_does_not_matter(name: str):
    """Client i of the reversed federation is client N-1-i, when nothing is drawn: one batch a client, common start."""
    if algorithms.METHODS[name].draws:
        pytest.skip("its clients draw random numbers by their places")
    forward = federation()
    backward = _reversed(forward)
    parameters = inspect.signature(algorithms.METHODS[name].factory).parameters
    options: dict[str, Any] = {"init": "common"} if "init" in parameters else {}
    recipe = recipe_of(name, **options)
    run = Simulation(TASK, recipe.make, forward, devices=jax.devices()[:1])
    predict = jax.jit(jax.vmap(recipe.make().predict or TASK.predict, (0, None)))
    finals = []
    for data in (forward, backward):
        run.site.data = run.site.train = data
        state, _ = run.run(run.init(KEY), KEY, 2)
        finals.append(predict(run.personalized(state, KEY), forward.examples.x[:5]))
    np.testing.assert_allclose(finals[0], finals[1][::-1], rtol=0, atol=1e-10)


def _reversed(data: FederatedData) -> FederatedData:
    order = np.array([*reversed(range(CLIENTS)), CLIENTS])
    parts = {
        split: type(data.train)(*(leaf[order] for leaf in getattr(data, split)))
        for split in ("train", "test", "validation")
    }
    return dataclasses.replace(data, **parts, traits={"group": data.traits["group"][order]})


def test_statistics_follow_the_mask():
    """FedAvg averages running statistics; FedBN's differ from client to client, and a server lr does not move them."""

    def stats(name: str) -> np.ndarray:
        run = simulation(name)
        state, _ = run.run(run.init(KEY), KEY, 2)
        return np.asarray(jax.tree.leaves(run.personalized(state, KEY).stats)[0])

    shared, own = stats("fedavg"), stats("fedbn")
    assert (shared == shared[0]).all()
    assert shared.any()
    assert len(np.unique(own, axis=0)) == CLIENTS


def test_the_task_of_these_tests_is_a_task():
    assert isinstance(TASK, Task)
    assert MODEL.norms


@pytest.mark.parametrize("every", FEDERATED)
def test_a_network_that_is_all_head_is_served_or_refused_in_a_sentence(every: str):
    model = models.logistic((FEATURES,), CLASSES)

    def begun() -> Any:
        recipe = recipe_of(every, model=model)
        algorithm = recipe.make(**recipe.hyper)
        server = algorithm.init_server(KEY, CLIENTS)
        download = algorithm.download(server, jax.numpy.asarray(0))
        return server, algorithm.init_client(download, jax.numpy.asarray(0), KEY)

    try:
        jax.eval_shape(begun)
    except ValueError as error:
        if not re.search(r"its head|features|blocks|norm", str(error)):
            raise
