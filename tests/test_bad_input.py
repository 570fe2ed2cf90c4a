"""Bad input gets one sentence that names the value and the remedy."""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn

from pfljax import algorithms, models
from pfljax.data import FederatedData, federate, from_arrays, from_clients, partition
from pfljax.engine import memory
from pfljax.engine.checkpoint import Checkpoints
from pfljax.engine.course import Diverged
from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation
from pfljax.experiment.config import Config, RunConfig
from pfljax.experiment.recipe import SolverConfig
from pfljax.experiment.runs import compare, compare_methods, run
from pfljax.federation import sampling
from pfljax.learning import local, plans, tasks
from pfljax.types import Algorithm
from tests.zoo import MODEL, TASK, federation, recipe_of

PLAN = plans.full_batch(2, 12)


def fedavg(lr: float = 0.1):
    return algorithms.fedavg(TASK, local.descent(optax.sgd(lr), PLAN))


def test_a_client_with_one_example_trains_and_is_not_tested():
    data = from_clients(
        [(np.ones((1, 8), np.float32), [0]), (np.ones((4, 8), np.float32), [1, 0, 1, 2])], num_classes=4
    )
    result = simulate(TASK, fedavg(), data, rounds=1)
    assert np.isnan(result.scores["personal", "test", "accuracy"]).all()


def test_a_client_without_examples_never_replies():
    empty = (np.ones((0, 8), np.float32), np.ones(0, np.int32))
    data = from_clients([empty, (np.ones((4, 8), np.float32), [1, 0, 1, 2])], num_classes=4)
    result = simulate(TASK, fedavg(), data, rounds=2)
    assert result.log["replied"].tolist() == [[False, True]] * 2


def test_fewer_examples_than_clients():
    with pytest.raises(ValueError, match="3"):
        federate(from_arrays(np.ones((3, 2), np.float32), np.array([0, 1, 0])), partition.iid(5))


def test_more_classes_per_client_than_there_are():
    with pytest.raises(ValueError, match="7"):
        federate(
            from_arrays(np.ones((30, 2), np.float32), np.array([0, 1, 2] * 10)), partition.classes_per_client(3, 7)
        )


def test_a_cohort_larger_than_the_population():
    with pytest.raises(ValueError, match="a cohort of 9 out of 6 clients: choose 1 to 6"):
        simulate(TASK, fedavg(), federation(), rounds=1, cohort=sampling.uniform(9))


@pytest.mark.parametrize(("rounds", "eval_every"), [(0, 1), (3, 0)])
def test_counts_below_one(rounds: int, eval_every: int):
    with pytest.raises(ValueError, match="a whole number of at least 1"):
        simulate(TASK, fedavg(), federation(), rounds=rounds, eval_every=eval_every)


def test_an_executor_that_is_none():
    with pytest.raises(ValueError, match="executor='fast': it must be 'auto'"):
        Simulation(TASK, fedavg(), federation(), executor="fast")  # pyright: ignore[reportArgumentType]


def test_divergence_stops_with_round_and_clients_and_keeps_the_checkpoint_before(tmp_path: Path):
    """Ditto's personal step is unstable from the first step on; float32 overflows some rounds later."""
    recipe = recipe_of("ditto")
    hyper = recipe.hyper | {"personal_local.lr": 30.0, "lam": 10.0}
    with pytest.raises(Diverged, match=r"round (\d+): the model of clients \[.*\d.*\] is no longer finite") as stop:
        simulate(TASK, recipe.make, federation(), rounds=40, hyper=hyper, checkpoint=tmp_path)
    kept = Checkpoints(tmp_path).rounds()
    assert kept
    assert str(stop.value).startswith(f"round {kept[-1] + 1}:")


@pytest.mark.slow
def test_memory_is_foreseen_and_the_advice_works(monkeypatch: pytest.MonkeyPatch):
    """A device with less memory than six clients at once need says so; `auto` takes fewer."""
    needs = []
    monkeypatch.setattr(memory, "shortage", lambda program, devices: needs.append(memory.needed(program)))
    simulate(TASK, fedavg(), federation(), rounds=1, executor="vmap")
    monkeypatch.undo()
    monkeypatch.setattr(memory, "available", lambda device: max(needs) - 1)
    with pytest.raises(MemoryError, match=r"the run needs about .* GB and .* GB are free: try executor=5"):
        simulate(TASK, fedavg(), federation(), rounds=1, executor="vmap")
    simulate(TASK, fedavg(), federation(), rounds=1, executor=5)
    simulation = Simulation(TASK, fedavg(), federation())
    assert simulation.rounds.blocks == (8,)
    simulation.evaluate(simulation.init(jax.random.key(0)), jax.random.key(0))
    assert simulation.rounds.blocks < (6,)


SOLVER = local.descent(optax.sgd(0.1), PLAN)
COSINE = local.descent(optax.sgd(optax.cosine_decay_schedule(0.1, 10)), PLAN)
ONE = {"rounds": 1}


