"""When a run ends: by patience, by divergence, after its last round; and what is kept of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, data, experiment, quadratics
from pfljax.engine.course import Diverged
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.runs import simulate
from pfljax.experiment.recipe import SolverConfig
from pfljax.learning import local, plans
from pfljax.results.result import Result
from pfljax.types import Algorithm, Array

TASK, TRAINED = quadratics.problem(w=[0.0, 8.0])


def validated(*validation: float) -> data.FederatedData:
    """Clients that train towards 0 and 8, with an example each at another place to validate on."""

    def example(c: float) -> tuple[Any, np.ndarray]:
        return {"a": np.ones(1), "c": {"w": np.array([c])}}, np.zeros(1)

    return data.from_clients([example(0.0), example(8.0)], validation=[example(c) for c in validation])


def fedavg(lr: Array) -> Algorithm:
    return algorithms.fedavg(TASK, local.descent(optax.sgd(lr), plans.full_batch(1, 1)))


OPTIONS: dict[str, Any] = {"rounds": 40, "eval_every": 1, "hyper": {"lr": 0.5}}


def test_patience_ends_a_run_after_so_many_evaluations_that_are_no_better():
    """The model goes 2, 3, 3.5, ... to 4; validation at 3 is best in round 2, and two more are no better."""
    result = simulate(TASK, fedavg, validated(3.0, 3.0), patience=2, **OPTIONS)
    assert result.rounds.tolist() == [1, 2, 3, 4]
    assert result.evaluation("best_validation") == 1
    assert result.reason == result.summary()["reason"] == "no better on validation examples for 2 evaluations"
    whole = simulate(TASK, fedavg, validated(3.0, 3.0), **OPTIONS)
    assert whole.reason is None
    for name, rows in result.scores.items():
        np.testing.assert_array_equal(rows, whole.scores[name][:4])
    assert simulate(TASK, fedavg, validated(4.0, 4.0), patience=2, **{**OPTIONS, "rounds": 9}).rounds[-1] == 9


def test_a_run_that_patience_ended_stays_ended_when_resumed(tmp_path: Path):
    options: dict[str, Any] = OPTIONS | {"patience": 2, "checkpoint": tmp_path}
    first = simulate(TASK, fedavg, validated(3.0, 3.0), **options)
    again = simulate(TASK, fedavg, validated(3.0, 3.0), resume=True, **options)
    assert again.rounds.tolist() == first.rounds.tolist()
    assert again.reason == first.reason


def test_points_of_an_ensemble_end_by_their_own_patience():
    points = [Point(0, {"lr": 0.5}), Point(0, {"lr": 0.25}), Point(0, {"lr": 3.0})]
    common: dict[str, Any] = {"rounds": 40, "eval_every": 1, "patience": 2}
    outcomes = dict(simulate_many(TASK, fedavg, validated(3.0, 3.0), points, at_once=3, **common))
    for place, (_, hyper) in enumerate(points):
        outcome, alone = outcomes[place], simulate(TASK, fedavg, validated(3.0, 3.0), hyper=hyper, **common)
        assert isinstance(outcome, Result)
        assert outcome.rounds.tolist() == alone.rounds.tolist()
        assert outcome.reason == alone.reason
        np.testing.assert_allclose(outcome.scores["personal", "test", "loss"], alone.scores["personal", "test", "loss"])
    assert len({len(outcome.rounds) for outcome in outcomes.values()}) == 3  # pyright: ignore


def test_patience_without_validation_examples_is_refused():
    with pytest.raises(ValueError, match=r"patience=3: no client has validation examples; .*validation=0\.2"):
        simulate(TASK, fedavg, TRAINED, patience=3, **OPTIONS)
    with pytest.raises(ValueError, match="patience=0: it must be a whole number of at least 1"):
        simulate(TASK, fedavg, validated(3.0, 3.0), patience=0, **OPTIONS)


def bursting(round: Array) -> Array:
    """A learning rate that is too large in the fourth round."""
    return jnp.where(round == 3, jnp.inf, 0.5)


@pytest.mark.parametrize(("eval_every", "kept"), [(1, [1, 2, 3]), (2, [2]), (10, None)])
def test_a_divergence_keeps_the_evaluations_before_it(eval_every: int, kept: list[int] | None):
    options: dict[str, Any] = {"rounds": 40, "eval_every": eval_every}
    with pytest.raises(Diverged, match=r"round 4: the model of clients \[0, 1\] is no longer finite") as caught:
        simulate(TASK, fedavg, TRAINED, hyper={"lr": bursting}, **options)
    result = caught.value.result
    ((_, outcome),) = simulate_many(TASK, fedavg, TRAINED, [Point(0, {"lr": bursting})], **options)
    assert isinstance(outcome, Diverged)
    if kept is None:
        assert result is outcome.result is None
        return
    assert result is not None
    assert outcome.result is not None
    assert result.rounds.tolist() == outcome.result.rounds.tolist() == kept
    assert result.reason == str(caught.value) == outcome.result.reason
    assert result.log["ids"].shape[0] == kept[-1]


def test_evaluations_stay_at_multiples_when_a_run_is_made_longer(tmp_path: Path):
    options: dict[str, Any] = OPTIONS | {"checkpoint": tmp_path, "eval_every": 4}
    simulate(TASK, fedavg, TRAINED, **{**options, "rounds": 6})
    longer = simulate(TASK, fedavg, TRAINED, resume=True, **{**options, "rounds": 14})
    whole = simulate(TASK, fedavg, TRAINED, **{**OPTIONS, "rounds": 14, "eval_every": 4})
    assert longer.rounds.tolist() == [4, 6, 8, 12, 14]
    assert whole.rounds.tolist() == [4, 8, 12, 14]
    for name, rows in whole.scores.items():
        np.testing.assert_array_equal(longer.scores[name][[0, 2, 3, 4]], rows)


DIVERGING = {
    "data": {"partition": {"name": "iid", "clients": 4}}, "model": {"name": "logistic"}, "run": {"rounds": 60},
    "local": {"lr": 1.0, "plan": "steps", "steps": 1, "weight_decay": 10.0},
}  # fmt: skip


def test_a_folder_keeps_the_rounds_before_a_divergence(tmp_path: Path):
    config = experiment.from_config_dict(DIVERGING)
    with pytest.raises(Diverged) as caught:
        experiment.run(config, tmp_path / "run")
    kept = Result.load(tmp_path / "run")
    assert caught.value.result is not None
    assert kept.reason == str(caught.value)
    assert len(kept.rounds) > 3
    assert kept.rounds.tolist() == caught.value.result.rounds.tolist()
    assert kept.config == config.to_dict()


def test_a_comparison_goes_on_without_a_method_that_diverges(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = experiment.from_config_dict(DIVERGING | {"methods": {"fedavgm": {"server_lr": 1e38}}})
    config = dataclasses.replace(config, local=SolverConfig(lr=1000.0), run=experiment.RunConfig(rounds=2))
    compared = experiment.compare_methods(config, ["fedavg", "fedavgm"], tmp_path / "compared")
    assert list(compared) == ["fedavg"]
    assert "fedavgm is left out, it has no evaluation: round 1" in caplog.text
    growing = {"schedule": "exponential", "from": 1.0, "decay": 1e38}
    later = dataclasses.replace(config, methods={"fedavgm": {"server_lr": growing}})
    compared = experiment.compare_methods(later, ["fedavg", "fedavgm"], tmp_path / "later")
    assert list(compared) == ["fedavg", "fedavgm"]
    assert "fedavgm: round 2: the model" in str(compared.table())
