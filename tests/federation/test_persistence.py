"""Optimizer states that persist, by name: what a run promises of clients holds for these states too."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pfljax import experiment
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation
from pfljax.experiment.config import Config, from_config_dict
from pfljax.experiment.sweeps import lay_out
from pfljax.federation import sampling
from pfljax.learning import tasks
from pfljax.types import Draw
from tests.engine.test_resume import configuration
from tests.zoo import CLIENTS, LAYERED, OPTIMIZERS, federation, recipe_of

KEY = jax.random.key(7)
ADAM = dataclasses.replace(OPTIMIZERS["adam"], lr=0.01, persistent=True)
RECIPE, TASK = recipe_of("fedavg", local=ADAM, model=LAYERED), tasks.classification(LAYERED)


def configured(rounds: int) -> Config:
    local = {"plan": "full_batch", "steps": 2, "momentum": 0.9, "persistent": True}
    return configuration(rounds, local=local, cohort={"sampling": "uniform", "size": 2})


@pytest.mark.usefixtures("optimized")
def test_a_resumed_run_goes_on_with_the_states(tmp_path: Path):
    whole = experiment.run(configured(4), tmp_path / "whole")
    experiment.run(configured(2), tmp_path / "parts")
    parts = experiment.run(configured(4), tmp_path / "parts", resume=True)
    for name, scores in parts.scores.items():
        np.testing.assert_array_equal(scores[-1], whole.scores[name][-1])
    forgetful = {"plan": "full_batch", "steps": 2, "momentum": 0.9}
    plain = experiment.run(configuration(4, local=forgetful, cohort={"sampling": "uniform", "size": 2}))
    loss = ("personal", "test", "loss")
    assert np.any(plain.scores[loss][-1] != whole.scores[loss][-1])


def _half(key: jax.Array, sizes: jax.Array) -> Draw:
    draw = sampling.dropouts(sampling.uniform(4), 0.5)(key, sizes)
    return draw._replace(replied=draw.replied & (draw.ids != 3))


@pytest.mark.usefixtures("optimized")
def test_who_does_not_reply_keeps_its_states_on_the_device_and_in_the_host():
    ends, replies = [], np.zeros(CLIENTS, int)
    for store in ("device", "host"):
        run = Simulation(TASK, RECIPE.make, federation(), cohort=_half, store=store)
        state = run.init(KEY)
        for _ in range(4):
            before = jax.tree.map(np.array, getattr(state.clients, "rows", state.clients))
            state, log = run.advance(state, KEY, 1, 1)
            after = getattr(state.clients, "rows", state.clients)
            present = log["ids"][0][log["replied"][0]]
            replies[present] += store == "device"
            for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
                np.testing.assert_array_equal(np.delete(old, present, 0), np.delete(new, present, 0))
        ends.append(jax.tree.map(np.array, after))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    kept = ends[0].more
    assert kept.started.tolist() == (replies > 0).tolist()
    assert not kept.started[3]
    assert kept.states[0][0].count.tolist() == (3 * replies).tolist(), "three steps in each round of a reply"


def test_points_of_an_ensemble_are_its_runs():
    hyper = [{name: factor * value for name, value in RECIPE.hyper.items()} for factor in (1.0, 0.5)]
    points = [Point(seed, values) for seed, values in enumerate(hyper)]
    options: dict[str, Any] = {"rounds": 3, "eval_every": 3, "cohort": sampling.uniform(4), "method": "fedavg"}
    together = dict(simulate_many(TASK, RECIPE.make, federation(), points, **options))
    single = simulate(TASK, RECIPE.make, federation(), seed=1, hyper=hyper[1], **options)
    for name, scores in single.scores.items():
        np.testing.assert_allclose(together[1].scores[name], scores, atol=1e-5)


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
