"""FedEM."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.fedem import Mixture
from pfljax.data import from_clients
from pfljax.learning import local, plans, tasks
from pfljax.types import Model, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
X = np.random.default_rng(3).normal(size=(6, network.INPUTS))
KEY = jax.random.key(0)


def solver(lr: float = network.LR) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), network.plan())


def method(components: int = 3, capacity: int = max(network.SIZES), **options: Any) -> Any:
    return algorithms.fedem(TASK, solver(), MODEL, capacity, components=components, **options)


def played(algorithm: Any, rounds: int = network.ROUNDS, cohort: int | None = network.COHORT) -> play.Played:
    return play.play(TASK, algorithm, network.data(), rounds, cohort=cohort)


def row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def each(models: Any) -> list[Any]:
    """The models one by one, for the loops."""
    return [network.flat(row(models.trainable, m)) for m in range(len(jax.tree.leaves(models)[0]))]


def test_fedem_against_loops():
    """Three of five unequal clients in a round; a client that was not drawn keeps its weights."""
    algorithm = method()
    run, f = played(algorithm), network.federation()
    models, pi = reference.fedem(f, each(run.start.server.params), [np.full(3, 1 / 3)] * 5, lr=network.LR)
    for mine, expected in zip(each(run.state.server.params), models, strict=True):
        play.assert_trees_close(mine, expected)
    close(run.state.clients, pi)
    deployed = run.personalized()
    for i in range(5):
        shares = np.stack([np.asarray(jax.nn.softmax(reference.logits(w, X))) for w in models])
        close(np.exp(algorithm.predict(row(deployed, i), X)), np.tensordot(pi[i], shares, 1))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_one_model_is_fedavg_bit_for_bit():
    run, fedavg = played(method(components=1)), played(algorithms.fedavg(TASK, solver()))
    play.assert_bitwise(row(run.state.server.params, 0), fedavg.state.server.params)
    np.testing.assert_array_equal(run.state.clients, 1)
    said = method(components=1).predict(Mixture(run.state.server.params, jnp.ones(1)), X)
    close(said, jax.nn.log_softmax(TASK.predict(fedavg.state.server.params, X)))


# Logits that are the rows of a table, the input saying which.
TABLE = Model(
    lambda key: Params({"rows": jax.random.normal(key, (2, 2))}),
    None,
    lambda params, x, **_: (params.trainable["rows"][x[:, 0].astype(int)], {}),
)


def test_published_numbers():
    """Losses of three models on two examples of class 0: logits (0, log(e^l - 1)) have the loss l there."""
    losses = np.array([[0.1, 1.0, 2.0], [1.5, 0.2, 0.9]])
    q = [[0.767006895553, 0.187105039526, 0.045888064921], [0.254425378302, 0.560137315657, 0.18543730604]]
    close(reference.responsibilities(losses, np.array([0.5, 0.3, 0.2])), q)
    tables = np.stack([np.zeros((3, 2)), np.log(np.expm1(losses.T))], axis=-1)
    data = from_clients([(np.array([[0.0], [1.0]]), [0, 0])], num_classes=2)
    solve = local.descent(optax.sgd(0.0), plans.full_batch(1, 2))
    algorithm = algorithms.fedem(tasks.classification(TABLE), solve, TABLE, 2)
    models, pi = Params({"rows": jnp.asarray(tables)}), jnp.array([0.5, 0.3, 0.2])
    expected = (0.510716136928, 0.373621177592, 0.115662685481)
    close(algorithm.onboard(models, pi, data.client(0), KEY), expected)
    close(algorithm.client_update(models, pi, data.client(0), KEY).client, expected)


@pytest.mark.slow
def test_models_start_apart_and_equal_ones_stay_equal():
    run = played(method(), rounds=1)
    first, second, third = each(run.start.server.params)
    assert np.abs(first["W1"] - second["W1"]).max() > 0.1
    assert np.abs(second["W1"] - third["W1"]).max() > 0.1

    def begin(state: Any) -> Any:
        same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), state.server)
        return state._replace(server=same)

    run = play.play(TASK, method(), network.data(), 2, begin=begin)
    first, second, _ = each(run.state.server.params)
    play.assert_trees_close(first, second, 1e-15)
    close(run.state.clients, np.full((5, 3), 1 / 3))


def opposite(clients: int = 4, n: int = 24) -> list[tuple[np.ndarray, np.ndarray]]:
    """Clients of which every other one labels the other way round."""
    draw = np.random.default_rng(0)
    inputs = [draw.normal(size=(n, network.INPUTS)) for _ in range(clients)]
    return [(x, (x[:, 0] > 0).astype(int) ^ (i % 2)) for i, x in enumerate(inputs)]


def test_two_kinds_of_clients_find_their_models_and_a_newcomer_its_kind():
    """The likelihood of the mixture only grows, and weights become 0 and 1; the last client never trains."""
    held, rounds = opposite(5), 40
    data = from_clients(held, held, unseen=1, num_classes=network.CLASSES)
    solve = local.descent(optax.sgd(0.5), plans.full_batch(4, 24))
    algorithm = algorithms.fedem(TASK, solve, MODEL, 24, components=2)
    run = play.play(TASK, algorithm, data, rounds)
    pi = run.state.clients
    close(pi[:, 0], pi[0, 0] + (pi[1, 0] - pi[0, 0]) * np.array([0, 1, 0, 1]), 0.02)
    assert abs(pi[0, 0] - pi[1, 0]) > 0.97
    scores = run.simulation.evaluate(run.state, KEY)
    assert scores["personal", "test", "accuracy"].min() > 0.95
    assert scores["unseen_personal", "test", "accuracy"].min() > 0.95
    close(np.asarray(run.simulation.model(run.state, KEY, 4).pi), pi[0], 0.02)


def test_the_likelihood_of_the_mixtures_grows():
    """With one small step on all examples, which an EM step cannot make worse."""
    data = from_clients(opposite(), opposite(), num_classes=network.CLASSES)
    solve = local.descent(optax.sgd(0.1), plans.full_batch(1, 24))
    algorithm = algorithms.fedem(TASK, solve, MODEL, 24, components=2)
    run = play.play(TASK, algorithm, data, 1)
    state, losses = jax.device_put(run.start), []
    for _ in range(10):
        losses.append(run.simulation.evaluate(state, KEY)["personal", "test", "loss"].mean())
        state, _ = run.simulation.run(state, KEY, 1)
    assert (np.diff(losses) < 0).all()


def test_a_newcomer_without_examples_keeps_its_weights_and_little_room_is_not_silent():
    data = from_clients([(np.zeros((0, 3)), []), (np.ones((5, 3)), [0, 1, 2, 0, 1])], num_classes=3)
    models = method().init_server(KEY, 2).params
    start = jnp.array([0.2, 0.3, 0.5])
    close(method().onboard(models, start, data.client(0), KEY), start)
    run = played(method(capacity=4), rounds=1, cohort=None)
    assert np.isnan(jax.tree.leaves(run.state.server.params)[0]).all()


def test_what_it_needs():
    with pytest.raises(ValueError, match=r"components=0: it must be .* at least 1"):
        method(components=0)
    real = from_clients([(np.ones((3, 3)), np.ones(3))])
    with pytest.raises(ValueError, match="fedem needs one class for each example, and labels are float"):
        jax.eval_shape(lambda: method().onboard(method().init_server(KEY, 1).params, jnp.ones(3), real.client(0), KEY))
