"""pFedSim."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.learning import local
from pfljax.types import Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import Federation, Tree, close

pytestmark = pytest.mark.usefixtures("x64")

TASK, ROUNDS = network.task(), 5


def method(warmup: int) -> Any:
    solve = local.descent(optax.sgd(network.LR), network.plan())
    return algorithms.pfedsim(TASK, solve, masks.named(*network.HEAD), warmup=warmup)


def loops(f: Federation, w: Tree, warmup: int) -> tuple[list[Tree], np.ndarray, list[bool]]:
    """Table, similarities, and whether a client has trained after the warm-up."""
    count = len(f.everything)
    table, s, late = [w] * count, np.zeros((count, count)), [False] * count
    for t, cohort in enumerate(f.cohorts):
        results = {}
        for i in cohort:
            a = np.array([-np.log(1 - (0.9999 if j == i else s[i, j])) for j in range(count)])
            mixture = reference.average(table, a / a.sum())
            begin = {name: table[i][name] if name in network.HEAD else mixture[name] for name in w}
            results[i] = reference.descend(begin, f.gradient, f.batches(t, i, 0), network.LR)
        if t < warmup:
            table = [reference.average(list(results.values()), [f.sizes[i] for i in cohort])] * count
            continue
        for i in cohort:
            table[i], late[i] = results[i], True
            for j in cohort:
                h, g = results[i]["W2"], results[j]["W2"]
                cosines = [
                    h[:, c] @ g[:, c] / np.linalg.norm(h[:, c]) / np.linalg.norm(g[:, c]) for c in range(h.shape[1])
                ]
                s[i, j] = np.clip(np.mean(cosines), 0, 0.9999)
    return table, s, late


def test_pfedsim_against_loops():
    """Three of five unequal clients in a round, two of five rounds for all alike."""
    run = network.train(method(warmup=2), rounds=ROUNDS)
    w = play.rows(run.start.server.models.trainable, 5)[0]
    table, s, late = loops(network.federation(rounds=ROUNDS), w, warmup=2)
    off = ~np.eye(5, dtype=bool)
    assert (s[off] > 0).any()
    close(run.state.server.similarity[off], s[off])
    assert late == [bool(kept) for kept in run.state.clients.personal]
    for row, deployed, expected, trained in zip(
        play.rows(run.state.server.models.trainable, 5),
        play.rows(run.personalized().trainable, 5),
        table,
        late,
        strict=True,
    ):
        play.assert_trees_close(row, expected)
        if trained:
            play.assert_trees_close(deployed, expected)


def test_weights_as_published():
    """Bodies that are unit vectors show the weights; heads stay."""
    algorithm = method(warmup=0)
    server = algorithm.init_server(jax.random.key(0), 4)
    leaves = dict(server.models.trainable)
    leaves["b1"] = jnp.eye(4)
    leaves["b2"] = jnp.arange(12.0).reshape(4, 3)
    s = jnp.array([[0.0, 0.5, 0.2, 0.0]] + [[0.0] * 4] * 3)
    server = server._replace(models=Params(leaves), similarity=s)
    first = algorithm.download(server, jnp.asarray(0)).params.trainable
    close(first["b1"], (0.909516726493, 0.068447954058, 0.022035319449, 0))
    close(first["b2"], (0, 1, 2))
    close(algorithm.download(server, jnp.asarray(1)).params.trainable["b1"], (0, 1, 0, 0), 1e-15)
    newcomer = algorithm.download(server, jnp.asarray(4)).params.trainable
    close(newcomer["b1"], np.full(4, 1 / 4))
    close(newcomer["b2"], (4.5, 5.5, 6.5))


@pytest.mark.slow
def test_the_warmup_is_fedavg():
    solve = local.descent(optax.sgd(network.LR), network.plan())
    run, fedavg = network.train(method(warmup=9)), network.train(algorithms.fedavg(TASK, solve))
    for mine, expected in zip(*(play.rows(r.personalized().trainable, 5) for r in (run, fedavg)), strict=True):
        play.assert_trees_close(mine, expected)


@pytest.mark.slow
def test_who_never_meets_trains_alone():
    """Cohorts of one: no pair is ever seen, so bodies are mixed with none."""
    solve = local.descent(optax.sgd(network.LR), network.plan())
    run = network.train(method(warmup=0), cohort=1, rounds=6)
    alone = network.train(algorithms.local_only(TASK, solve, participation="cohort"), cohort=1, rounds=6)
    for mine, expected in zip(*(play.rows(r.personalized().trainable, 5) for r in (run, alone)), strict=True):
        play.assert_trees_close(mine, expected)
