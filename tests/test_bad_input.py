"""Bad input gets one sentence that names the value and the remedy."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms, local, memory, sampling
from pfljax.checkpoint import Checkpoints
from pfljax.course import Diverged
from pfljax.data import federate, from_arrays, from_clients, partition
from pfljax.engine import Simulation, simulate
from tests.federation import TASK, federation, recipe_of

PLAN = local.full_batch(2, 12)


def fedavg(lr: float = 0.1):
    return algorithms.fedavg(TASK, local.descent(optax.sgd(lr), PLAN))


def test_a_client_with_one_example_trains_and_is_not_tested():
    data = from_clients(
        [(np.ones((1, 8), np.float32), [0]), (np.ones((4, 8), np.float32), [1, 0, 1, 2])], num_classes=4
    )
    result = simulate(TASK, fedavg(), data, rounds=1)
    assert np.isnan(result.scores["personal/test/accuracy"]).all()


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
    assert simulation.rounds.block == 8
    simulation.evaluate(simulation.init(jax.random.key(0)), jax.random.key(0))
    assert simulation.rounds.block < 6
