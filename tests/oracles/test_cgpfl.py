"""CGPFL and LCFed."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.decomposition import PCA

from pfljax import algorithms, masks
from pfljax.algorithms.lcfed import Common
from pfljax.learning import local
from pfljax.types import Params, State
from tests.oracles import groups, network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

COUNT, MU = groups.CLIENTS - 1, 0.7


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


def test_cgpfl_against_loops():
    """A proximal problem around each center, the center of nearest angle, plain means; what a newcomer deploys."""
    build = partial(algorithms.cgpfl, groups.task(), groups.solver(), clusters=3)
    centers, k = np.array([[1.0, 2.0, 2.0], [-2.0, -1.0, 1.0], [2.0, 1.0, 1.0]]), np.array([1, 0, 1, 2, 2, 0])
    hyper: dict[str, Any] = {"mu": MU, "hysteresis": 0.7}

    def begin(state: State) -> State:
        return groups.begun(state, centers.copy(), k.copy(), np.asarray(False))

    run = play.play(groups.task(), build, groups.data(), 4, cohort=groups.COHORT, begin=begin, **hyper)
    stayed = moved = 0
    for cohort in run.cohorts:
        results = {i: groups.trained(centers[k[i]], i, [(MU, centers[k[i]])]) for i in cohort}
        for i in cohort:
            away = np.array([1 - cosine(results[i], center) for center in centers])
            leaves = away[k[i]] - away.min() > 0.7 * away[k[i]]
            stayed += not leaves and away[k[i]] > away.min()
            moved += leaves
            k[i] = away.argmin() if leaves else k[i]
        for g in range(3):
            mine = [results[i] for i in cohort if k[i] == g]
            centers[g] = np.mean(mine, axis=0) if mine else centers[g]
    assert min(stayed, moved) > 0, (stayed, moved)
    close(run.state.server.models.trainable["w"], centers)
    deployed = [groups.trained(centers[g], i, [(MU, centers[g])]) for i, g in enumerate(k)]
    close(run.personalized().trainable["w"], deployed)
    mine = centers[groups.closest_by_loss(centers, COUNT)]
    newcomer = run.simulation.model(run.state, jax.random.key(0), COUNT, **hyper)
    close(newcomer.trainable["w"], groups.trained(mine, COUNT, [(MU, mine)]))


@pytest.mark.parametrize("init", ["random", "common"])
def test_the_first_centers_are_means_of_what_clients_make_of_one_model(init):
    """And each client joins the one of nearest angle. One center without a pull is FedAvg with equal weights."""
    first = np.stack([groups.trained(groups.START, i, [(MU, groups.START)]) for i in range(COUNT)])
    build = partial(algorithms.cgpfl, groups.task(), groups.solver(), clusters=2, init=init)
    run = play.play(groups.task(), build, groups.data(), 1, mu=MU)
    labels = np.asarray(run.state.server.assigned)
    if init == "common":
        means = [first[groups.best_partition(first, 2) == g].mean(0) for g in range(2)]
        nearest = [int(np.argmax([cosine(w, mean) for mean in means])) for w in first]
        assert groups.in_order_of_clients(labels) == groups.in_order_of_clients(nearest)
    assert len(set(labels.tolist())) == 2
    for g in range(2):
        close(run.state.server.models.trainable["w"][g], first[labels == g].mean(0))
    if init == "random":
        one = partial(algorithms.cgpfl, groups.task(), groups.solver(), clusters=1)
        w = groups.START
        for _ in range(3):
            w = np.mean([groups.trained(w, i) for i in range(COUNT)], axis=0)
        alone = play.play(groups.task(), one, groups.data(), 3, mu=0.0)
        close(alone.state.server.models.trainable["w"][0], w)


def lcfed(f: reference.Federation, models: list[Any], phi: Any, k: list[int], rank: int, mu: float, lam: float):
    """LCFed as loops, with scikit-learn's PCA of the models of a round."""

    def around(center: Any, phi: Any) -> reference.Gradient:
        pulled = reference.proximal(f.gradient, mu, center)

        def gradient(w: Any, rows: reference.Rows) -> Any:
            towards = {n: lam * (w[n] - phi[n]) if n in network.BODY else 0.0 for n in w}
            return reference.axpy(1.0, towards, pulled(w, rows))

        return gradient

    for t, cohort in enumerate(f.cohorts):
        results = {
            i: reference.descend(models[k[i]], around(models[k[i]], phi), f.batches(t, i, 0), network.LR)
            for i in cohort
        }
        shown = PCA(rank).fit(np.stack([reference.flat(results[i]) for i in cohort]))
        places = shown.transform(np.stack([reference.flat(model) for model in models]))
        for i in cohort:
            k[i] = int(((shown.transform(reference.flat(results[i])[None]) - places) ** 2).sum(1).argmin())
        phi = reference.average([{n: results[i][n] for n in network.BODY} for i in cohort])
        for g in range(len(models)):
            mine = [results[i] for i in cohort if k[i] == g]
            models[g] = reference.average(mine) if mine else models[g]
    return models, phi, k


def test_lcfed_against_loops():
    """Pulls to a center and of the body to the common one; clients join by two principal components."""
    solve, rank = local.descent(optax.sgd(network.LR), network.plan()), 2
    build = partial(algorithms.lcfed, network.task(), solve, masks.named(*network.HEAD), clusters=2, rank=rank)
    k: list[int] = [1, 0, 0, 0, 1]
    hyper: dict[str, Any] = {"mu": 0.4, "lam": 0.9}

    def begin(state: State) -> State:
        own = jax.vmap(network.task().init)(jax.random.split(jax.random.key(3), 2))
        own = jax.tree.map(lambda leaf: jnp.stack([leaf[0], leaf[0] + leaf[1] / 20]), own)
        phi = {n: leaf[0] / 2 if n in network.BODY else None for n, leaf in own.trainable.items()}
        memory = Common(Params(phi), jnp.asarray(False))
        return state._replace(server=state.server._replace(models=own, assigned=jnp.array(k), memory=memory))

    run = network.train(build, begin=begin, cohort=4, **hyper)
    start = run.start.server
    phi = {n: start.memory.body.trainable[n] for n in network.BODY}
    f = network.federation(network.ROUNDS, 4)
    models, phi, labels = lcfed(f, play.rows(start.models.trainable, 2), phi, list(k), rank, **hyper)
    assert labels != k
    assert run.state.server.assigned.tolist() == labels
    play.assert_trees_close(run.state.server.memory.body.trainable, phi)
    for g, row in enumerate(play.rows(run.state.server.models.trainable, 2)):
        play.assert_trees_close(row, models[g], atol=1e-11)
