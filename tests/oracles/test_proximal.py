"""FedProx, SCAFFOLD, Ditto, pFedMe."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

TASK, ZERO = q.task(), np.zeros(2)
FULL = plans.full_batch(q.STEPS, 60)
OPTIMUM = (-0.346303501946, 0.859922178988)  # of the loss with weights n_i / n


def solver(steps: int = q.STEPS, lr: float = q.LR) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plans.full_batch(steps, 60))


def weights(run: play.Played) -> np.ndarray:
    return run.state.server.params.trainable["w"]


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [(1, (-0.105149427083, 0.324152916667)), (120, (-0.351752882031, 0.945276363578))],
    ids=["first round", "fixed point"],
)
def test_fedprox(rounds, expected):
    run = play.play(TASK, lambda mu: algorithms.fedprox(TASK, solver(), mu=mu), q.data(), rounds, mu=1.0)
    close(weights(run), expected)


@pytest.mark.parametrize("mu", [0.3, 4.0])
def test_fedprox_fixed_point_on_random_quadratics(mu):
    matrices, centers, sizes = q.random(3)
    task, eye = q.task(np.zeros(3)), np.eye(3)
    build = algorithms.fedprox(task, solver(3), mu=mu)
    run = play.play(task, build, q.data(matrices, centers, sizes), 400)
    pulled = matrices + mu * eye
    contraction = eye - np.stack([np.linalg.matrix_power(eye - q.LR * a, 3) for a in pulled])
    close(weights(run), q.weighted(q.shares(sizes), contraction @ np.linalg.inv(pulled) @ matrices, centers))


CONTROLS = [(-1.070422535211, 1.267605633803), (-0.140845070423, -1.366197183099), (1.211267605634, 0.098591549296)]


@pytest.mark.parametrize(
    ("rounds", "option", "expected"),
    [
        (1, "II", (0.0057559375, 0.354506666667)),
        (2, "II", (-0.021894504115, 0.507088656669)),
        (400, "II", (-0.070422535211, 0.633802816901)),
        (400, "I", (-0.070422535211, 0.633802816901)),
    ],
)
def test_scaffold(rounds, option, expected):
    run = play.play(TASK, algorithms.scaffold(TASK, FULL, lr=q.LR, option=option), q.data(), rounds)
    close(run.state.server.model.params.trainable["w"], expected)
    controls = run.state.clients["w"]
    close(run.state.server.control["w"], controls.mean(0))
    if rounds == 400:
        close(controls, CONTROLS)
        close(run.personalized().trainable["w"], [expected] * 3)


def test_scaffold_option_1_keeps_the_gradient_at_the_received_model():
    run = play.play(TASK, algorithms.scaffold(TASK, FULL, lr=q.LR, option="I"), q.data())
    close(run.state.clients["w"], [-a @ c for a, c in zip(q.A, q.C, strict=True)])


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_against_loops(option):
    """Clients that differ in their number of steps, three of five in a round."""
    build = algorithms.scaffold(network.task(), network.plan(), lr=network.LR, option=option, server_lr=0.8)
    run = network.train(build)
    start = run.start.server.model.params.trainable
    x, c, own = reference.scaffold(network.federation(), start, lr=network.LR, server_lr=0.8, option=option)
    play.assert_trees_close(run.state.server.model.params.trainable, x)
    play.assert_trees_close(run.state.server.control, c)
    for i, row in enumerate(play.rows(run.state.clients, 5)):
        play.assert_trees_close(row, own[i])


def test_ditto_around_the_optimum():
    run = play.play(TASK, algorithms.ditto(TASK, solver(1, 0.3), solver(10), lam=1.0), q.data(), 120)
    close(weights(run), OPTIMUM)
    expected = [(0.326848249027, 0.286640726329), (-0.115434500649, 1.429961089494), (-0.71001433545, 0.857464673357)]
    close(run.personalized().trainable["w"], expected)


def test_ditto_first_round():
    run = play.play(TASK, algorithms.ditto(TASK, solver(), solver(), lam=1.0), q.data())
    close(run.state.clients.trainable["w"], [(0.33616, 0), (0, 0.67232), (-0.3223521875, 0.2000925)])
    close(weights(run), (-0.127869427083, 0.395256666667))


@pytest.mark.parametrize("lam", [0.0, 0.7, 12.0])
def test_ditto_with_implicit_steps_on_random_quadratics(lam):
    matrices, centers, sizes = q.random(4)
    task = q.task(np.ones(3))
    personal = local.proximal_descent(q.LR, plans.full_batch(3, 60))
    build = algorithms.ditto(task, solver(), personal, lam=lam, server=fedopt(optax.sgd(0.0)))
    run = play.play(task, build, q.data(matrices, centers, sizes), 400)
    close(run.state.clients.trainable["w"], q.prox(np.ones(3), matrices, centers, lam))


def test_ditto_against_loops():
    personal = local.descent(optax.sgd(0.1), network.plan())
    build = algorithms.ditto(network.task(), local.descent(optax.sgd(network.LR), network.plan()), personal, lam=0.6)
    run = network.train(build)
    v = play.rows(run.start.clients.trainable, 5)
    start = run.start.server.params.trainable
    w, v = reference.ditto(network.federation(), start, v, lr=network.LR, personal_lr=0.1, lam=0.6)
    play.assert_trees_close(run.state.server.params.trainable, w)
    for i, row in enumerate(play.rows(run.state.clients.trainable, 5)):
        play.assert_trees_close(row, v[i])


def test_the_best_lambda_of_ditto_is_noise_over_signal():
    """`lambda* = sigma^2 / (n tau^2)`: orthogonal signs make the sample moments of truths and noise exact."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    variance, tau = 0.125, 0.5  # sigma^2 / n, and tau
    truth = tau * signs[:, :1]
    ols = truth + np.sqrt(variance) * signs[:, 1:]
    data = q.data(np.ones((4, 1, 1)), ols, (8,) * 4)
    task = q.task((0.0,))

    def build(lam):
        personal = local.descent(optax.sgd(1 / (1 + lam)), plans.full_batch(1, 8))
        return algorithms.ditto(task, solver(1, 0.0), personal, lam=lam)

    lams = np.geomspace(0.05, 5, 9)
    assert lams[4] == pytest.approx(variance / tau**2)
    simulation = play.play(task, build, data, lam=1.0).simulation
    key, errors = jax.random.key(0), []
    for lam in lams:
        state, _ = simulation.run(simulation.init(key, lam=lam), key, 1, lam=lam)
        v = np.asarray(simulation.personalized(state, key, lam=lam).trainable["w"])
        close(v, ols / (1 + lam))
        errors.append(np.mean((v - truth) ** 2))
    close(errors, (variance + lams**2 * tau**2) / (1 + lams) ** 2)
    assert np.argmin(errors) == 4
    close(errors[4], variance * tau**2 / (variance + tau**2))


