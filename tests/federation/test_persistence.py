"""Optimizer states that persist: what a run promises of clients holds for these states too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import experiment
from pfljax.engine.checkpoint import Checkpoints
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation
from pfljax.experiment import recipe
from pfljax.experiment.build import prepare
from pfljax.experiment.config import from_config_dict
from pfljax.experiment.sweeps import lay_out
from pfljax.federation import sampling
from pfljax.federation.skeletons import Both
from pfljax.learning import tasks
from pfljax.types import Draw
from tests.zoo import CLIENTS, LAYERED, OPTIMIZERS, federation, recipe_of

KEY = jax.random.key(7)
ADAM = dataclasses.replace(OPTIMIZERS["adam"], lr=0.01, persistent=True)
RECIPE, TASK = recipe_of("fedavg", local=ADAM, model=LAYERED), tasks.classification(LAYERED)


def _half(key: jax.Array, sizes: jax.Array) -> Draw:
    draw = sampling.dropouts(sampling.uniform(4), 0.5)(key, sizes)
    return draw._replace(replied=draw.replied & (draw.ids != 3))


def same(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_who_does_not_reply_keeps_its_states_and_a_resumed_run_and_host_memory_have_the_same_bits(tmp_path: Path):
    run = Simulation(TASK, RECIPE.make, federation(), cohort=_half)
    state, replies = run.init(KEY), np.zeros(CLIENTS, int)
    for _ in range(4):
        before = jax.tree.map(np.array, state.clients)
        state, log = run.advance(state, KEY, 1, 2)
        present = log["ids"][0][log["replied"][0]]
        replies[present] += 1
        for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state.clients), strict=True):
            np.testing.assert_array_equal(np.delete(old, present, 0), np.delete(new, present, 0))
    end, kept = jax.tree.map(np.array, state), state.clients.more
    assert kept.started.tolist() == (replies > 0).tolist()
    assert not kept.started[3]
    assert kept.states[0][0].count.tolist() == (3 * replies).tolist(), "three steps in each round of a reply"

    half, _ = run.advance(run.init(KEY), KEY, 2, 2)
    Checkpoints(tmp_path).save(half, {"rounds": np.arange(1)})
    read, _ = Checkpoints(tmp_path).restore(run.init(KEY))
    same(end, run.advance(read, KEY, 2, 2)[0])

    hosted = Simulation(TASK, RECIPE.make, federation(), cohort=_half, store="host")
    state, _ = hosted.run(hosted.init(KEY), KEY, 4)
    same(end.clients, state.clients.rows)


@pytest.mark.slow
def test_points_of_an_ensemble_are_its_runs():
    hyper = [{name: factor * value for name, value in RECIPE.hyper.items()} for factor in (1.0, 0.5)]
    points = [Point(seed, values) for seed, values in enumerate(hyper)]
    options: dict[str, Any] = {"rounds": 3, "eval_every": 3, "cohort": sampling.uniform(4), "method": "fedavg"}
    together: Any = dict(simulate_many(TASK, RECIPE.make, federation(), points, **options))
    single = simulate(TASK, RECIPE.make, federation(), seed=1, hyper=hyper[1], **options)
    for name, scores in single.scores.items():
        np.testing.assert_allclose(together[1].scores[name], scores, atol=1e-5)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("method", ["centralized", "ditto"])
def test_a_configuration_has_a_field_for_it(method: str, persistent: bool):
    """A velocity for each solver of the round beside what the client kept."""
    data = {"partition": {"name": "iid", "clients": 3}}
    local = {"momentum": 0.9, "persistent": persistent}
    made = prepare(from_config_dict({"data": data, "algorithm": {"name": method}, "local": local}))
    algorithm, id = made.recipe.make(), jnp.asarray(0)

    def start(key: jax.Array) -> Any:
        return algorithm.init_client(algorithm.download(algorithm.init_server(key, 3), id), id, key)

    client = jax.eval_shape(start, KEY)
    assert isinstance(client, Both) == persistent
    if persistent:
        assert len(client.more.states) == (2 if method == "ditto" else 1)


def test_a_sweep_over_it_is_two_programs():
    values = {"algorithm": {"name": "ditto"}, "local": {"momentum": 0.9}}
    points = lay_out(values, {"local.persistent": [False, True], "local.lr": [0.1, 0.2]})
    assert len({point.group for point in points}) == 2


@pytest.mark.parametrize(
    ("method", "sections", "message"),
    [
        ("scaffold", {"local": {"persistent": True}}, "local.persistent=True has no effect on scaffold"),
        ("apfl", {"local": {"persistent": True}}, "local.persistent=True has no effect on apfl"),
        ("fedbabu", {"tune": {"persistent": True}}, "tune.persistent=True has no effect on fedbabu"),
        (
            "ditto",
            {"local": {"solver": "proximal_descent", "persistent": True}},
            "local.persistent=True is for solver='descent'",
        ),
    ],
)
def test_where_it_would_change_nothing_it_is_refused(method: str, sections: dict[str, Any], message: str):
    [(section, _)] = sections.items()
    with pytest.raises(ValueError, match=message):
        experiment.check_effect(
            from_config_dict({"algorithm": {"name": method}, **sections}), [method], [f"{section}.persistent"]
        )


def test_a_method_that_calls_its_solver_in_a_loop_refuses_it():
    with pytest.raises(ValueError, match="called in a loop of this method"):
        Simulation(TASK, recipe_of("fedem", local=ADAM).make, federation()).init(KEY)


def test_the_shapes_of_clients_are_asked_for():
    with pytest.raises(ValueError, match="persistent=True needs the federation that trains"):
        recipe.build("fedavg", TASK, LAYERED, local=ADAM)
