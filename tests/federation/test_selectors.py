"""Selectors learn from what clients report, alike in every way to run."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, experiment, quadratics
from pfljax.engine import ensemble, runs
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.learning import local, plans
from pfljax.results.result import Result
from pfljax.types import Algorithm, Draw
from tests.zoo import TASK, federation, recipe_of

CENTERS = [0.0, 1.0, -3.0, 8.0, 2.0]
SIZES = [1, 2, 3, 1, 2]
STEP = local.descent(optax.sgd(0.5), plans.full_batch(1, 3))
KEY = jax.random.key(5)


def averaged() -> tuple:
    task, data = quadratics.problem(w=CENTERS, sizes=SIZES)
    return task, sampling.reporting(algorithms.fedavg(task, STEP), task), data


def test_the_highest_known_losses_are_drawn_and_the_unknown_first():
    """With all clients as candidates nothing is random but the order of the unknown: a loop by hand says the rest."""
    task, algorithm, data = averaged()
    run = Simulation(task, algorithm, data, cohort=sampling.power_of_choice(2, candidates=5))
    state = run.init(KEY)
    known, w = np.full(5, np.inf), 0.0
    for _ in range(8):
        state, log = run.run(state, KEY, 1)
        ids = log["ids"][0]
        assert np.sort(known[ids]).tolist() == np.sort(known)[-2:].tolist()
        losses = [(w - CENTERS[i]) ** 2 / 2 for i in ids]
        np.testing.assert_allclose(log["reported/loss"][0], losses, rtol=1e-5)
        known[ids] = losses
        n = np.array([SIZES[i] for i in ids])
        w += 0.5 * (n @ [CENTERS[i] - w for i in ids]) / n.sum()
        np.testing.assert_allclose(state.selector, known, rtol=1e-5)
        np.testing.assert_allclose(state.server.params.trainable["w"], w, rtol=1e-5)


def test_as_many_candidates_as_seats_is_sampling_by_size():
    sizes, memory = jnp.array([4, 1, 0, 7, 2]), jnp.arange(5.0)
    chosen, weighted = sampling.power_of_choice(3, candidates=3).sampler(memory), sampling.weighted(3)
    for seed in range(20):
        key = jax.random.key(seed)
        assert chosen(key, sizes).ids.tolist() == weighted(key, sizes).ids.tolist()


def test_the_unknown_are_told_apart_at_random():
    sampler, sizes = sampling.power_of_choice(1, candidates=4).sampler(jnp.full(4, jnp.inf)), jnp.ones(4, int)
    drawn = jax.vmap(lambda key: sampler(key, sizes).ids[0])(jax.random.split(KEY, 400))
    assert (np.bincount(drawn, minlength=4) > 60).all()


def test_who_is_not_heard_leaves_the_memory_as_it_was():
    memory = jnp.arange(4.0)
    draw = Draw(jnp.array([0, 2, 4]), jnp.array([True, False, False]), jnp.ones(3))
    seen = sampling.power_of_choice(2, candidates=3).observe(memory, draw, {"loss": jnp.array([9.0, 8.0, 7.0])})
    assert seen.tolist() == [9, 1, 2, 3]


def test_dropouts_and_stragglers_happen_to_what_a_selector_draws():
    chooser = sampling.dropouts(sampling.power_of_choice(2, candidates=3), rate=1.0)
    draw = chooser.sampler(chooser.init(3))(KEY, jnp.array([5, 5, 5]))
    assert draw.replied.tolist() == [False, False]
    assert chooser.needs == ("loss",)


def test_more_candidates_than_clients():
    with pytest.raises(ValueError, match="candidates=4 of 3 clients: choose 2 to 3"):
        sampling.power_of_choice(2, candidates=4).sampler(jnp.zeros(3))(KEY, jnp.ones(3, int))
    with pytest.raises(ValueError, match="candidates=1 for a cohort of 2: draw at least 2"):
        sampling.power_of_choice(2, candidates=1)


def test_what_nobody_reports_cannot_be_observed():
    task, data = quadratics.problem(w=CENTERS)
    plain = algorithms.fedavg(task, STEP)
    run = Simulation(task, plain, data, cohort=sampling.power_of_choice(2, candidates=4))
    with pytest.raises(ValueError, match="needs the loss of each client, and clients report nothing: wrap"):
        run.run(run.init(KEY), KEY, 1)
    with pytest.raises(ValueError, match="local_only has no common model"):
        sampling.reporting(algorithms.local_only(task, STEP), task)


def test_a_configuration_names_it():
    config = {"cohort": {"sampling": "power_of_choice", "size": 2, "candidates": 4}, "run": {"rounds": 2}}
    small = {"data": {"partition": {"name": "iid", "clients": 5}}, "model": {"name": "logistic"}}
    result = experiment.run(experiment.from_config_dict(config | small))
    assert np.isfinite(result.log["reported/loss"]).all()
    first, second = map(set, result.log["ids"].tolist())
    assert first != second, "who is unknown is drawn first"
    with pytest.raises(ValueError, match="candidates=7"):
        experiment.run(experiment.from_config_dict({"cohort": {"sampling": "uniform", "candidates": 7}} | small))


def build(**hyper: float) -> Algorithm:
    return sampling.reporting(recipe_of("fedprox").make(**hyper), TASK)


CHOSEN = sampling.power_of_choice(2, candidates=5)
HYPER = recipe_of("fedprox").hyper


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_host_memory_fetches_after_it_has_observed():
    """States on the device and in host memory: the same cohorts, losses and models, over more rounds than one call."""
    method = lambda **hyper: sampling.reporting(recipe_of("ditto").make(**hyper), TASK)  # noqa: E731
    shown = []
    for where in ("device", "host"):
        run = Simulation(TASK, method, federation(), cohort=CHOSEN, store=where, devices=jax.devices()[:1])
        state, logs = run.init(KEY, **recipe_of("ditto").hyper), []
        for count in (3, 2):
            state, log = run.run(state, KEY, count, **recipe_of("ditto").hyper)
            logs.append(log)
        shown.append(jax.tree.leaves(jax.tree.map(np.asarray, (state, logs))))
    jax.tree.map(np.testing.assert_array_equal, *shown)


def test_a_memory_is_checkpointed(tmp_path: Path):
    options = {"hyper": HYPER, "cohort": CHOSEN, "eval_every": 2}
    whole = runs.simulate(TASK, build, federation(), rounds=6, **options)
    runs.simulate(TASK, build, federation(), rounds=2, checkpoint=tmp_path, **options)
    resumed = runs.simulate(TASK, build, federation(), rounds=6, checkpoint=tmp_path, resume=True, **options)
    assert whole.log.keys() == resumed.log.keys()
    for name, rows in whole.log.items():
        np.testing.assert_array_equal(rows, resumed.log[name], err_msg=name)
    jax.tree.map(np.testing.assert_array_equal, whole.scores, resumed.scores)


@pytest.mark.slow
def test_points_of_an_ensemble_remember_on_their_own():
    points = [ensemble.Point(seed, HYPER) for seed in (0, 1)]
    together = dict(ensemble.simulate_many(TASK, build, federation(), points, rounds=4, cohort=CHOSEN))
    for place, point in enumerate(points):
        alone = runs.simulate(TASK, build, federation(), rounds=4, seed=point.seed, hyper=HYPER, cohort=CHOSEN)
        found = together[place]
        assert isinstance(found, Result)
        np.testing.assert_array_equal(found.log["ids"], alone.log["ids"])
        np.testing.assert_allclose(found.log["reported/loss"], alone.log["reported/loss"], rtol=1e-5)