def ditto(lam: float) -> Algorithm:
    return algorithms.ditto(TASK, SOLVER, SOLVER, lam=lam)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data: simulate(TASK, fedavg(), data, rouds=2), "simulate takes no 'rouds': did you mean 'rounds'"),
        (lambda data: simulate(TASK, fedavg(), data), "simulate: missing a required argument: 'rounds'"),
        (lambda data: simulate(TASK, fedavg(), data, cohort=5, **ONE), r"cohort=5: it must be a sampler.*uniform\(5\)"),
        (lambda data: simulate(TASK, fedavg(), data, cohort=sampling.full, **ONE), "cohort is the function full"),
        (lambda data: simulate(MODEL, fedavg(), data, **ONE), r"task is a Model: .*pfl\.classification\(model\)"),
        (lambda data: simulate(TASK, data, fedavg(), **ONE), "build is a FederatedData: it must be an algorithm"),
        (
            lambda data: simulate(TASK, "ditto", data, **ONE),
            r"build='ditto': .* such as pfl\.algorithms\.fedavg\(task, local\)",
        ),
        (lambda data: simulate(TASK, fedavg(), data.examples, **ONE), "data is an Examples: it must be a federation"),
        (lambda data: simulate(TASK, fedavg(), data, rounds=1.5), "rounds=1.5: it must be a whole number"),
        (lambda data: simulate(TASK, fedavg(), data, seed=-1, **ONE), "seed=-1: it must be a whole number from 0"),
        (lambda data: simulate(TASK, fedavg(), data, seed=2**32, **ONE), "seed=4294967296"),
        (lambda data: simulate(TASK, fedavg(), data, devices=[], **ONE), r"devices=\[\]: give at least one"),
        (lambda data: simulate(TASK, fedavg(), data, executor=True, **ONE), "executor=True"),
        (lambda data: simulate(TASK, fedavg(), data, onboard_rounds=-1, **ONE), "onboard_rounds=-1"),
        (lambda data: simulate(TASK, fedavg(), data, resume=True, **ONE), "resume=True needs the folder"),
        (
            lambda data: simulate(TASK, fedavg(), data, hyper={"lam": 0.1}, **ONE),
            "an Algorithm has its numbers already",
        ),
        (
            lambda data: simulate(TASK, ditto, data, hyper={"lma": 0.1}, **ONE),
            "ditto takes no 'lma': did you mean 'lam'",
        ),
        (lambda data: simulate(TASK, ditto, data, **ONE), "ditto: missing a required argument: 'lam'"),
        (
            lambda data: simulate(TASK, ditto, data, hyper={"lam": np.nan}, **ONE),
            "lam=nan: it must be a finite number",
        ),
        (lambda data: simulate(TASK, algorithms.fedavg(TASK, COSINE), data, **ONE), "begins anew in every round"),
        (lambda data: compare(TASK, [fedavg()], data, **ONE), "algorithms is a list: it must be a dictionary"),
        (lambda data: compare(TASK, {"a": fedavg()}, data, rouds=1), "compare takes no 'rouds': did you mean 'rounds'"),
        (lambda data: compare_methods(Config(), "fedavg"), "methods='fedavg': it must be a list"),
        (lambda data: run({"run": {"rounds": 1}}), r"it must be a Config, such as .*from_config_dict"),
        (lambda data: algorithms.fedavg(TASK, optax.sgd(0.1)), r"local is a Gradient.*pfl\.descent\(optax\.sgd"),
        (lambda data: algorithms.fedavg(TASK, SOLVER, server=optax.adam(0.1)), r"pfl\.fedopt\(optax\.adam\(0.01"),
        (lambda data: algorithms.ditto(TASK, SOLVER), "ditto: missing a required argument: 'personal_local'"),
        (lambda data: algorithms.ditto(TASK, SOLVER, SOLVER, lma=1), "ditto takes no 'lma': did you mean 'lam'"),
        (lambda data: ditto(-1), "ditto: lam=-1: it must be a number of at least 0"),
        (lambda data: algorithms.fedper(TASK, SOLVER, 1), r"personal=1: it must be a mask, such as pfl\.masks\.head"),
        (lambda data: tasks.classification(nn.Dense(3)), r"model is a Dense: .*pfl\.models\.from_linen\(module, shape"),
        (lambda data: tasks.classification(TASK), "model is a Task: it must be a model"),
        (lambda data: local.descent(0.1, PLAN), r"optimizer=0.1: it must be an optimizer, such as optax\.sgd\(0.1\)"),
        (
            lambda data: local.descent(optax.sgd(0.1), 5),
            r"plan=5: it must be a plan, such as pfl\.epochs\(1, batch_size",
        ),
        (lambda data: plans.epochs(1.5, 10), "count=1.5: it must be a whole number of at least 1"),
        (lambda data: SolverConfig(plan="x"), "plan='x': choose 'epochs', 'steps', 'full_batch'"),
        (lambda data: RunConfig(rouds=2), "RunConfig takes no 'rouds': did you mean 'rounds'"),
        (lambda data: Config(algorithm="ditto"), r"algorithm='ditto': it must be a Choice, such as Choice\('ditto'"),
        (lambda data: models.mlp((4,), 3, hidden=(0,)), "hidden=0: it must be a whole number of at least 1"),
        (lambda data: models.resnet8((4, 4, 3), 3, norm="grup"), "norm='grup': did you mean 'group'"),
    ],
)
def test_the_usual_slips(call: Callable[[FederatedData], Any], message: str):
    """One sentence each with the nearest right thing, before anything is compiled."""
    with pytest.raises(ValueError, match=message):
        call(federation())
