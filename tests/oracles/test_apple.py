"""APPLE."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import plans
from pfljax.types import Params, State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import axpy, close

pytestmark = pytest.mark.usefixtures("x64")

TASK = network.task()
CORES = q.descended(np.zeros(2), q.A, q.C, q.LR, q.STEPS)


def known(sizes: Any) -> Any:
    """Begins where the server knows how many examples clients have."""
    return lambda state: state._replace(server=state.server._replace(sizes=np.array(sizes, float)))


def prior(sizes: np.ndarray) -> np.ndarray:
    """Shares of the examples; a client that has not replied counts as the mean of those that have."""
    known = sizes[sizes > 0]
    sizes = np.where(sizes > 0, sizes, known.mean() if len(known) else 1.0)
    return sizes / sizes.sum()


def received(p: np.ndarray, known: np.ndarray, i: int, key: Any, downloads: int, focus: float) -> list[int]:
    """The others whose cores client i receives: the unknown first, and by chance."""
    noise = np.asarray(jax.random.gumbel(key, (5,), float))
    order = sorted(range(5), key=lambda j: (j == i, known[j], -noise[j] - known[j] * np.log(focus ** abs(p[j]))))
    return order[:downloads]


def apple(
    f: reference.Federation,
    cores: Any,
    *,
    lr: float,
    relation_lr: float,
    mu: float,
    downloads: int = 5,
    focus: float = 1.5,
) -> tuple[list, np.ndarray, list]:
    """The cores, the clients' relations less the prior, and what each has of the cores."""
    cores, away, sizes = list(cores), np.zeros((5, 5)), np.zeros(5)
    tables, known = [list(cores) for _ in range(5)], np.zeros((5, 5), bool)
    for t, cohort in enumerate(f.cohorts):
        p0, now = prior(sizes), list(cores)
        for i in cohort:
            table, p = tables[i], p0 + away[i]
            new = received(p, known[i], i, jax.random.fold_in(play._client_key(t, i), 1), downloads, focus)
            for j in [*new, i]:
                table[j] = now[j]
            known[i, new] = True
            for rows in f.batches(t, i, 0):
                m = {name: sum(p[j] * table[j][name] for j in range(5)) for name in table[i]}
                g = f.gradient(m, rows)
                slope = np.array([reference.inner(g, core) for core in table])
                table[i] = axpy(-lr * p[i], g, table[i])
                p = p - relation_lr * (slope + 2 * mu * (p - p0))
            cores[i], away[i], sizes[i] = table[i], p - p0, f.sizes[i]
    return cores, away, tables


@pytest.mark.parametrize("downloads", [None, 1])
def test_apple_against_loops(downloads):
    """With one core in a round, and with all of them."""
    hyper: dict[str, Any] = {"relation_lr": 0.03, "mu": 0.2} | ({"downloads": 1, "focus": 30.0} if downloads else {})
    rounds = 12 if downloads else 4
    run = network.train(algorithms.apple(TASK, optax.sgd(network.LR), network.plan(), **hyper), rounds=rounds)
    f = network.federation(rounds)
    cores, away, tables = apple(f, play.rows(run.start.server.models.trainable, 5), lr=network.LR, **hyper)
    seen = sorted({i for cohort in f.cohorts for i in cohort})
    sizes = np.array([size if i in seen else 0 for i, size in enumerate(network.SIZES)], float)
    close(run.state.server.sizes, sizes)
    close(run.state.clients.relations if downloads else run.state.clients, away)
    deployed = play.rows(run.personalized().trainable, 5)
    for i, row in enumerate(play.rows(run.state.server.models.trainable, 5)):
        play.assert_trees_close(row, cores[i])
        p = prior(sizes) + away[i]
        table = [tables[i][j] if downloads and j != i else cores[j] for j in range(5)]
        play.assert_trees_close(deployed[i], {n: sum(p[j] * table[j][n] for j in range(5)) for n in cores[0]})


