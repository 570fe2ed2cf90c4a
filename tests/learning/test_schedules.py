"""Hyperparameters as functions of the round, against closed forms on parabolas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, experiment, quadratics
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation
from pfljax.experiment import sweeps
from pfljax.learning import local, plans, schedules
from pfljax.types import Algorithm, Array

TASK, DATA = quadratics.problem(w=[2.0, 8.0])
MEAN, ROUNDS = 5.0, 6
ONE_STEP = plans.full_batch(1, 1)

SCHEDULES: dict[str, tuple[Any, Any]] = {
    "constant": (schedules.constant(0.5, warmup=4), lambda t: 0.5 * min(1, (t + 1) / 4)),
    "linear": (schedules.linear(0.4, 0.1, rounds=3), lambda t: 0.4 - 0.1 * min(t, 3)),
    "cosine": (schedules.cosine(0.4, 0.1, rounds=4), optax.cosine_decay_schedule(0.4, 4, alpha=0.25)),
    "exponential": (schedules.exponential(0.4, 0.5, every=2), optax.exponential_decay(0.4, 2, 0.5)),
    "step": (schedules.step(0.4, 0.5, every=2), optax.exponential_decay(0.4, 2, 0.5, staircase=True)),
    "optax": (optax.polynomial_schedule(0.4, 0.1, 2.0, 5), lambda t: 0.1 + 0.3 * (1 - min(t, 5) / 5) ** 2),
}


def fedavg(lr: Array) -> Algorithm:
    return algorithms.fedavg(TASK, local.descent(optax.sgd(lr), ONE_STEP))


def deployed(build: Any, rounds: int = ROUNDS, **hyper: Any) -> list[float]:
    simulation, key = Simulation(TASK, build, DATA, executor="vmap"), jax.random.key(0)
    state, _ = simulation.run(simulation.init(key, **hyper), key, rounds, **hyper)
    return np.asarray(simulation.personalized(state, key, **hyper).trainable["w"]).tolist()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_the_values_of_its_formula(name: str):
    schedule, formula = SCHEDULES[name]
    for t in range(8):
        assert float(schedule(jnp.asarray(t))) == pytest.approx(float(formula(t)), rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "optax"])
def test_a_learning_rate_that_falls_from_round_to_round(name: str):
    """One full step a round takes the rest of the way down by 1 - lr(t)."""
    schedule, formula = SCHEDULES[name]
    left = np.prod([1 - float(formula(t)) for t in range(ROUNDS)])
    assert deployed(fedavg, lr=schedule) == pytest.approx([MEAN * (1 - left)] * 2, rel=1e-6)


def test_a_schedule_of_a_strength_of_a_method():
    """FedProx' mu by the round: one exact proximal step, `w <- (w - lr (w - c) + lr mu w0) / (1 + lr mu)`, w0 = w."""
    mu, lr = schedules.linear(4.0, 0.0, rounds=4), 0.5

    def build(mu: Array) -> Algorithm:
        return algorithms.fedprox(TASK, local.proximal_descent(lr, ONE_STEP), mu=mu)

    w = 0.0
    for t in range(ROUNDS):
        strength = 4.0 - min(t, 4)
        w = sum((w - lr * (w - c) + lr * strength * w) / (1 + lr * strength) for c in (2.0, 8.0)) / 2
    assert deployed(build, mu=mu) == pytest.approx([w, w], rel=1e-6)


def test_models_are_deployed_by_the_last_round():
    """Fine-tuning after round t takes a step of lr(t - 1), not of the round that has not been."""

    def build(lr: Array) -> Algorithm:
        return algorithms.fedavg_finetuned(TASK, local.descent(optax.sgd(0.0), ONE_STEP), tune=_step(lr))

    def _step(lr: Array) -> Any:
        return local.descent(optax.sgd(lr), ONE_STEP)

    assert deployed(build, rounds=2, lr=schedules.step(1.0, 0.5, every=1)) == [1.0, 4.0]
    assert deployed(build, rounds=1, lr=schedules.step(1.0, 0.5, every=1)) == [2.0, 8.0]


def test_states_in_host_memory_follow_the_same_rounds():
    options: dict[str, Any] = {"rounds": 4, "eval_every": 2, "hyper": {"lr": SCHEDULES["cosine"][0]}}
    here, there = (simulate(TASK, fedavg, DATA, store=store, **options) for store in ("device", "host"))
    np.testing.assert_array_equal(here.log["finite"], there.log["finite"])
    assert here.hyper == there.hyper == {"lr": {"schedule": "cosine"} | _numbers(here)}


