"""FedCurv and FedCL: pulls by the Fisher information."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR = network.task(), network.LR
SOLVE = local.descent(optax.sgd(LR), network.plan())
PUBLIC = np.random.default_rng(5).normal(size=(7, network.INPUTS)), np.arange(7) % network.CLASSES


def information(f: reference.Federation, w: reference.Tree, rows: reference.Rows) -> reference.Tree:
    """The mean over rows of their squared gradients."""
    x, y = rows
    each = [f.gradient(w, (x[s : s + 1], y[s : s + 1])) for s in range(len(y))]
    return {name: np.mean([g[name] ** 2 for g in each], axis=0) for name in w}


@pytest.mark.slow
@pytest.mark.parametrize("make", [algorithms.fedcurv, algorithms.fedcl])
def test_without_a_pull_they_are_fedavg(make: Callable[..., Any]):
    method = reduced_by(make(TASK, SOLVE, lam=0.0), uniform(mean))
    run = play.play(TASK, method, network.data().with_public(*PUBLIC), 2, cohort=3)
    fedavg = network.train(reduced_by(algorithms.fedavg(TASK, SOLVE), uniform(mean)), rounds=2)
    play.assert_trees_close(run.state.server.model.params.trainable, fedavg.state.server.params.trainable)


@pytest.mark.parametrize(
    "descent", [lambda lr, plan: local.descent(optax.sgd(lr), plan), local.proximal_descent], ids=["plain", "proximal"]
)
def test_the_minimisers_of_fedcurv(descent: Callable[..., Any]):
    """Of `f_i(y) + 0.1 sum_j (y - theta_j)' diag(A_j) (y - theta_j)`, with theta_j after five local steps from 0."""
    curvatures = np.stack([np.diag(a) for a in q.A])
    theta = q.descended(np.zeros(2), q.A, q.C, q.LR, q.STEPS)

    def informed(state):
        u, v = ({"w": jnp.asarray(rows)} for rows in (curvatures, curvatures * theta))
        sums = state.server.sums._replace(u={"w": u["w"].sum(0)}, v={"w": v["w"].sum(0)})
        server = state.server._replace(sums=sums, members=jnp.ones(3))
        return state._replace(server=server, clients=state.clients._replace(u=u, v=v))

    solve = descent(0.2, plans.full_batch(200, 60))
    run = play.play(q.task(), algorithms.fedcurv(q.task(), solve, lam=0.1), q.data(), begin=informed)
    reference.close(
        run.state.clients.v["w"] / run.state.clients.u["w"],
        [
            (0.519016084559, 0.088626666667),
            (-0.0143082625, 1.2805625),
            (-0.579054276527, 0.595831961415),
        ],
        1e-10,
    )


def test_fedcurv_against_pairs():
    """Each client sums over the others of the last cohort, with their models and Fisher information."""
    lam = 2.0
    run = network.train(algorithms.fedcurv(TASK, SOLVE, lam=lam), rounds=4)
    f, w = network.federation(4), run.start.server.model.params.trainable
    assert any(set(a) & set(b) and set(a) - set(b) for a, b in zip(f.cohorts, f.cohorts[1:], strict=False))
    last: dict[int, tuple] = {}
    for t, cohort in enumerate(f.cohorts):
        now = {}
        for i in cohort:

            def pulled(y, rows, i=i, last=last):
                g = f.gradient(y, rows)
                for j, (fisher, theta) in last.items():
                    if j != i:
                        g = {name: g[name] + 2 * lam * fisher[name] * (y[name] - theta[name]) for name in g}
                return g

            y = reference.descend(w, pulled, f.batches(t, i, 0), LR)
            now[i] = information(f, y, f.everything[i]), y
        w, last = reference.average([theta for _, theta in now.values()]), now
    play.assert_trees_close(run.state.server.model.params.trainable, w)
    total = {name: sum(fisher[name] for fisher, _ in last.values()) for name in w}
    play.assert_trees_close(run.state.server.sums.u, total)
    assert run.state.server.members.tolist() == [float(i in last) for i in range(5)]


def test_fedcurv_of_one_client_has_nobody_to_be_pulled_by():
    data = q.data(q.A[:1], q.C[:1], (10,))
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    curv, fedavg = (
        play.play(q.task(), m, data, 3).personalized()
        for m in (algorithms.fedcurv(q.task(), solve, lam=5.0), algorithms.fedavg(q.task(), solve))
    )
    play.assert_trees_close(curv.trainable, fedavg.trainable)


@pytest.mark.slow
def test_fedcl_where_all_numbers_matter_alike_is_fedprox():
    def alike(state):
        ones = {name: jnp.ones_like(leaf) for name, leaf in state.server.importance.items()}
        return state._replace(server=state.server._replace(importance=ones))

    data = network.data().with_public(*PUBLIC)
    run = play.play(TASK, algorithms.fedcl(TASK, SOLVE, lam=0.7), data, 1, cohort=3, begin=alike)
    prox = network.train(algorithms.fedprox(TASK, SOLVE, mu=0.7), rounds=1)
    play.assert_trees_close(run.state.server.model.params.trainable, prox.state.server.params.trainable)


def test_fedcl_against_a_loop():
    lam = 3.0
    run = play.play(TASK, algorithms.fedcl(TASK, SOLVE, lam=lam), network.data().with_public(*PUBLIC), 3, cohort=3)
    f, w = network.federation(), run.start.server.model.params.trainable
    omega = {name: 0 * leaf for name, leaf in w.items()}
    for t, cohort in enumerate(f.cohorts):

        def pulled(y, rows, w=w, omega=omega):
            g = f.gradient(y, rows)
            return {name: g[name] + lam * omega[name] * (y[name] - w[name]) for name in g}

        results = [reference.descend(w, pulled, f.batches(t, i, 0), LR) for i in cohort]
        w = reference.average(results, f.sizes[cohort])
        omega = information(f, w, PUBLIC)
    play.assert_trees_close(run.state.server.model.params.trainable, w)
    play.assert_trees_close(run.state.server.importance, omega)


def test_fedcl_needs_public_examples():
    with pytest.raises(ValueError, match="fedcl measures what matters on examples that everybody sees"):
        network.train(algorithms.fedcl(TASK, SOLVE))
