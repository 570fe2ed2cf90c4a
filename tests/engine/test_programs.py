"""How programs are compiled: by what they are, never by what is left to do."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax.engine import programs
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.simulation import Simulation
from pfljax.types import State
from tests.zoo import TASK, federation, recipe_of

CPU = jax.devices()[:1]
DENSE = jax.jit(lambda x: x @ x).lower(jnp.ones((4, 4)))
CONVOLVING = jax.jit(lambda x: jax.lax.conv(x, x, (1, 1), "SAME")).lower(jnp.ones((1, 1, 4, 4)))


@pytest.fixture
def no_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each program was to be compiled quickly."""
    seen, of = [], programs.options

    def options(lowered: Any, quick: bool, devices: Any) -> dict[str, Any]:
        seen.append(quick)
        return of(lowered, quick, devices)

    monkeypatch.setattr(programs, "options", options)
    return seen


@pytest.mark.usefixtures("no_flags")
def test_what_runs_once_is_compiled_quickly_and_what_convolves_without_fusion_emitters():
    known = {name for name, value in programs._QUICK.items() if programs._known(name, value)}
    assert "xla_backend_optimization_level" in known
    assert programs.options(DENSE, False, CPU) == {}
    assert programs.options(DENSE, True, CPU).keys() == known
    assert programs.options(CONVOLVING, False, CPU).keys() == known & {"xla_cpu_use_fusion_emitters"}


def test_options_of_a_cpu_are_not_for_accelerators():
    assert programs.options(CONVOLVING, True, [SimpleNamespace(platform="gpu")]) == {}


def test_what_the_flags_say_stays(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert "xla_backend_optimization_level" not in programs.options(DENSE, True, CPU)


def test_an_option_that_this_jax_does_not_know_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(programs, "_QUICK", {"xla_of_another_version": 1})
    assert programs.options(DENSE, True, CPU) == {}


@pytest.mark.parametrize("store", ["device", "host"])
def test_a_run_compiles_its_beginning_quickly_and_its_rounds_well(store: Any, asked: list[bool]):
    run = Simulation(TASK, recipe_of("ditto").make, federation(), devices=CPU, store=store)
    state = run.init(jax.random.key(0))
    assert set(asked) == {True}
    asked.clear()
    run.run(state, jax.random.key(0), 1)
    assert set(asked) == {False}


def test_an_ensemble_compiles_like_each_of_its_runs(asked: list[bool]):
    made = recipe_of("fedavg")
    points = [Point(0, made.hyper)]
    list(simulate_many(TASK, made.make, federation(), points, rounds=1, devices=CPU))
    assert asked == [True, False, False], "init, rounds, evaluation"


@pytest.mark.usefixtures("x64")
def test_what_users_run_differs_from_what_tests_run_by_rounding(optimizing: Callable[[], AbstractContextManager]):
    key, data = jax.random.key(0), federation()

    def trained(start: State) -> State:
        run = Simulation(TASK, recipe_of("fedavg").make, data, devices=CPU)
        return jax.tree.map(np.asarray, run.run(start, key, 2)[0])

    start = jax.tree.map(np.asarray, Simulation(TASK, recipe_of("fedavg").make, data, devices=CPU).init(key))
    cheap = trained(start)
    with optimizing():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12), trained(start), cheap)
