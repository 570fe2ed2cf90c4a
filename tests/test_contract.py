"""What every method of the table keeps, whatever it does."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from pfljax import tree
from pfljax.data import FederatedData
from pfljax.engine import accounting
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.types import Algorithm, Params, State, Task, keep
from tests.federation import CLIENTS, FEDERATED, MODEL, TASK, UNSEEN, federation, recipe_of

KEY = jax.random.key(7)

# Other server optimizers, another attention: the same code of the client.
VARIANTS = ("fedavgm", "fedadagrad", "fedadam", "fedyogi", "heurfedamp")
METHODS = [pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else []) for name in FEDERATED]


def simulation(name: str, **options: Any) -> Simulation:
    return Simulation(TASK, recipe_of(name).make, federation(), devices=jax.devices()[:1], **options)


def copied(state: State) -> State:
    """What a donated state was."""
    return jax.tree.map(np.array, state)


def rows(clients: Any, ids: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[ids], clients)


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", METHODS)
def test_absent_clients_leave_no_trace(name: str):
    """Rows outside the cohort and of dropped clients keep their bits; if nobody replied, so does the server."""
    run = simulation(name, cohort=sampling.dropouts(sampling.uniform(3), 0.6), executor="sequential")
    state, silent = run.init(KEY), 0
    for _ in range(8):
        before = copied(state)
        state, log = run.run(state, KEY, 1)
        after, present = copied(state), set(log["ids"][0][log["replied"][0]].tolist())
        absent = np.array([id for id in range(CLIENTS) if id not in present])
        same(rows(before.clients, absent), rows(after.clients, absent))
        if not present:
            same(before.server, after.server)
            silent += 1
    assert silent, "no round was silent: the draw no longer tests it"


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", METHODS)
def test_one_program_serves_all_values_and_a_dropped_clients_nan_does_not_leak(name: str):
    recipe, traces = recipe_of(name), []

    def build(**hyper: Any) -> Algorithm:
        traces.append(name)
        return recipe.make(**hyper)

    run = Simulation(TASK, build, federation(), cohort=_without_client_3, devices=jax.devices()[:1])
    examples = run.site.train.examples
    start = int(run.site.train.train.start[3])
    run.site.train = dataclasses.replace(run.site.train, examples=examples._replace(x=examples.x.at[start].set(np.nan)))
    finals = []
    for factor in (1.0, 0.9, 0.5):
        hyper = {key: factor * value for key, value in recipe.hyper.items()}
        state, log = run.run(run.init(KEY, **hyper), KEY, 2, **hyper)
        assert bool(tree.finite(rows(state.clients, np.array([0, 1, 2, 4, 5]))))
        assert bool(tree.finite(state.server))
        assert log["finite"].all()
        finals.append(copied(state))
    assert len(traces) == 2, "one trace of init, one of the rounds"
    changed = jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), finals[0], finals[2]))
    assert any(changed), "the values made no difference"


def _without_client_3(key: jax.Array, sizes: jax.Array) -> sampling.Draw:
    draw = sampling.full()(key, sizes)
    return draw._replace(replied=draw.ids != 3)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_blocks_of_any_size_give_the_same(name: str):
    """One by one, and in blocks of which the last is short; cohort, work and steps differ from client to client."""
    cohort = sampling.stragglers(sampling.uniform(5), 0.5)
    finals = []
    for executor in ("sequential", 2):
        run = simulation(name, cohort=cohort, executor=executor)
        state, _ = run.run(run.init(KEY), KEY, 3)
        finals.append(copied(state))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), *finals)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", METHODS)
def test_everybody_is_evaluated_and_newcomers_are_personalized(name: str):
    run = simulation(name, onboard_rounds=2)
    state, _ = run.run(run.init(KEY), KEY, 2)
    before = copied(state)
    scores = run.evaluate(state, KEY)
    same(before, copied(state))
    assert scores["personal/test/accuracy"].shape == (CLIENTS,)
    assert scores["unseen_personal/test/loss"].shape == (UNSEEN,)
    for score in (score for name, score in scores.items() if "/test/" in name):
        assert np.isfinite(score).all()
    assert np.isnan(scores["personal/validation/accuracy"]).all()
    models = run.personalized(state, KEY)
    assert isinstance(models, Params)
    expected = jax.eval_shape(TASK.init, KEY)
    jax.tree.map(lambda leaf, one: np.testing.assert_equal(leaf.shape, (CLIENTS, *one.shape)), models, expected)


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", METHODS)
def test_each_round_of_onboarding_changes_what_a_newcomer_keeps(name: str):
    recipe, data = recipe_of(name), federation()
    algorithm = recipe.make(**recipe.hyper)

    @jax.jit
    def onboarded(data: FederatedData) -> list[Any]:
        id = jax.numpy.asarray(CLIENTS)
        download = algorithm.download(algorithm.init_server(KEY, CLIENTS), id)
        states = [algorithm.init_client(download, id, KEY)]
        for _ in range(3):
            states.append(algorithm.onboard(download, states[-1], data.client(id), KEY))
        return states

    states = onboarded(data)
    for before, now in itertools.pairwise(states):
        if algorithm.onboard is keep:
            same(before, now)
        else:
            assert any(jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), before, now)))


SHARED: dict[str, Callable[[float, float, float], tuple[float, float]]] = {
    # name -> (all, head, norms) -> (down, up), in parameters; statistics count
    "local_only": lambda w, head, norms: (0, 0),
    "scaffold": lambda w, head, norms: (2 * w - 12, 2 * w - 12),  # a control variate has no statistics
    "fedper": lambda w, head, norms: (w - head, w - head),
    "fedrep": lambda w, head, norms: (w - head, w - head),
    "fedbabu": lambda w, head, norms: (w - head, w - head),
    "lg_fedavg": lambda w, head, norms: (head, head),
    "fedbn": lambda w, head, norms: (w - norms, w - norms),
    "ifca": lambda w, head, norms: (2 * w, w + 1),
}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("name", METHODS)
def test_traffic_is_that_of_the_paper(name: str):
    """|w| = (8*6 + 6) + (6 + 6 scale and shift, 6 + 6 statistics) + (6*4 + 4) = 106; head 28; norms 24."""
    down, up = SHARED.get(name, lambda w, head, norms: (w, w))(106, 28, 24)
    recipe = recipe_of(name)
    assert accounting.wire_bytes(recipe.make(**recipe.hyper), federation()) == (4 * down, 4 * up)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["fedavg", "ditto", "scaffold", "fedper", "pfedme", "per_fedavg", "fedamp"])
def test_the_order_of_clients_does_not_matter(name: str):
    """Client i of the reversed federation is client N-1-i, when nothing is drawn: one batch a client, common start."""
    forward = federation()
    backward = _reversed(forward)
    options: dict[str, Any] = {"init": "common"} if name == "fedper" else {}
    finals = []
    for data in (forward, backward):
        run = Simulation(TASK, recipe_of(name, **options).make, data, devices=jax.devices()[:1])
        state, _ = run.run(run.init(KEY), KEY, 2)
        finals.append(run.personalized(state, KEY))
    first, second = (jax.tree.map(np.asarray, models) for models in finals)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=0, atol=1e-10), first, second)


def _reversed(data: FederatedData) -> FederatedData:
    order = np.array([*reversed(range(CLIENTS)), CLIENTS])
    parts = {split: type(data.train)(*(leaf[order] for leaf in getattr(data, split))) for split in ("train", "test")}
    return dataclasses.replace(data, **parts)


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
