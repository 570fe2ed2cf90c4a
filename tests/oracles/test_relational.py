"""FedAMP and HeurFedAMP."""

from __future__ import annotations

import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK = q.task()
TABLE = q.descended(np.zeros(2), q.A, q.C, q.LR, q.STEPS)
XI = [
    (0.319340208879, 0.328771177008, 0.351888614113),
    (0.328771177008, 0.278686438878, 0.392542384113),
    (0.351888614113, 0.392542384113, 0.255569001774),
]
CLOUD = [(-0.007252550818, 0.355306935544), (-0.019336598734, 0.324226380086), (0.043856962052, 0.38398668437)]
SOLVED = [(0.496373724591, 0.118435645181), (-0.006445532911, 1.162113190043), (-0.495637772227, 0.565902785242)]
HEURISTIC = [
    (1 / 3, 0.466853266628, 0.199813400038),
    (0.247169075896, 1 / 3, 0.419497590771),
    (0.134261410444, 0.532405256223, 1 / 3),
]


def with_table(rows: np.ndarray):
    """Starts from these models, on the server and where clients keep theirs."""

    def begin(state):
        return state._replace(server=Params({"w": np.array(rows)}), clients=Params({"w": np.array(rows)}))

    return begin


def solver(steps: int, lr: float) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plans.full_batch(steps, 60))


STANDING, SOLVING = solver(1, 0.0), solver(60, 0.3)


def test_fedamp_cloud_models():
    """Clients that stand still leave the cloud models in the table; weights follow from them, as rows sum to 1."""
    build = algorithms.fedamp(TASK, STANDING, lam=1.0, alpha=1.0, sigma=2.0)
    table = play.play(TASK, build, q.data(), begin=with_table(TABLE)).state.server.trainable["w"]
    close(table, CLOUD)
    corners = np.vstack([TABLE.T, np.ones(3)])
    close(np.linalg.solve(corners, np.vstack([table.T, np.ones(3)])).T, XI, 1e-11)
    weights = reference.fedamp_weights([{"w": row} for row in TABLE], alpha=1.0, sigma=2.0)
    close(weights, XI)


@pytest.mark.parametrize("start", ["cloud", "own"])
def test_fedamp_solved_clients(start):
    build = algorithms.fedamp(TASK, SOLVING, lam=1.0, alpha=1.0, sigma=2.0, start=start)
    run = play.play(TASK, build, q.data(), begin=with_table(TABLE))
    close(run.state.server.trainable["w"], SOLVED)
    close(run.personalized().trainable["w"], SOLVED)


def test_heurfedamp_cloud_models():
    build = algorithms.heurfedamp(TASK, STANDING, sigma=1.0, self_weight=1 / 3)
    run = play.play(TASK, build, q.data(), begin=with_table(TABLE))
    close(run.state.server.trainable["w"], np.array(HEURISTIC) @ TABLE)


def test_without_attention_clients_solve_around_their_own_models():
    """alpha to 0 with lam / alpha fixed: u_i = w_i."""
    build = algorithms.fedamp(TASK, SOLVING, lam=0.7e-200, alpha=1e-200, sigma=2.0)
    run = play.play(TASK, build, q.data(), 2, begin=with_table(TABLE))
    close(run.state.server.trainable["w"], q.prox(q.prox(TABLE, q.A, q.C, 0.7), q.A, q.C, 0.7))


def test_even_attention_is_the_mean():
    """sigma to infinity with alpha / sigma = 1 / N."""
    build = algorithms.fedamp(TASK, SOLVING, lam=1e14, alpha=1e14 / 3, sigma=1e14)
    run = play.play(TASK, build, q.data(), begin=with_table(TABLE))
    close(run.state.server.trainable["w"], q.prox(TABLE.mean(0), q.A, q.C, 3.0))


def cloud(build: Algorithm, table: np.ndarray) -> np.ndarray:
    """What clients that stand still leave in the table: Xi W."""
    data = q.data(q.A[[0] * len(table)], np.zeros_like(table), (1,) * len(table))
    return play.play(TASK, build, data, begin=with_table(table)).state.server.trainable["w"]


