"""Runs in phases: one goes on from the state of another, or from its model."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import quadratics
from tests.zoo import federation

DATA = federation()
TASK, PARABOLAS = quadratics.problem(w=[1.0, 2.0, 8.0, 4.0])
PARABOLAS = dataclasses.replace(PARABOLAS, test=PARABOLAS.train)
PLAN = pfl.full_batch(2, 1)
SOLVE = pfl.descent(optax.sgd(0.2), PLAN)


def simulated(algorithm: pfl.Algorithm | None = None, **options: Any) -> pfl.Result:
    """Ditto, whose clients keep a model, with another half of them in every round."""
    algorithm = algorithm or pfl.algorithms.ditto(TASK, SOLVE, SOLVE, lam=0.5)
    return pfl.simulate(TASK, algorithm, PARABOLAS, cohort=pfl.sampling.uniform(2), plan=PLAN, seed=2, **options)


@pytest.mark.parametrize("store", ["device", "host"])
def test_three_rounds_and_three_more_are_six(store: Any) -> None:
    """Bit for bit, also what clients keep; the number of the round goes on, and evaluations keep their beat."""
    whole = simulated(rounds=6, eval_every=2, store=store)
    first = simulated(rounds=3, eval_every=2, store=store)
    assert first.state is not None
    before = jax.tree.map(np.copy, first.state)
    second = simulated(rounds=6, eval_every=2, store=store, start=first.state)
    assert (first.rounds.tolist(), second.rounds.tolist()) == ([2, 3], [4, 6])
    jax.tree.map(np.testing.assert_array_equal, second.state, whole.state)
    jax.tree.map(np.testing.assert_array_equal, first.state, before)
    for name, rows in whole.scores.items():
        np.testing.assert_array_equal(second.scores[name], rows[1:], err_msg=str(name))
    for name, rows in whole.log.items():
        np.testing.assert_array_equal(np.concatenate([first.log[name], second.log[name]]), rows)
    for cost in ("client_steps", "bytes_up", "bytes_down"):
        assert getattr(first, cost) + getattr(second, cost) == getattr(whole, cost)


def test_steps_of_ones_own_between_two_runs() -> None:
    """FedAvg on parabolas halves its way to their mean 5 from wherever the host puts it."""
    task, data = quadratics.problem(w=[2.0, 8.0])
    algorithm = pfl.algorithms.fedavg(task, pfl.descent(optax.sgd(0.5), pfl.full_batch(1, 1)))
    state = pfl.simulate(task, algorithm, data, rounds=1).state
    assert state is not None
    moved = state._replace(server=jax.tree.map(lambda leaf: leaf + 2.5, state.server))  # from 2.5 to 5
    after = pfl.simulate(task, algorithm, data, rounds=4, start=moved).state
    assert after is not None
    assert int(after.round) == 4
    assert [float(leaf) for leaf in jax.tree.leaves(after.server)] == [5.0]


def test_ditto_from_the_model_of_fedavg() -> None:
    """Two phases: both models of Ditto begin where FedAvg ended, and stay there without a step."""
    first = pfl.simulate(DATA, {"name": "mlp", "hidden": (5,)}, "fedavg", rounds=3, local={"lr": 0.1})
    assert first.state is not None
    params = first.state.server.params
    model = pfl.tasks.starting(pfl.models.mlp((8,), 4, hidden=(5,)), params)
    still = pfl.simulate(DATA, model, "ditto", rounds=1, local={"lr": 0.0})
    assert still.state is not None
    jax.tree.map(np.testing.assert_array_equal, still.state.server.params, params)
    for name in ("personal", "global"):
        np.testing.assert_allclose(still.clients(name), first.clients("global"), rtol=1e-6)


def test_starts_that_cannot_be_meant() -> None:
    start = simulated(rounds=2).state
    assert start is not None
    with pytest.raises(ValueError, match="rounds=2 are all there shall be, and start has done 2: ask for more"):
        simulated(rounds=2, start=start)
    with pytest.raises(ValueError, match="start belongs to another method, model or federation"):
        simulated(pfl.algorithms.fedavg(TASK, SOLVE), rounds=3, start=start)
    with pytest.raises(ValueError, match=r"it must be a state, such as result\.state"):
        simulated(rounds=3, start=(1, 2))
    with pytest.raises(ValueError, match="params are of another network"):
        pfl.tasks.starting(pfl.models.mlp((8,), 4), pfl.models.mlp((8,), 5).init(jax.random.key(0)))
    with pytest.raises(ValueError, match="params are of another network"):
        pfl.tasks.starting(pfl.models.mlp((8,), 4), start)  # pyright: ignore[reportArgumentType]


def test_another_start_is_another_run(tmp_path: Any) -> None:
    start = simulated(rounds=1).state
    options: dict[str, Any] = {"rounds": 2, "checkpoint": tmp_path}
    run = simulated(start=start, **options)
    again = simulated(start=start, resume=True, **options)
    assert again.rounds.tolist() == run.rounds.tolist() == [2]
    with pytest.raises(ValueError, match="belongs to another run: start is"):
        simulated(resume=True, **options)
