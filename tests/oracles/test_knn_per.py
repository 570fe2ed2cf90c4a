"""kNN-Per."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.algorithms.knn_per import Neighbours
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


def method(capacity: int = max(network.SIZES), **options: Any) -> Any:
    return algorithms.knn_per(TASK, local.descent(optax.sgd(network.LR), network.plan()), MODEL, capacity, **options)


def played(algorithm: Any, rounds: int = network.ROUNDS, cohort: int | None = network.COHORT) -> play.Played:
    return play.play(TASK, algorithm, network.data(), rounds, cohort=cohort)


def row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def probabilities(logits: Any) -> np.ndarray:
    return np.asarray(jax.nn.softmax(logits, axis=-1))


def features(w: Any, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


@pytest.mark.parametrize("capacity", [14, 4])
def test_knn_per_against_loops(capacity):
    """FedAvg, then a vote of the stored examples; with little room a client stores some of them, each once."""
    algorithm = method(capacity, lam=0.7, neighbours=3, scale=0.4)
    run, f = played(algorithm), network.federation()
    w = reference.fedavg(f, network.flat(run.start.server.params.trainable), lr=network.LR)
    deployed = run.personalized()
    for i, (x, y) in enumerate(f.everything):
        own = row(deployed, i)
        play.assert_trees_close(network.flat(own.params.trainable), w)
        counts = own.mask > 0
        keys, values = own.keys[counts], own.values[counts]
        assert len(keys) == min(capacity, len(x))
        apart = np.abs(keys[:, None] - features(w, x)[None]).max(-1)
        places = apart.argmin(1)
        close(apart.min(1), 0)
        assert len(set(places)) == len(places)
        np.testing.assert_array_equal(values, y[places])
        logits = features(w, X) @ w["W2"] + w["b2"]
        near = [reference.nearest_vote(z, keys, values, 3, k=3, scale=0.4) for z in features(w, X)]
        close(probabilities(algorithm.predict(own, X)), 0.7 * np.stack(near) + 0.3 * probabilities(logits))


def test_without_neighbours_it_is_fedavg_bit_for_bit():
    run = played(method(lam=0.0), cohort=None, rounds=1)
    fedavg = algorithms.fedavg(TASK, local.descent(optax.sgd(network.LR), network.plan()))
    w = played(fedavg, cohort=None, rounds=1).state.server.params
    play.assert_bitwise(run.state.server.params, w)
    for i in range(len(network.SIZES)):
        own = row(run.personalized(), i)
        np.testing.assert_array_equal(method().predict(own, X), TASK.predict(w, X))


# Two inputs, which are the features, and logits that are the parameters.
CONSTANT = Model(
    lambda key: Params({"bias": jnp.zeros(2)}),
    lambda params, x, **_: (x, {}),
    lambda params, z, **_: (jnp.broadcast_to(params.trainable["bias"], (len(z), 2)), {}),
    ("bias",),
    features_shape=(2,),
)


def stored(lam: float, keys: Any, values: Any, mask: Any = None, bias: tuple[float, ...] = (0.0, 0.0)) -> Neighbours:
    """Neighbours under `CONSTANT`."""
    params = Params({"bias": jnp.asarray(bias)})
    mask = np.ones(len(values)) if mask is None else np.asarray(mask, float)
    return Neighbours(params, jnp.asarray(keys, float), jnp.asarray(values), jnp.asarray(mask), jnp.asarray(lam))


def constant(capacity: int, **options: Any) -> Any:
    solve = local.descent(optax.sgd(0.1), plans.full_batch(1, 3))
    return algorithms.knn_per(tasks.classification(CONSTANT), solve, CONSTANT, capacity, **options)


def test_published_numbers():
    """Squared distances 0, 2, 4 in two dimensions, a model of (0.3, 0.7)."""
    keys = [[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]]
    for lam, expected in [
        (1.0, (0.665240955775, 0.334759044225)),
        (0.5, (0.482620477887, 0.517379522113)),
        (0.0, (0.3, 0.7)),
    ]:
        own = stored(lam, keys, [0, 1, 1], bias=(np.log(0.3), np.log(0.7)))
        close(probabilities(constant(3).predict(own, np.zeros((1, 2))))[0], expected)


def test_one_neighbour_alone_is_the_nearest():
    rng = np.random.default_rng(0)
    keys, values, x = rng.normal(size=(9, 2)), rng.integers(0, 2, 9), rng.normal(size=(20, 2))
    nearest = values[((x[:, None] - keys[None]) ** 2).sum(-1).argmin(1)]
    logits = constant(9, neighbours=1).predict(stored(1.0, keys, values), x)
    np.testing.assert_array_equal(logits.argmax(1), nearest)
    assert np.isfinite(logits).all()


@pytest.mark.slow
def test_all_neighbours_at_any_distance_are_the_frequencies():
    """What is masked has no vote, however near it is; of few examples all vote."""
    own = stored(1.0, [[5.0, 1.0], [-3.0, 2.0], [9.0, 9.0], [0.0, 0.0]], [1, 1, 0, 0], [1, 1, 1, 0])
    logits = constant(4, neighbours=7, scale=1e12).predict(own, np.zeros((2, 2)))
    close(probabilities(logits), [[1 / 3, 2 / 3]] * 2, 1e-9)


def test_far_neighbours_vote_by_their_differences():
    """No weight becomes 0 / 0."""
    own = stored(1.0, [[1e3, 0.0], [0.0, 1e3 + 1.0]], [0, 1])
    close(probabilities(constant(2).predict(own, np.zeros((1, 2)))), [[1, 0]])


def test_a_client_without_examples_has_the_model():
    clients = [(np.zeros((0, 2)), np.zeros(0, int)), (np.ones((3, 2)), np.array([0, 1, 1]))]
    task, algorithm = tasks.classification(CONSTANT), constant(3, lam=0.9)
    run = play.play(task, algorithm, from_clients(clients, num_classes=2))
    own = run.personalized()
    close(own.lam, [0.0, 0.9])
    np.testing.assert_array_equal(
        algorithm.predict(row(own, 0), X[:, :2]), task.predict(run.state.server.params, X[:, :2])
    )


def test_each_client_chooses_its_weight_on_validation_examples():
    """The model gives (0.7, 0.3), all neighbours vote for 1: beyond `lam = 2/7` the class is 1, 0.3 is the first."""
    held = (np.zeros((3, 2)), np.ones(3, int))
    unsure = [
        (np.zeros((n, 2)), np.array(labels, int)) for n, labels in [(2, [0, 0]), (2, [1, 1]), (0, []), (3, [0, 1, 1])]
    ]
    data = from_clients([held] * 4, validation=unsure, num_classes=2)
    bias = Params({"bias": jnp.log(jnp.asarray([0.7, 0.3]))})

    def begin(state):
        return state._replace(server=state.server._replace(params=bias))

    solve = local.descent(optax.sgd(0.0), plans.full_batch(1, 3))
    algorithm = algorithms.knn_per(tasks.classification(CONSTANT), solve, CONSTANT, 3, lam=None)
    run = play.play(tasks.classification(CONSTANT), algorithm, data, begin=begin)
    close(run.personalized().lam, [0.0, 0.3, 0.5, 0.3], 1e-9)


def test_what_it_needs():
    whole = MODEL._replace(features=None)
    with pytest.raises(ValueError, match="knn_per compares features, and the model has none"):
        algorithms.knn_per(TASK, local.descent(optax.sgd(0.1), network.plan()), whole, 3)
    data = network.data()
    real = dataclasses.replace(data, examples=data.examples._replace(y=np.ones(len(data.examples.y))))
    with pytest.raises(ValueError, match=r"knn_per needs one class for each example, and labels are float"):
        jax.eval_shape(lambda: method().personalize(TASK.init(KEY), (), real.client(0), KEY))