def test_gradients_as_published():
    """Cores are the models after the first round, the relations the shares of the examples."""

    def begin(state: State) -> State:
        return known(q.N)(state._replace(server=state.server._replace(models=Params({"w": CORES}))))

    build = algorithms.apple(q.task(), optax.sgd(0.5), plans.full_batch(1, 60), relation_lr=0.25, mu=9.0)
    run = play.play(q.task(), build, q.data(), begin=begin)
    core = [(-0.187978237847, 0.131752222222), (-0.085246284722, -0.534914444444), (0.502912096354, -0.084339023437)]
    relations = [
        (-0.461873809085, 0.647446230267, 0.635678481294),
        (-0.10472761817, -1.314316884867, -0.292048177413),
        (0.411895065156, -0.138150693952, -0.435768464049),
    ]
    close(run.state.server.models.trainable["w"], CORES - 0.5 * np.array(core))
    close(run.state.clients, -0.25 * np.array(relations))
    first = run.simulation.personalized(begin(run.start), jax.random.key(0)).trainable["w"]
    close(first, [(-0.127869427083, 0.395256666667)] * 3)


def test_relations_to_oneself_alone_are_local_only():
    def begin(state: State) -> State:
        return known(network.SIZES)(state._replace(clients=np.eye(5) - prior(np.array(network.SIZES, float))))

    build = algorithms.apple(TASK, optax.sgd(network.LR), network.plan(), relation_lr=0.0, mu=0.0)
    run = play.play(TASK, build, network.data(), network.ROUNDS, cohort=network.COHORT, begin=begin)
    f, cores = network.federation(), play.rows(run.start.server.models.trainable, 5)
    deployed = play.rows(run.personalized().trainable, 5)
    for i, alone in enumerate(reference.local_only(f, cores, lr=network.LR)):
        play.assert_trees_close(play.rows(run.state.server.models.trainable, 5)[i], alone)
        play.assert_trees_close(deployed[i], alone)


def test_a_newcomer_fits_relations_to_the_cores_of_others():
    """It has no core, so what it deploys is the best sum of theirs."""
    build = algorithms.apple(q.task(), optax.sgd(0.0), plans.full_batch(500, 60), relation_lr=0.3, mu=0.0)
    shelf = build.download(build.init_server(jax.random.key(0), 3), jnp.asarray(7))
    shelf = shelf._replace(models=Params({"w": np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}))
    data = q.data().client(2)._replace(id=jnp.asarray(7))
    relations = build.onboard(shelf, np.zeros(3), data, jax.random.key(0))
    close(build.personalize(shelf, relations, data, jax.random.key(0)).trainable["w"], (-1 + 0.5 / 1.5, 0), 1e-9)


@pytest.mark.slow
def test_as_many_downloads_as_there_are_others_are_all_of_them():
    hyper: dict[str, Any] = {"relation_lr": 0.03, "mu": 0.2}
    build = [algorithms.apple(TASK, optax.sgd(network.LR), network.plan(), downloads=m, **hyper) for m in (None, 4)]
    everything, limited = (play.play(TASK, algorithm, network.data(), 2) for algorithm in build)
    for mine, theirs in zip(*(jax.tree.leaves(run.state.server) for run in (limited, everything)), strict=True):
        close(mine, theirs, 1e-14)
    close(limited.state.clients.relations, everything.state.clients, 1e-14)


def test_known_cores_are_drawn_by_relations():
    """One of three others whose relations are 0, 1 and 2: with a focus of 3 their chances are 1, 3 and 9 of 13."""
    method, count = algorithms.apple(q.task(), optax.sgd(0.1), plans.full_batch(1, 60), downloads=1, focus=3.0), 4000
    shelf = method.download(method.init_server(jax.random.key(0), 4), jnp.asarray(0))
    old = Params({"w": jnp.full((4, 2), 7.0)})
    client = method.init_client(shelf, jnp.asarray(0), jax.random.key(0))
    client = client._replace(relations=jnp.array([5.0, 0, -1, 2]) - shelf.prior, models=old, known=jnp.ones(4, bool))
    keys = jax.random.split(jax.random.key(1), count)
    update = jax.vmap(lambda key: method.client_update(shelf, client, q.data().client(0), key).client.models)
    drawn = (np.asarray(update(keys).trainable["w"])[:, 1:, 0] != 7).mean(0)
    close(drawn, np.array([1, 3, 9]) / 13, 4 * np.sqrt(0.25 / count))