SCATTER = np.random.default_rng(0).normal(size=(5, 2))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 5.0])
def test_a_self_weight_is_never_negative(alpha):
    """Where the weights of the others sum to more than 1 they are scaled to 1; others keep the paper's."""
    xi = reference.fedamp_weights([{"w": row} for row in SCATTER], alpha=alpha, sigma=1.0)
    own = np.diag(xi).copy()
    np.fill_diagonal(xi, 0)
    xi /= np.maximum(xi.sum(1, keepdims=True), 1)
    np.fill_diagonal(xi, 1 - xi.sum(1))
    assert (own < 0).all() == (alpha == 5.0)
    assert (own < 0).any() == (alpha > 0.1)
    build = algorithms.fedamp(TASK, STANDING, lam=0.0, alpha=alpha, sigma=1.0)
    close(cloud(build, SCATTER), xi @ SCATTER)


@pytest.mark.parametrize("sigma", [0.5, None], ids=["given", "of the models"])
@pytest.mark.parametrize("clients", [1, 2, 5])
def test_the_step_of_fedamp_is_the_largest_that_leaves_everybody_a_weight(clients, sigma):
    """sigma is a fifth of the mean squared distance; the client with the nearest others has no weight left."""
    table = SCATTER[:clients]
    apart = np.array([[np.sum((a - b) ** 2) for b in table] for a in table])
    scale = sigma or float(apart.sum() / max(clients * (clients - 1), 1) / 5) or 1.0
    near = np.exp(-apart / scale) - np.eye(clients)
    alpha = scale / (near.sum(1).max() or 1.0)
    xi = reference.fedamp_weights([{"w": row} for row in table], alpha=alpha, sigma=scale)
    assert abs(np.diag(xi).min()) < 1e-12 or clients == 1
    close(cloud(algorithms.fedamp(TASK, STANDING, sigma=sigma), table), xi @ table)


@pytest.mark.parametrize("alpha", [None, 0.5])
def test_the_strength_of_fedamp_is_in_units_of_alpha(alpha):
    """Equal models are their own cloud, so each client solves around them with the pull lam, or lam / alpha."""
    build = algorithms.fedamp(TASK, SOLVING, lam=0.7, alpha=alpha)
    run = play.play(TASK, build, q.data(), begin=with_table(np.ones((3, 2))))
    close(run.state.server.trainable["w"], q.prox(np.ones(2), q.A, q.C, 0.7 / (alpha or 1)))


def test_heurfedamp_alone_is_its_own_cloud():
    close(cloud(algorithms.heurfedamp(TASK, STANDING, self_weight=0.1), SCATTER[:1]), SCATTER[:1])


def test_equal_models_attract_nobody():
    build = algorithms.fedamp(TASK, STANDING, lam=1.0, alpha=0.3, sigma=2.0)
    run = play.play(TASK, build, q.data(), begin=with_table(np.ones((3, 2))))
    close(run.state.server.trainable["w"], np.ones((3, 2)), 1e-15)


FACTORIES = {
    "FedAMP": (
        lambda solve: algorithms.fedamp(network.task(), solve, lam=0.3, alpha=0.6, sigma=4.0, start="cloud"),
        lambda table: reference.fedamp_weights(table, alpha=0.6, sigma=4.0),
        "cloud",
    ),
    "FedAMP from its own": (
        lambda solve: algorithms.fedamp(network.task(), solve, lam=0.3, alpha=0.6, sigma=4.0, start="own"),
        lambda table: reference.fedamp_weights(table, alpha=0.6, sigma=4.0),
        "own",
    ),
    "HeurFedAMP": (
        lambda solve: algorithms.heurfedamp(network.task(), solve, lam=0.3, alpha=0.6, sigma=2.0, self_weight=0.4),
        lambda table: reference.heurfedamp_weights(table, sigma=2.0, self_weight=0.4),
        "cloud",
    ),
}


@pytest.mark.parametrize("method", FACTORIES)
def test_attention_against_loops(method):
    make, attention, start = FACTORIES[method]
    run = network.train(make(local.descent(optax.sgd(network.LR), network.plan())))
    table = play.rows(run.start.server.trainable, 5)
    expected = reference.fedamp(
        network.federation(), table, lr=network.LR, lam=0.3, alpha=0.6, weights=attention, start=start
    )
    deployed = play.rows(run.personalized().trainable, 5)
    for i, row in enumerate(play.rows(run.state.server.trainable, 5)):
        play.assert_trees_close(row, expected[i])
        play.assert_trees_close(deployed[i], expected[i])
