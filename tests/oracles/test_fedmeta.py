"""FedMeta: MAML and Meta-SGD."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.server import fedopt
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

TASK, WHOLE, ALPHA, SUPPORT = network.task(), plans.full_batch(1, 14), 0.3, 0.4


def parts(rows: reference.Rows) -> tuple[reference.Rows, reference.Rows]:
    """The first `ceil(0.4 n)` rows, and the others."""
    (x, y), first = rows, int(np.ceil(SUPPORT * len(rows[1])))
    return (x[:first], y[:first]), (x[first:], y[first:])


def steps(f: reference.Federation, w: reference.Tree, alpha: reference.Tree, rows: reference.Rows, count: int) -> list:
    """`w - alpha o grad f(w)`, each point on the way."""
    way = [w]
    for _ in range(count):
        g = f.gradient(way[-1], rows)
        way.append({name: leaf - alpha[name] * g[name] for name, leaf in way[-1].items()})
    return way


def loop(f: reference.Federation, w: reference.Tree, *, lr: float, form: str, inner_steps: int) -> tuple:
    """Backwards through the steps: `g_alpha -= grad f(u_k) o r`, `r <- r - H(u_k) (alpha o r)`; Adam at the server."""
    alpha = {name: np.full_like(leaf, ALPHA) for name, leaf in w.items()}
    meta = [w, alpha][: 1 + (form == "meta_sgd")]
    m, v = ([{name: 0 * leaf for name, leaf in part.items()} for part in meta] for _ in range(2))
    for t, cohort in enumerate(f.cohorts):
        uploads = []
        for i in cohort:
            support, query = parts(f.everything[i])
            way = steps(f, meta[0], alpha, support, inner_steps)
            r = f.gradient(way[-1], query)
            by_alpha = {name: 0 * leaf for name, leaf in r.items()}
            for u in reversed(way[:-1]):
                g = f.gradient(u, support)
                by_alpha = {name: by_alpha[name] - g[name] * r[name] for name in r}
                scaled = {name: alpha[name] * r[name] for name in r}
                r = reference.axpy(-1.0, reference.hessian_vector(f.gradient, u, support, scaled), r)
            uploads.append([r, by_alpha])
        for part in range(len(meta)):
            g = reference.average([upload[part] for upload in uploads], f.sizes[cohort])
            m[part] = {name: 0.9 * m[part][name] + 0.1 * g[name] for name in g}
            v[part] = {name: 0.999 * v[part][name] + 0.001 * g[name] ** 2 for name in g}
            meta[part] = {
                name: leaf
                - lr * m[part][name] / (1 - 0.9 ** (t + 1)) / (np.sqrt(v[part][name] / (1 - 0.999 ** (t + 1))) + 1e-8)
                for name, leaf in meta[part].items()
            }
        alpha = meta[1] if form == "meta_sgd" else alpha
    return meta[0], alpha


@pytest.mark.parametrize(("form", "inner_steps"), [("maml", 1), ("meta_sgd", 1), ("meta_sgd", 3)])
def test_against_a_loop(form, inner_steps):
    """Curvature by complex steps there; and what clients deploy is adapted on all of their examples."""
    method = algorithms.fedmeta(
        TASK, WHOLE, alpha=ALPHA, server_lr=0.05, form=form, support=SUPPORT, inner_steps=inner_steps
    )
    run = network.train(method, rounds=4)
    f, start = network.federation(4), run.start.server.params.trainable["w"]
    w, alpha = loop(f, start, lr=0.05, form=form, inner_steps=inner_steps)
    final = run.state.server.params.trainable
    play.assert_trees_close(final["w"], w, 1e-10)
    if form == "meta_sgd":
        play.assert_trees_close(final["alpha"], alpha, 1e-10)
        assert np.ptp(alpha["W1"]) > 0.05
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, steps(f, w, alpha, f.everything[i], inner_steps)[-1], 1e-10)


@pytest.mark.slow
def test_without_inner_steps_it_is_a_gradient_step_on_the_queries():
    """All examples are query where all are support."""
    meta = algorithms.fedmeta(TASK, WHOLE, alpha=0.0, server_lr=0.05, form="maml", support=1.0)
    step = local.descent(optax.sgd(1.0), WHOLE)
    fedsgd = algorithms.fedavg(TASK, step, server=fedopt(optax.adam(0.05)))
    w, expected = (network.train(method).state.server.params.trainable for method in (meta, fedsgd))
    play.assert_trees_close(w["w"], expected, 1e-10)


@pytest.mark.slow
def test_step_sizes_that_have_not_moved_are_those_of_maml():
    methods = (algorithms.fedmeta(TASK, WHOLE, alpha=ALPHA, form=form) for form in ("maml", "meta_sgd"))
    maml, meta_sgd = (network.train(method, rounds=1).state.server.params.trainable["w"] for method in methods)
    play.assert_trees_close(maml, meta_sgd)