PFEDME = {"reset": (-0.128077721348, 0.08028842232), "warm": (-0.131428956747, 0.083939991664)}
PFEDME_FIRST = {"reset": 0.133551787776, "warm": 0.137316740352}


@pytest.mark.parametrize("start", ["reset", "warm"])
def test_pfedme_first_round(start):
    run = play.play(
        TASK,
        algorithms.pfedme(
            TASK, plans.full_batch(2, 60), lr=0.1, inner_lr=0.1, lam=3.0, inner_steps=5, start=start, deploy="local"
        ),
        q.data(),
    )
    first = PFEDME_FIRST[start]
    expected = [(first, 0), (0, 2 * first), PFEDME[start]]
    close(run.personalized().trainable["w"], expected)
    close(weights(run), np.mean(expected, axis=0))


@pytest.mark.parametrize("start", ["reset", "warm"])
def test_pfedme_with_solved_envelopes(start):
    """theta is the exact proximal point, the server model the optimum of the mean Moreau envelope."""
    build = algorithms.pfedme(TASK, plans.full_batch(1, 60), lr=0.3, inner_lr=0.2, lam=3.0, inner_steps=30, start=start)
    first = play.play(TASK, build, q.data())
    close(first.personalized().trainable["w"], [(0.25, 0), (0, 0.5), (-0.239436619718, 0.154929577465)])
    gradients = np.array([(-0.75, 0), (0, -1.5), (0.718309859155, -0.464788732394)])
    close(weights(first), -0.3 * gradients.mean(0))
    last = play.play(TASK, build, q.data(), 200)
    optimum = np.array((-0.053485798598, 0.741423828845))
    close(weights(last), optimum)
    close(last.personalized().trainable["w"], q.prox(optimum, q.A, q.C, 3.0))


def test_pfedme_on_one_number():
    """Two inner steps from 2 towards 5 with the pull to 2: 2.3, 2.48; the outer step follows to 2.144."""
    task, data = q.task((2.0,)), q.data(np.ones((1, 1, 1)), np.array([[5.0]]), (1,))
    build = algorithms.pfedme(task, plans.full_batch(1, 1), lr=0.1, inner_lr=0.1, lam=3.0, inner_steps=2)
    run = play.play(task, build, data)
    close(run.personalized().trainable["w"], [[2.48]])
    close(weights(run), [2.144])


@pytest.mark.parametrize("start", ["reset", "warm"])
def test_pfedme_against_loops(start):
    hyper = {"lr": 0.1, "inner_lr": 0.2, "lam": 2.0, "beta": 1.5, "inner_steps": 3, "start": start}
    run = network.train(algorithms.pfedme(network.task(), network.plan(), **hyper))
    w = run.start.server.params.trainable
    w, theta, _ = reference.pfedme(network.federation(), w, play.rows(run.start.clients.trainable, 5), **hyper)
    play.assert_trees_close(run.state.server.params.trainable, w)
    for i, row in enumerate(play.rows(run.personalized().trainable, 5)):
        play.assert_trees_close(row, theta[i])


def test_fedprox_against_loops():
    solve = local.descent(optax.sgd(network.LR, momentum=0.5), network.plan())
    run = network.train(reduced_by(algorithms.fedprox(network.task(), solve, mu=0.8), uniform(mean)))
    start = run.start.server.params.trainable
    expected = reference.fedavg(network.federation(), start, lr=network.LR, mu=0.8, by_n=False, momentum=0.5)
    play.assert_trees_close(run.state.server.params.trainable, expected)
