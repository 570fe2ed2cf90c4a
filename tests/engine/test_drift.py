"""Clients that drift: each round trains on the examples of that round and is measured on them, however it is run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, quadratics
from pfljax.data import FederatedData, drifting, from_clients
from pfljax.engine import ensemble, runs
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.learning import local, plans
from pfljax.results.result import Result
from pfljax.types import Algorithm

LR, ROUNDS, CLIENTS = 0.3, 17, 3  # and one that never trains
SIZES: dict[Any, Any] = {  # of the four clients, in each concept
    "train": ([4, 2, 6, 3], [2, 4, 3, 1]),
    "validation": ([1, 1, 0, 1], [1, 2, 1, 0]),
    "test": ([3, 2, 2, 4], [3, 2, 2, 4]),
}
CHANGES, GRADUAL, DELAYS = [3, 8], 2, [0, 2, 1, 0]
# What each client holds in the rounds of one period: all of a concept, or what is left of it and has come of the next.
PERIOD = [(0, 0.0)] * 3 + [(0, 1 / 3), (0, 2 / 3)] + [(1, 0.0)] * 3 + [(1, 1 / 3), (1, 2 / 3)]

TASK = quadratics.problem(w=[0.0])[0]
DRAW = np.random.default_rng(5)
CENTERS = {split: [[DRAW.normal(size=n) + 5 * k for n in of] for k, of in enumerate(SIZES[split])] for split in SIZES}


def concept(k: int) -> FederatedData:
    """Parabolas with a center for each example."""

    def client(centers: np.ndarray) -> Any:
        return {"a": np.ones(len(centers)), "c": {"w": centers}}, np.zeros(len(centers))

    train, validation, test = ([client(centers) for centers in CENTERS[split][k]] for split in SIZES)
    return from_clients(train, test, validation, unseen=1)


def federation() -> FederatedData:
    return drifting([concept(0), concept(1)], CHANGES, gradual=GRADUAL, recurring=True, delays=DELAYS)


def held(split: str, client: int, t: int) -> np.ndarray:
    """The centers that a client holds, read from the description."""
    k, part = PERIOD[max(t - DELAYS[client], 0) % len(PERIOD)]
    old, new = (CENTERS[split][which % 2][client] for which in (k, k + 1))
    return np.concatenate([old[round(part * len(old)) :], new[: round(part * len(new))]])


def method(lr: Any = LR) -> Algorithm:
    return algorithms.ditto(TASK, *[local.descent(optax.sgd(lr), plans.full_batch(2, 6))] * 2, lam=0.7)


@pytest.fixture(scope="module")
def whole() -> Result:
    return runs.simulate(TASK, method, federation(), rounds=ROUNDS, hyper={"lr": LR}, plan=plans.epochs(1, 2))


def same(a: Result, b: Result, *names: str) -> None:
    """Equal bits of what was measured and of the end."""
    for name in names or ("scores", "log"):
        jax.tree.map(np.testing.assert_array_equal, dict(getattr(a, name)), dict(getattr(b, name)))
    for leaf, other in zip(jax.tree.leaves(a.state), jax.tree.leaves(b.state), strict=True):
        np.testing.assert_array_equal(leaf, other)


def test_training_and_scores_follow_the_round_as_a_loop_does(whole: Result) -> None:
    """Ditto on parabolas whose centers move, gradually and again and again, each client at its own time."""
    w, v = 0.0, np.zeros(CLIENTS)
    for t in range(ROUNDS):
        means = [held("train", i, t).mean() for i in range(CLIENTS)]
        for i, _ in itertools.product(range(CLIENTS), range(2)):
            v[i] -= LR * (v[i] - means[i] + 0.7 * (v[i] - w))
        n = np.array([len(held("train", i, t)) for i in range(CLIENTS)])
        w += n / n.sum() @ ((1 - (1 - LR) ** 2) * (np.array(means) - w))
        for split in ("validation", "test"):
            for model, weights in {"personal": v, "global": np.full(CLIENTS, w)}.items():
                losses = [
                    np.mean((weights[i] - own) ** 2 / 2) if len(own := held(split, i, t)) else np.nan for i in range(3)
                ]
                np.testing.assert_allclose(whole.scores[model, split, "loss"][t], losses, rtol=2e-5)
        unseen = np.mean((w - held("test", 3, t)) ** 2 / 2)
        np.testing.assert_allclose(whole.scores["unseen_global", "test", "loss"][t], [unseen], rtol=2e-5)
    steps = sum(-(-len(held("train", i, t)) // 2) for i in range(CLIENTS) for t in range(ROUNDS))
    assert whole.client_steps == steps
    assert whole.sizes["train"].tolist() == [len(held("train", i, ROUNDS - 1)) for i in range(4)]


def test_the_view_of_a_round_outside_of_programs() -> None:
    data = federation()
    for t in (0, 3, 4, 5, 8, 10, 12, 23):
        now = data.at(t)
        for i, split in itertools.product(range(4), SIZES):
            view = now.client(i, split)
            rows = slice(int(view.start), int(view.start + view.size))
            np.testing.assert_array_equal(np.asarray(data.examples.x["c"]["w"])[rows], held(split, i, t))
    assert data.capacity == 6
    assert data.after(0).sizes().tolist() == data.at(0).sizes().tolist() == data.sizes().tolist()


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_bits_do_not_depend_on_how_it_is_run() -> None:
    """States in host memory and shorter stretches, for cohorts that are drawn, and one client after the other."""
    base = {"rounds": 10, "hyper": {"lr": LR}, "cohort": sampling.uniform(2), "executor": 1}
    alone = runs.simulate(TASK, method, federation(), eval_every=10, store="device", **base)
    same(alone, runs.simulate(TASK, method, federation(), eval_every=5, store="host", **base), "log")


def test_resumed_in_the_middle_of_a_change(whole: Result, tmp_path: Path) -> None:
    options: dict[str, Any] = {"hyper": {"lr": LR}, "checkpoint": tmp_path}
    begun = runs.simulate(TASK, method, federation(), rounds=4, **options).state
    resumed = runs.simulate(TASK, method, federation(), rounds=ROUNDS, resume=True, plan=plans.epochs(1, 2), **options)
    same(whole, resumed)
    assert resumed.client_steps == whole.client_steps
    later = runs.simulate(TASK, method, federation(), rounds=ROUNDS, hyper={"lr": LR}, start=begun)
    np.testing.assert_array_equal(
        later.scores["personal", "test", "loss"], whole.scores["personal", "test", "loss"][4:]
    )
    other = drifting([concept(0), concept(1)], [3, 9], gradual=GRADUAL, recurring=True, delays=DELAYS)
    with pytest.raises(ValueError, match="data"):
        runs.simulate(TASK, method, other, rounds=ROUNDS, resume=True, **options)


def test_points_of_an_ensemble_drift_alike(whole: Result) -> None:
    points = [ensemble.Point(0, {"lr": lr}) for lr in (0.1, LR)]
    found = dict(ensemble.simulate_many(TASK, method, federation(), points, rounds=ROUNDS))[1]
    assert isinstance(found, Result)
    for score, values in whole.scores.items():
        np.testing.assert_allclose(found.scores[score], values, rtol=1e-6)


def test_a_client_is_drawn_by_what_it_holds_then() -> None:
    """A client without examples in a round does not reply in it, and clients are drawn by their sizes of the round."""
    concepts = [from_clients([([[1.0]] * n, [0] * n) for n in sizes]) for sizes in ([9, 0, 1], [0, 5, 1])]
    data = drifting(concepts, [4])
    task = quadratics.problem(w=[0.0])[0]._replace(
        loss=lambda params, batch, key: (jnp.sum(params.trainable["w"] * batch.mask), {}),
        predict=lambda params, x: x[:, 0] * params.trainable["w"],
    )
    solve = local.descent(optax.sgd(1.0), plans.full_batch(1, 9))
    everybody = Simulation(task, algorithms.fedavg(task, solve), data)
    _, log = everybody.run(everybody.init(jax.random.key(0)), jax.random.key(0), 8)
    assert log["replied"].tolist() == [[True, False, True]] * 4 + [[False, True, True]] * 4
    one = Simulation(task, algorithms.fedavg(task, solve), data, cohort=sampling.weighted(1))
    _, log = one.run(one.init(jax.random.key(0)), jax.random.key(0), 8)
    assert not (log["ids"][:4] == 1).any()
    assert not (log["ids"][4:] == 0).any()


@pytest.mark.parametrize("delays", [[0, 0, 0, 0], [0, 2, 0, 2**31 - 1]])
def test_pooled_clients_are_one_that_drifts(delays: list[int]) -> None:
    """Centralized training sees in each round what all clients hold in it."""
    data = drifting([concept(0), concept(1)], [2], gradual=1, delays=delays).with_public(concept(0).examples.x)
    pooled = data.pooled()
    assert pooled.num_clients == 1
    for t in range(7):
        for split in SIZES:
            views = [data.at(t).client(i, split) for i in range(CLIENTS)]
            own = np.concatenate([rows(data, view.start, view.size) for view in views])
            view = pooled.at(t).client(0, split)
            np.testing.assert_array_equal(rows(pooled, view.start, view.size), own)
    assert pooled.public is not None
    np.testing.assert_array_equal(rows(pooled, *pooled.public), concept(0).examples.x["c"]["w"])


def rows(data: FederatedData, start: Any, size: Any) -> np.ndarray:
    return np.asarray(data.examples.x["c"]["w"])[int(start) : int(start + size)]


def test_pooled_clients_that_never_agree_again() -> None:
    with pytest.raises(ValueError, match="drift at different times, again and again"):
        federation().pooled()
