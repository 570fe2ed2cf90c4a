"""FedAvg, FedSGD, centralized and local training, fine-tuning."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import Plan
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK = q.task()


def solver(steps: int = q.STEPS, lr: float = q.LR, capacity: int = 60) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plans.full_batch(steps, capacity))


@pytest.mark.parametrize(
    ("steps", "reduce", "expected"),
    [
        (5, mean, (-0.127869427083, 0.395256666667)),
        (5, uniform(mean), (0.0057559375, 0.354506666667)),
        (1, mean, (-0.033333333333, 0.091666666667)),
    ],
    ids=["by_n", "uniform", "FedSGD"],
)
def test_first_round(steps, reduce, expected):
    run = play.play(TASK, reduced_by(algorithms.fedavg(TASK, solver(steps)), reduce), q.data())
    close(run.state.server.params.trainable["w"], expected)


def test_fixed_point_is_not_the_optimum():
    run = play.play(TASK, algorithms.fedavg(TASK, solver()), q.data(), 100)
    w = run.state.server.params.trainable["w"]
    close(w, (-0.351823292608, 0.947306736689))
    assert np.linalg.norm(w - (-0.346303501946, 0.859922178988)) > 0.08


def test_centralized_training_finds_the_optimum_of_the_pooled_loss():
    run = play.play(TASK, algorithms.centralized(TASK, solver(5)), q.data(), 60, train=q.data().pooled())
    expected = (-0.346303501946, 0.859922178988)
    close(run.state.server.params.trainable["w"], expected)
    close(run.personalized().trainable["w"], [expected] * 3)


@pytest.mark.parametrize("seed", range(2))
def test_fedavg_on_random_quadratics(seed):
    matrices, centers, sizes = q.random(seed)
    task, w0 = q.task((0.3, -0.2, 0.1)), np.array([0.3, -0.2, 0.1])
    data, rounds = q.data(matrices, centers, sizes), 5
    build = algorithms.fedavg(task, solver(3), server=fedopt(optax.sgd(0.7)))
    run = play.play(task, build, data, rounds, cohort=3)
    w = w0
    for cohort in run.cohorts:
        part = q.shares(np.take(sizes, cohort))
        w = w + 0.7 * (part @ q.descended(w, matrices[cohort], centers[cohort], q.LR, 3) - w)
    close(run.state.server.params.trainable["w"], w)


def test_halving_a_client_or_adding_one_without_examples_changes_nothing():
    """Two clients with half of the examples each count as one."""
    solve, (a, c) = solver(), (q.A[[0, 1, 1, 2, 0]], q.C[[0, 1, 1, 2, 0]])
    run = play.play(TASK, algorithms.fedavg(TASK, solve), q.data(a, c, (10, 10, 10, 30, 0)))
    close(run.state.server.params.trainable["w"], (-0.127869427083, 0.395256666667))
    run = play.play(
        TASK,
        reduced_by(algorithms.fedavg(TASK, solve), uniform(mean)),
        q.data(a[[0, 1, 3, 4]], c[[0, 1, 3, 4]], (10, 20, 30, 0)),
    )
    close(run.state.server.params.trainable["w"], (0.0057559375, 0.354506666667))


SERVERS: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_lr": 0.6, "momentum": 0.7},
    "fedadagrad": {"server_lr": 0.2, "eps": 1e-3},
    "fedadam": {"server_lr": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-2},
    "fedyogi": {"server_lr": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-2},
}


def adaptive(name: str, w: np.ndarray, rounds: int, **hyper: float) -> np.ndarray:
    """Server optimizers on the mean upload, as optax has them.

    Adam and Yogi correct m and v for their start, Yogi's are 1e-6 then; Adagrad's eps is under the root.
    """
    beta1, beta2 = hyper.get("beta1", 0), hyper.get("beta2", 0)
    m = v = np.full(2, 1e-6 if name == "fedyogi" else 0.0)
    for t in range(1, rounds + 1):
        d = w - q.shares(q.N) @ q.descended(w, q.A, q.C, q.LR, q.STEPS)
        if name == "fedavgm":
            m = hyper["momentum"] * m + d
            w = w - hyper["server_lr"] * m
            continue
        m = beta1 * m + (1 - beta1) * d
        if name == "fedadagrad":
            v = v + d**2
            w = w - hyper["server_lr"] * d / np.sqrt(v + hyper["eps"])
            continue
        v = beta2 * v + (1 - beta2) * d**2 if name == "fedadam" else v - (1 - beta2) * np.sign(v - d**2) * d**2
        w = w - hyper["server_lr"] * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + hyper["eps"])
    return w


def to_the_letter(name: str, w: np.ndarray, rounds: int, **hyper: float) -> np.ndarray:
    """Algorithm 2 of Reddi et al.: equal weights, v from tau^2 on, no correction, tau outside the root."""
    beta1, beta2, tau = hyper.get("beta1", 0), hyper.get("beta2", 0), hyper["eps"]
    m, v = np.zeros(2), np.full(2, tau**2)
    for _ in range(rounds):
        d = np.mean(q.descended(w, q.A, q.C, q.LR, q.STEPS), axis=0) - w
        m = beta1 * m + (1 - beta1) * d
        if name == "fedadagrad":
            v = v + d**2
        elif name == "fedadam":
            v = beta2 * v + (1 - beta2) * d**2
        else:
            v = v - (1 - beta2) * d**2 * np.sign(v - d**2)
        w = w + hyper["server_lr"] * m / (np.sqrt(v) + tau)
    return w


@pytest.mark.parametrize("name", SERVERS)
def test_server_optimizers(name):
    factory, hyper = getattr(algorithms, name), SERVERS[name]
    run = play.play(TASK, lambda **hyper: factory(TASK, solver(), **hyper), q.data(), 3, **hyper)
    close(run.state.server.params.trainable["w"], adaptive(name, np.zeros(2), 3, **hyper))


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
def test_server_optimizers_to_the_letter(name):
    factory, hyper = getattr(algorithms, name), SERVERS[name]

    def build(**hyper):
        return reduced_by(factory(TASK, solver(), form="paper", **hyper), uniform(mean))

    run = play.play(TASK, build, q.data(), 3, **hyper)
    close(run.state.server.params.trainable["w"], to_the_letter(name, np.zeros(2), 3, **hyper))
    with pytest.raises(ValueError, match="form='adam': choose 'optax', 'paper'"):
        factory(TASK, solver(), form="adam")


@pytest.mark.slow
def test_momentum_of_the_server_may_weigh_clients_equally():
    run = play.play(TASK, reduced_by(algorithms.fedavgm(TASK, solver()), uniform(mean)), q.data())
    close(run.state.server.params.trainable["w"], (0.0057559375, 0.354506666667))


@pytest.mark.parametrize("seed", range(2))
def test_local_training_follows_its_closed_form(seed):
    matrices, centers, sizes = q.random(seed)
    task, w0 = q.task(np.ones(3)), np.ones(3)
    run = play.play(task, algorithms.local_only(task, solver()), q.data(matrices, centers, sizes), 4)
    expected = q.descended(w0, matrices, centers, q.LR, 4 * q.STEPS)
    close(run.state.clients.trainable["w"], expected)
    np.testing.assert_array_equal(run.personalized().trainable["w"], run.state.clients.trainable["w"])


@pytest.mark.parametrize(("steps", "lr"), [(4, 0.3), (1, 0.0), (300, 0.3)], ids=["4 steps", "none", "all the way"])
def test_fine_tuning_follows_its_closed_form(steps, lr):
    build = algorithms.fedavg_finetuned(TASK, solver(), solver(steps, lr))
    run = play.play(TASK, build, q.data(), 2)
    w = run.state.server.params.trainable["w"]
    expected = q.descended(w, q.A, q.C, lr, steps)
    close(run.personalized().trainable["w"], expected)


def test_fine_tuning_the_head_leaves_the_body():
    task, plan = network.task(), plans.full_batch(7, 14)
    solve = local.descent(optax.sgd(network.LR, momentum=0.9), network.plan())
    tune = local.descent(optax.sgd(network.LR), plan)
    build = algorithms.fedavg_finetuned(task, solve, tune, tuned=masks.named(*network.HEAD))
    run = network.train(build)
    w = run.state.server.params.trainable
    f = network.federation()
    for i, tuned in enumerate(play.rows(run.personalized().trainable, 5)):
        expected = reference.descend(w, f.gradient, [f.everything[i]] * 7, network.LR, trained=network.HEAD)
        play.assert_trees_close(tuned, expected)
        np.testing.assert_array_equal(tuned["W1"], w["W1"])


def shuffled() -> Plan:
    return plans.epochs(2, 4)


@pytest.mark.parametrize(
    ("hidden", "by_n", "plan"),
    [(True, True, shuffled), (True, False, network.plan), (False, True, network.plan)],
    ids=["network", "uniform", "softmax"],
)
def test_fedavg_against_loops(hidden, by_n, plan):
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(network.LR, momentum=0.5))
    solve = local.descent(optimizer, plan())
    build = reduced_by(algorithms.fedavg(network.task(hidden), solve), mean if by_n else uniform(mean))
    run = network.train(build, hidden=hidden)
    f, start = network.federation(plans=(plan,)), run.start.server.params.trainable
    expected = reference.fedavg(f, start, lr=network.LR, by_n=by_n, momentum=0.5, decay=0.01)
    play.assert_trees_close(run.state.server.params.trainable, expected)


@pytest.mark.parametrize("init", ["common", "per_client"])
def test_local_training_against_loops(init):
    solve = local.descent(optax.sgd(network.LR, momentum=0.5), network.plan())
    run = network.train(algorithms.local_only(network.task(), solve, init=init, participation="cohort"))
    start = play.rows(run.start.clients.trainable, 5)
    assert np.array_equal(start[0]["W1"], start[1]["W1"]) == (init == "common")
    expected = reference.local_only(network.federation(), start, lr=network.LR, momentum=0.5)
    for i, own in enumerate(play.rows(run.state.clients.trainable, 5)):
        play.assert_trees_close(own, expected[i])
