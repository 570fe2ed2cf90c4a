"""Federated collaborative filtering."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData, from_clients
from pfljax.learning import tasks
from pfljax.types import Algorithm, Array, Model, Params, State
from tests.oracles import network, play
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

LAM, ITEMS, WIDTH = 1.0, 6, 2


def factors(items: int, width: int) -> Model:
    """Rows of items, and a head that nobody reads."""

    def init(key: Array) -> Params:
        return Params({"items": {"rows": jax.random.normal(key, (items, width))}, "top": {"w": jnp.ones((width, 1))}})

    def features(params: Params, x: Array, **_: Any) -> tuple[Array, Any]:
        return params.trainable["items"]["rows"][x], {}

    def head(params: Params, z: Array, **_: Any) -> tuple[Array, Any]:
        return z @ params.trainable["top"]["w"], {}

    return Model(init, features, head, ("items", "top"), features_shape=(width,))


MODEL = factors(ITEMS, WIDTH)
TASK = tasks.regression(MODEL)
DRAW = np.random.default_rng(0)
RATED = [np.sort(DRAW.choice(ITEMS, size, replace=False)) for size in (2, 6, 4, 5)]
RATINGS = [DRAW.integers(1, 6, len(items)).astype(float) for items in RATED]


def data() -> FederatedData:
    return from_clients(list(zip(RATED, RATINGS, strict=True)))


def method(**options: Any) -> Algorithm:
    return algorithms.fcf(TASK, MODEL, lam=LAM, **options)


def rows(state: State) -> np.ndarray:
    return np.asarray(state.server.params.trainable["items"]["rows"])


def taste(y: np.ndarray, u: int) -> np.ndarray:
    """The ridge regression of a client's ratings on its items."""
    own = y[RATED[u]]
    return np.linalg.solve(own.T @ own + LAM * np.eye(y.shape[1]), own.T @ RATINGS[u])


def alternated(y: np.ndarray, times: int, clients: Sequence[int] = range(4)) -> np.ndarray:
    """Alternating least squares, in one place."""
    y = y.copy()
    for _ in range(times):
        x = {u: taste(y, u) for u in clients}
        for i in range(len(y)):
            raters = [(x[u], RATINGS[u][list(RATED[u]).index(i)]) for u in clients if i in RATED[u]]
            left = sum((np.outer(a, a) for a, _ in raters), LAM * np.eye(WIDTH))
            y[i] = np.linalg.solve(left, sum((r * a for a, r in raters), np.zeros(WIDTH)))
    return y


def objective(y: np.ndarray) -> float:
    x = [taste(y, u) for u in range(4)]
    errors = sum(np.sum((RATINGS[u] - y[RATED[u]] @ x[u]) ** 2) for u in range(4))
    return float(errors + LAM * (np.sum(y**2) + np.sum(np.square(x))))


def test_published_numbers():
    """Implicit feedback on three items: tastes and gradients."""
    model, key = factors(3, 1), jax.random.key(0)
    held = [(np.arange(3), np.array(r)) for r in ([1.0, 0, 1], [0.0, 1, 1])]
    algorithm: Any = algorithms.fcf(tasks.regression(model), model, lam=1.0, confidence=2.0)
    y = Params({"items": {"rows": jnp.array([[1.0], [0], [1]])}, "top": {"w": None}})
    total = 2 * np.array([1.0, 0, 1])
    for u, expected in enumerate((6 / 7, 0.6)):
        client = from_clients(held).client(u)
        close(algorithm.personalize(y, (), client, key).x, [[expected]])
        total = total + np.asarray(algorithm.client_update(y, (), client, key).upload.trainable["items"]["rows"])[:, 0]
    close(total, (1.985306122449, -3.6, -0.174693877551))


def test_where_alternating_least_squares_ends_the_gradients_cancel():
    """And clients have its tastes."""
    best = alternated(np.random.default_rng(1).normal(size=(ITEMS, WIDTH)), 1000)
    algorithm: Any = method()
    items, total = Params({"items": {"rows": jnp.asarray(best)}, "top": {"w": None}}), 2 * LAM * best
    for u in range(4):
        client, key = data().client(u), jax.random.key(0)
        deployed = algorithm.personalize(items, (), client, key)
        close(deployed.x[:, 0], taste(best, u), 1e-9)
        close(algorithm.predict(deployed, jnp.arange(ITEMS))[:, 0], best @ taste(best, u), 1e-9)
        upload = algorithm.client_update(items, (), client, key).upload.trainable["items"]["rows"]
        assert np.abs(upload).max() > 0.1
        total = total + np.asarray(upload)
    close(total, np.zeros_like(best), 1e-8)


def test_the_server_finds_as_good_rows_as_alternating_least_squares():
    run = play.play(TASK, method(server_lr=0.03), data(), 400)
    best = alternated(rows(run.start), 3000)
    assert objective(rows(run.start)) > 1.5 * objective(best)
    close(objective(rows(run.state)), objective(best), 1e-3)


@pytest.mark.parametrize("cohort", [None, 2])
def test_exact_steps_are_alternating_least_squares(cohort):
    """Of all clients, and of those of each round."""
    run = play.play(TASK, method(step="exact"), data(), 5, cohort=cohort)
    y = rows(run.start)
    for raters in run.cohorts:
        y = alternated(y, 1, raters)
    close(rows(run.state), y, 1e-10)
    close(run.personalized().x[:, :, 0], [taste(y, u) for u in range(4)], 1e-10)


def test_exact_steps_of_implicit_feedback():
    """From the golden example: `y_i = (sum_u c_ui x_u^2 + lam)^-1 sum_u c_ui p_ui x_u` by hand."""
    model, r = factors(3, 1), np.array([[1.0, 0, 1], [0, 1, 1]])
    held = from_clients([(np.arange(3), row) for row in r])

    def begin(state: State) -> State:
        y = {"items": {"rows": jnp.array([[1.0], [0], [1]])}, "top": {"w": None}}
        return state._replace(server=state.server._replace(params=Params(y)))

    build = algorithms.fcf(tasks.regression(model), model, lam=1.0, confidence=2.0, step="exact")
    run = play.play(tasks.regression(model), build, held, begin=begin)
    x, c = np.array([6 / 7, 0.6]), 1 + 2 * r
    close(rows(run.state)[:, 0], (c * r * x[:, None]).sum(0) / ((c * x[:, None] ** 2).sum(0) + 1))


def test_exact_steps_are_for_one_table():
    bent = network.model()
    method = algorithms.fcf(tasks.classification(bent), bent, step="exact")
    with pytest.raises(ValueError, match=r"step='exact' solves for the rows of one table .* \[\(3, 4\), \(4,\)\]"):
        method.init_server(jax.random.key(0), 3)


def test_fcf_against_loops():
    """Two of four clients in a round; Adam by hand."""
    run = play.play(TASK, method(), data(), 4, cohort=2)
    y = rows(run.start)
    m, v = np.zeros_like(y), np.zeros_like(y)
    for t, cohort in enumerate(run.cohorts):
        g = 2 * LAM * y
        for u in cohort:
            x = taste(y, u)
            for i, r in zip(RATED[u], RATINGS[u], strict=True):
                g[i] = g[i] - 2 * (r - y[i] @ x) * x
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        y = y - 0.1 * (m / (1 - 0.9 ** (t + 1))) / (np.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8)
    close(rows(run.state), y, 1e-11)
    close(run.personalized().x[:, :, 0], [taste(y, u) for u in range(4)], 1e-10)