def _numbers(result: Any) -> dict[str, float]:
    wanted = {"from": 0.4, "to": 0.1, "rounds": 4.0, "warmup": 0.0}
    assert {key: result.hyper["lr"][key] for key in wanted} == pytest.approx(wanted)
    return {key: result.hyper["lr"][key] for key in wanted}


def test_one_program_serves_all_numbers_of_a_schedule():
    traces = []

    def build(lr: Array) -> Algorithm:
        traces.append(lr)
        return fedavg(lr)

    data = quadratics.problem(w=[2.0, 8.0])[1]
    points = [Point(0, {"lr": schedules.exponential(start, 0.5)}) for start in (0.5, 0.25)]
    outcomes = dict(simulate_many(TASK, build, data, points, rounds=2, at_once=1, devices=jax.devices()[:1]))
    assert len(traces) == 4, "one trace each of init, rounds, evaluation and traffic"
    assert [outcomes[n].hyper["lr"]["from"] for n in range(2)] == [0.5, 0.25]  # pyright: ignore
    with pytest.raises(ValueError, match="schedules of different kinds"):
        next(simulate_many(TASK, build, data, [*points, Point(0, {"lr": 0.1})], rounds=2))


LR = {"schedule": "cosine", "from": 0.4, "to": 0.1}


def test_a_configuration_describes_schedules_that_last_as_long_as_the_run():
    config = experiment.from_config_dict(
        {"algorithm": {"name": "fedprox", "mu": {"schedule": "linear", "from": 1.0, "to": 0.0, "rounds": 2}},
         "local": {"lr": LR}, "run": {"rounds": 4}}
    )  # fmt: skip
    hyper = experiment.hyperparameters(config)
    formula = optax.cosine_decay_schedule(0.4, 4, alpha=0.25)
    lr, mu = hyper["local.lr"], hyper["mu"]
    for t in range(5):
        assert float(lr(jnp.asarray(t))) == pytest.approx(float(formula(t)), rel=1e-6)  # pyright: ignore
        assert float(mu(jnp.asarray(t))) == max(1 - t / 2, 0)  # pyright: ignore
    assert experiment.from_config_dict(config.to_dict()) == config
    falling = experiment.from_config_dict({"local": {"lr": 0.4, "decay": 0.5}})
    rate: Any = experiment.hyperparameters(falling)["local.lr"]
    assert [float(rate(jnp.asarray(t))) for t in range(3)] == pytest.approx([0.4, 0.2, 0.1])


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        ({"schedule": "cosin", "from": 0.1}, r"lr\.schedule='cosin': did you mean 'cosine'"),
        ({"schedule": "cosine", "form": 0.1}, r"lr takes no 'form': did you mean 'from'"),
        ({"schedule": "cosine"}, r"lr lacks 'from': set lr\.from"),
        ({"schedule": "cosine", "from": -0.1}, r"lr\.from=-0\.1: it must be a number of at least 0"),
        ({"schedule": "step", "from": 0.1, "decay": 0.5, "every": 0}, r"lr\.every=0: it must be a number above 0"),
        (LR, r"decay=0\.5 is for a number as lr"),
        ({"from": 0.1}, r"say which, as lr\.schedule='cosine' does"),
    ],
)
def test_what_describes_no_schedule_is_refused(lr: Any, message: str):
    with pytest.raises(ValueError, match=message):
        experiment.from_config_dict({"local": {"lr": lr, "decay": 0.5 if lr == LR else 1}})


def test_a_sweep_goes_over_the_numbers_of_a_schedule_with_one_program():
    base = {"run": {"rounds": 3}, "local": {"lr": LR}}
    points = sweeps.lay_out(base, {"local.lr.from": [0.2, 0.4], "local.lr.to": [0.0, 0.1]})
    assert len({point.id for point in points}) == 4
    assert len({point.group for point in points}) == 1
    falling = sweeps.lay_out(base | {"local": {"lr": 0.1}}, {"local.decay": [0.9, 0.99], "local.lr": [0.1, 0.2]})
    assert len({point.id for point in falling}) == 4
    assert len({point.group for point in falling}) == 1
    other = sweeps.lay_out(base, {"local.lr": [LR, LR | {"schedule": "linear"}, 0.1]})
    assert len({point.group for point in other} | {points[0].group}) == 3
