"""FedRoD."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms
from pfljax.data import FederatedData, from_clients
from pfljax.learning import local, tasks
from pfljax.types import Algorithm
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
X = np.random.default_rng(3).normal(size=(6, network.INPUTS))
LR = network.LR


def solver(personal_lr: float = LR) -> local.LocalSolver:
    optimizers: dict[Any, Any] = {"generic": optax.sgd(LR), "personal": optax.sgd(personal_lr)}
    return local.descent(optax.partition(optimizers, {name: name for name in optimizers}), network.plan())


def plain() -> local.LocalSolver:
    return local.descent(optax.sgd(LR), network.plan())


def predict_of(algorithm: Algorithm) -> Callable[..., Any]:
    assert algorithm.predict is not None
    return algorithm.predict


def played(algorithm: Any, data: FederatedData | None = None) -> play.Played:
    given = network.data() if data is None else data
    return play.play(TASK, algorithm, given, network.ROUNDS, cohort=network.COHORT)


def row(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def shared(run: play.Played) -> Any:
    return run.state.server.params.trainable


def logits(w: Any, x: np.ndarray, own: Any = None) -> np.ndarray:
    """Of one head, or of two."""
    z = np.tanh(x @ w["W1"] + w["b1"])
    return z @ w["W2"] + w["b2"] + (0 if own is None else z @ own["W2"] + own["b2"])


@pytest.mark.parametrize(("personal_lr", "gamma"), [(0.3, 1.0), (0.1, 0.5)])
def test_fedrod_against_loops(personal_lr, gamma):
    """Every client lacks a class, which the balanced softmax leaves out."""
    algorithm: Any = algorithms.fedrod(TASK, solver(personal_lr), MODEL, gamma=gamma)
    run, f = played(algorithm), network.federation()
    start = network.flat(run.start.server.params.trainable)
    head = {name: start[name] for name in network.HEAD}
    w, own = reference.fedrod(f, start, [head] * 5, lr=LR, personal_lr=personal_lr, gamma=gamma)
    play.assert_trees_close(network.flat(shared(run)), w)
    deployed = run.personalized()
    for i in range(5):
        play.assert_trees_close(network.flat(row(run.state.clients.trainable, i)), own[i])
        close(predict_of(algorithm)(row(deployed, i), X), logits(w, X, own[i]))


def test_fedrod_with_a_network_of_heads_against_loops():
    algorithm: Any = algorithms.fedrod_hyper(TASK, plain(), MODEL, hidden=5)
    run, f = played(algorithm), network.federation()
    start = run.start.server.params.trainable
    w, g = reference.fedrod_hyper(f, network.flat(start["generic"]), start["personal"], lr=LR)
    assert np.abs(g["U"] - start["personal"]["U"]).max() > 1e-4
    play.assert_trees_close(network.flat(shared(run)["generic"]), w)
    play.assert_trees_close(shared(run)["personal"], g)
    deployed = run.personalized()
    for i in range(5):
        counts = reference.class_counts(f, i, network.CLASSES)
        own, _ = reference.made_head(g, counts / counts.sum(), w)
        close(predict_of(algorithm)(row(deployed, i), X), logits(w, X, own))


def even() -> FederatedData:
    """Each client has as many examples of each class."""
    rng = np.random.default_rng(0)
    sizes = (3, 6, 9, 9, 12)
    return from_clients([(rng.normal(size=(n, network.INPUTS)), np.arange(n) % 3) for n in sizes], num_classes=3)


BALANCED: dict[str, tuple[Callable[[], Any], Callable[[], FederatedData]]] = {
    "gamma=0": (lambda: algorithms.fedrod(TASK, plain(), MODEL, gamma=0.0), network.data),
    "equal counts": (lambda: algorithms.fedrod(TASK, plain(), MODEL), even),
    "hyper, equal counts": (lambda: algorithms.fedrod_hyper(TASK, plain(), MODEL, hidden=3), even),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BALANCED)
def test_balanced_clients_share_the_model_of_fedavg(case):
    make, data = BALANCED[case]
    found = shared(played(make(), data()))
    fedavg = shared(played(algorithms.fedavg(TASK, plain()), data()))
    play.assert_trees_close(network.flat(found.get("generic", found)), network.flat(fedavg))


@pytest.mark.slow
def test_personal_heads_do_not_touch_what_is_shared():
    """Bit for bit, however they move; those that stay at 0 add nothing."""
    still: Any = algorithms.fedrod(TASK, solver(0.0), MODEL, head_init="zeros")
    first, second = played(still), played(algorithms.fedrod(TASK, solver(0.7), MODEL))
    play.assert_bitwise(shared(first), shared(second))
    for i in range(5):
        own = row(first.personalized(), i)
        np.testing.assert_array_equal(predict_of(still)(own, X), TASK.predict(own.generic, X))


@pytest.mark.parametrize("method", [algorithms.fedrod, algorithms.fedrod_hyper])
def test_what_it_needs(method):
    name = method.__name__
    with pytest.raises(ValueError, match=f"{name} puts two heads on features, and the model has none"):
        method(TASK, plain(), MODEL._replace(features=None))
    data, key = network.data(), jax.random.key(0)
    several = dataclasses.replace(data, examples=data.examples._replace(y=np.zeros((len(data.examples.y), 2), int)))
    made = method(TASK, plain(), MODEL)
    with pytest.raises(ValueError, match=rf"{name} needs one class for each example, and labels are int64\[\., 2\]"):
        jax.eval_shape(lambda: played_once(made, several, key))


def played_once(algorithm: Any, data: FederatedData, key: jax.Array) -> Any:
    """A client's half of a round."""
    download = algorithm.download(algorithm.init_server(key, 5), jax.numpy.asarray(0))
    client = algorithm.init_client(download, jax.numpy.asarray(0), key)
    return algorithm.client_update(download, client, data.client(0), key)
