"""Client states in host memory give the bits of those on the device, whatever is fetched ahead."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from pfljax.engine import rows
from pfljax.engine.checkpoint import Checkpoints
from pfljax.engine.residence import Store
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from tests.zoo import FIRSTS, TASK, federation, recipe_of, slow_but_for

pytestmark = pytest.mark.usefixtures("optimized")

KEY = jax.random.key(3)


def run(name: str, where: Store, executor: Any = "auto") -> list[np.ndarray]:
    """Everything that a run of 3 and 2 rounds shows, cohorts overlapping."""
    cohort = sampling.stragglers(sampling.dropouts(sampling.uniform(4), 0.2), 0.5)
    simulation = Simulation(TASK, recipe_of(name).make, federation(), cohort=cohort, store=where, executor=executor)
    state = simulation.init(KEY)
    assert isinstance(state.clients, rows.Hosted) == (where == "host")
    state, first = simulation.run(state, KEY, 3)
    state, second = simulation.run(state, KEY, 2)
    shown = state, first, second, simulation.evaluate(state, KEY), simulation.personalized(state, KEY)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(shown)]


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", slow_but_for(("fedper",), FIRSTS))
def test_host_memory_changes_no_bit(name: str):
    for on_device, on_host in zip(run(name, "device"), run(name, "host"), strict=True):
        np.testing.assert_array_equal(on_device, on_host)


@pytest.mark.slow
def test_small_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch):
    """Clients one by one: a chunk must not change what is computed, only when."""
    whole = run("ditto", "host", "sequential")
    monkeypatch.setattr(rows, "_CHUNK_BYTES", 1)
    jax.tree.map(np.testing.assert_array_equal, whole, run("ditto", "host", "sequential"))


def test_a_row_is_fetched_as_the_writes_before_leave_it():
    clients = rows.Hosted({"w": np.arange(8.0).reshape(4, 2)})
    with rows.Courier() as courier:
        courier.store([clients], [np.array([1, 4])], [{"w": np.array([[-1.0, -1.0], [9.0, 9.0]])}])
        (fetched,) = courier.fetch([clients], [np.array([0, 1, 4])]).result()
    assert fetched["w"][:2].tolist() == [[0.0, 1.0], [-1.0, -1.0]]
    assert clients.rows["w"].tolist() == [[0, 1], [-1, -1], [4, 5], [6, 7]], "the empty slot 4 wrote a row"


def test_a_checkpoint_of_host_states_is_restored_to_the_host(tmp_path):
    simulation = Simulation(TASK, recipe_of("ditto").make, federation(), store="host")
    state = simulation.init(KEY)
    Checkpoints(tmp_path).save(state, {"rounds": np.array([0])})
    restored, _ = Checkpoints(tmp_path).restore(simulation.init(KEY))
    assert isinstance(restored.clients, rows.Hosted)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored.clients))
    jax.tree.map(np.testing.assert_array_equal, state, restored)
    simulation.run(restored, KEY, 1)


def test_an_unknown_store():
    with pytest.raises(ValueError, match="store='disk': choose 'auto', 'device', 'host'"):
        Simulation(TASK, recipe_of("ditto").make, federation(), store="disk")  # pyright: ignore[reportArgumentType]
