"""MAPPER and DAPPER."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData
from pfljax.learning import local, plans
from pfljax.types import Rows
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK = network.task()


def solver(lr: float = network.LR) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), network.plan())


def validated() -> FederatedData:
    """Each client validates on rows of the next, one on none."""
    data = network.data()
    return dataclasses.replace(
        data, validation=Rows(np.roll(data.train.start, -1), np.array([3, 4, 5, 0, 2], np.int32))
    )


def held(data: FederatedData) -> list[reference.Rows]:
    """The validation rows of each client."""
    parts = [slice(start, start + size) for start, size in zip(*data.validation, strict=True)]
    return [(np.asarray(data.examples.x)[part], np.asarray(data.examples.y)[part]) for part in parts[:5]]


def mix(share: float, a: reference.Tree, b: reference.Tree) -> reference.Tree:
    return {name: share * a[name] + (1 - share) * b[name] for name in a}


def best(f: reference.Federation, models: list[reference.Tree], rows: reference.Rows) -> int:
    """The model with the lowest loss, the first if there are no rows."""
    return int(np.argmin([f.loss(w, rows) for w in models])) if len(rows[1]) else 0


def mapper(
    f: reference.Federation, w: Any, v: Any, grid: Any, validation: Any, *, lr: float, personal_lr: float
) -> tuple[Any, list, list]:
    """Server model, personal models, shares."""
    v, lam = list(v), [0.0] * len(v)
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            batches, candidates = f.batches(t, i, 0), []
            for share in grid:
                own = v[i]
                for rows in batches:
                    own = reference.axpy(-personal_lr * share, f.gradient(mix(share, own, w), rows), own)
                candidates.append(own)
            place = best(f, [mix(share, own, w) for share, own in zip(grid, candidates, strict=True)], validation[i])
            lam[i], v[i], y = grid[place], candidates[place], w
            for rows in batches:
                y = reference.axpy(-lr * (1 - lam[i]), f.gradient(mix(lam[i], v[i], y), rows), y)
            results.append(y)
        w = reference.average(results, [f.sizes[i] for i in cohort])
    return w, v, lam


def test_mapper_against_loops():
    data, grid = validated(), (0.25, 0.5, 1.0)
    build = algorithms.mapper(TASK, solver(), solver(0.4), grid=grid)
    run, f = play.play(TASK, build, data, network.ROUNDS, cohort=network.COHORT), network.federation()
    start = run.start.server.params.trainable
    w, v, lam = mapper(f, start, [start] * 5, grid, held(data), lr=network.LR, personal_lr=0.4)
    assert len(set(lam)) > 1, "the choice is no longer tested"
    play.assert_trees_close(run.state.server.params.trainable, w)
    close(run.state.clients.lam, lam)
    deployed = play.rows(run.personalized().trainable, 5)
    for i, row in enumerate(play.rows(run.state.clients.v.trainable, 5)):
        play.assert_trees_close(row, v[i])
        play.assert_trees_close(deployed[i], mix(lam[i], v[i], w))


@pytest.mark.slow
def test_the_ends_of_the_grid_are_fedavg_and_local_only():
    shared, own = (network.train(algorithms.mapper(TASK, solver(), solver(), grid=(share,))) for share in (0.0, 1.0))
    start, f = shared.start.server.params.trainable, network.federation()
    play.assert_trees_close(shared.state.server.params.trainable, reference.fedavg(f, start, lr=network.LR))
    play.assert_bitwise(shared.state.clients.v, shared.start.clients.v)
    alone = reference.local_only(f, [start] * 5, lr=network.LR)
    for mine, expected in zip(play.rows(own.state.clients.v.trainable, 5), alone, strict=True):
        play.assert_trees_close(mine, expected)
    play.assert_bitwise(own.state.server, own.start.server)


def everything(steps: int = 4) -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), plans.full_batch(steps, max(network.SIZES)))


def test_dapper_against_loops():
    """From the server's model, each share for as many steps, on all examples of the client and of the public."""
    rng, grid = np.random.default_rng(5), (0.125, 0.5, 1.0)
    x, y = rng.normal(size=(7, network.INPUTS)), np.full(7, 2)
    data = validated()
    build = algorithms.dapper(TASK, solver(), everything(), grid=grid, public_batch_size=9)
    run = play.play(TASK, build, data.with_public(x, y), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()
    w = reference.fedavg(f, run.start.server.params.trainable, lr=network.LR)
    play.assert_trees_close(run.state.server.params.trainable, w)
    places = []
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):

        def slope(v: Any, own: Any, share: float) -> Any:
            return mix(share, f.gradient(v, own), f.gradient(v, (x, y)))

        tuned = [w] * len(grid)
        for place, share in enumerate(grid):
            for _ in range(4):
                tuned[place] = reference.axpy(-network.LR, slope(tuned[place], f.everything[i], share), tuned[place])
        places.append(best(f, tuned, held(data)[i]))
        play.assert_trees_close(row, tuned[places[-1]])
    assert len(set(places)) > 1, "the choice is no longer tested"


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_dapper_solves_the_mixed_problem(lam):
    """`(lam A_i + (1 - lam) Abar) v = lam A_i c_i + (1 - lam) mean_j A_j c_j`; with 0 it is everybody's optimum."""
    data = q.data()
    x = jax.tree.map(np.asarray, data.examples.x)
    solve = local.descent(optax.sgd(0.4), plans.full_batch(100, 60))
    build = algorithms.dapper(q.task(), solve, solve, grid=(lam,), public_batch_size=60)
    run = play.play(q.task(), build, data.with_public(x))
    shares = q.shares(q.N)
    for i, v in enumerate(run.personalized().trainable["w"]):
        blend = (1 - lam) * shares + lam * np.eye(3)[i]
        close(v, q.weighted(blend, q.A, q.C), 1e-9)
    if lam == 0:
        close(v, (-0.346303501946, 0.859922178988), 1e-9)


def test_what_they_need():
    with pytest.raises(ValueError, match="nothing to choose from"):
        network.train(algorithms.mapper(TASK, solver(), solver(), grid=()))
    with pytest.raises(ValueError, match="dapper trains on examples that everybody sees, and there are none"):
        network.train(algorithms.dapper(TASK, solver(), solver())).personalized()
    with pytest.raises(ValueError, match=r"mapper: grid=1.5: it must be a number from 0 to 1"):
        algorithms.mapper(TASK, solver(), solver(), grid=(0.5, 1.5))
