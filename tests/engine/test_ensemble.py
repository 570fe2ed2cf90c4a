"""Many runs as one program are the runs, one by one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import pytest

from pfljax import engine
from pfljax.engine.course import Diverged
from pfljax.engine.ensemble import Ensemble, Point, simulate_many
from pfljax.federation import sampling
from pfljax.results.result import Result
from pfljax.types import Algorithm
from tests.zoo import FAMILIES, TASK, double, federation, recipe_of

RECIPE = recipe_of("ditto")
OPTIONS: dict[str, Any] = {"rounds": 3, "eval_every": 2, "cohort": sampling.uniform(4), "method": "ditto"}
DEVICE = jax.devices()[:1]


def at(seed: int, factor: float) -> Point:
    return Point(seed, {name: factor * value for name, value in RECIPE.hyper.items()})


POINTS = [at(0, 1.0), at(1, 1.0), at(0, 1e30), at(2, 0.5)]


@pytest.fixture(scope="module")
def alone(optimizing: Callable[[], AbstractContextManager]) -> list[Result | None]:
    """Each point by itself, None if it diverges."""

    def run(point: Point) -> Result | None:
        options = OPTIONS | {"seed": point.seed, "hyper": point.hyper, "devices": DEVICE}
        try:
            return engine.simulate(TASK, RECIPE.make, federation(), **options)
        except Diverged:
            return None

    with optimizing():
        return [run(point) for point in POINTS]


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_one_after_the_other_each_point_has_its_own_bits_and_one_trace_serves_all(alone: list[Result | None]):
    traces = []

    def build(**hyper: Any) -> Algorithm:
        traces.append(hyper)
        return RECIPE.make(**hyper)

    outcomes = dict(simulate_many(TASK, build, federation(), POINTS, at_once=1, devices=DEVICE, **OPTIONS))
    assert len(traces) == 4, "one trace each of init, rounds, evaluation and traffic"
    assert outcomes.keys() == set(range(len(POINTS)))
    for place, expected in enumerate(alone):
        outcome = outcomes[place]
        if expected is None:
            assert isinstance(outcome, Diverged)
            assert "round 1: the model of clients" in str(outcome)
            continue
        assert isinstance(outcome, Result)
        assert (outcome.seed, outcome.hyper) == POINTS[place]
        assert (outcome.bytes_up, outcome.bytes_down) == (expected.bytes_up, expected.bytes_down)
        for part in ("scores", "log"):
            jax.tree.map(np.testing.assert_array_equal, getattr(outcome, part), getattr(expected, part))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_more_points_later_compile_nothing(alone: list[Result | None], caplog: pytest.LogCaptureFixture):
    ensemble = Ensemble(TASK, RECIPE.make, federation(), at_once=1, devices=DEVICE, **OPTIONS)
    assert [place for place, _ in ensemble.run(POINTS[:1])] == [0]
    with caplog.at_level("INFO", logger="pfljax.engine.programs"):
        ((_, outcome),) = ensemble.run([POINTS[1]])
    assert not caplog.messages
    assert isinstance(outcome, Result)
    assert outcome.compile_seconds == 0
    assert alone[1] is not None
    jax.tree.map(np.testing.assert_array_equal, outcome.scores, alone[1].scores)


@pytest.mark.slow
def test_at_once_they_are_the_same_and_a_diverging_point_harms_no_other(alone: list[Result | None]):
    outcomes = dict(simulate_many(TASK, RECIPE.make, federation(), POINTS, at_once=3, devices=DEVICE, **OPTIONS))
    assert isinstance(outcomes[2], Diverged)
    for place, expected in enumerate(alone):
        if expected is not None:
            outcome = outcomes[place]
            assert isinstance(outcome, Result)
            for name, rows in expected.scores.items():
                np.testing.assert_allclose(outcome.scores[name], rows, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FAMILIES)
def test_vmapped_points_of_every_method_are_its_runs(name: str):
    """Float64, three rounds: 1e-9."""
    recipe, task = recipe_of(name), double(TASK)
    points = [
        Point(seed, {key: factor * v for key, v in recipe.hyper.items()}) for seed, factor in ((0, 1.0), (1, 0.9))
    ]
    options = OPTIONS | {"eval_every": 3, "method": name}
    outcomes = dict(simulate_many(task, recipe.make, federation(), points, at_once=2, devices=DEVICE, **options))
    for place, (seed, hyper) in enumerate(points):
        expected = engine.simulate(task, recipe.make, federation(), seed=seed, hyper=hyper, devices=DEVICE, **options)
        outcome = outcomes[place]
        assert isinstance(outcome, Result)
        for score, rows in expected.scores.items():
            np.testing.assert_allclose(outcome.scores[score], rows, rtol=0, atol=1e-9, err_msg=score)


def test_points_of_different_hyperparameters_are_refused():
    with pytest.raises(ValueError, match=r"different hyperparameters: \[.*\] and \[.*\]"):
        next(simulate_many(TASK, RECIPE.make, federation(), [at(0, 1.0), Point(1, {"lr": 1.0})], **OPTIONS))


def test_no_points_are_no_runs():
    assert list(simulate_many(TASK, RECIPE.make, federation(), [], **OPTIONS)) == []
