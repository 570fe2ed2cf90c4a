"""FedDF."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, tree
from pfljax.data import FederatedData, from_clients
from pfljax.engine.simulation import Simulation
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local
from pfljax.types import Cohort, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

PUBLIC = np.random.default_rng(5).normal(size=(7, network.INPUTS))
KEY = jax.random.key(0)


def shown() -> FederatedData:
    return network.data().with_public(PUBLIC)


def method(hidden: bool = True, **options: Any) -> Any:
    solve = local.descent(optax.sgd(network.LR), network.plan())
    options = {"distil_batch_size": 7, **options}
    return algorithms.feddf(network.task(hidden), solve, **options)


def played(algorithm: Any) -> play.Played:
    return play.play(network.task(), algorithm, shown(), network.ROUNDS, cohort=network.COHORT)


def server(run: play.Played) -> Any:
    return run.state.server.params.trainable


@pytest.mark.parametrize("by_n", [True, False])
def test_feddf_against_loops(by_n):
    """Unequal clients, three of five in a round; each step is on all public examples."""
    numbers = {"distil_steps": 4, "distil_lr": 0.05}
    run = played(reduced_by(method(**numbers), mean if by_n else uniform(mean)))
    start = run.start.server.params.trainable
    w = reference.feddf(network.federation(), start, PUBLIC, lr=network.LR, by_n=by_n, **numbers)
    play.assert_trees_close(server(run), w, 1e-10)


@pytest.mark.slow
def test_without_steps_it_is_fedavg():
    fedavg = algorithms.fedavg(network.task(), local.descent(optax.sgd(network.LR), network.plan()))
    play.assert_trees_close(server(played(method(distil_steps=0))), server(played(fedavg)), 1e-15)


def distilled(moves: list[float], weights: list[float], hidden: bool, **options: Any) -> tuple[Params, Params]:
    """The average of teachers that lie at `moves` along a line, and the student of one step after it."""
    algorithm, away = method(hidden, **options), network.task(hidden).init(jax.random.key(9))
    uploads = jax.vmap(lambda move: tree.scale(move, away))(jnp.asarray(moves))
    begun = algorithm.init_server(KEY, len(moves))

    @jax.jit
    def step(weights: jax.Array, data: FederatedData) -> Params:
        reduced = algorithm.reduce.lower(uploads, weights)
        cohort = Cohort(jnp.arange(len(moves)), reduced, weights, data.everybodys())
        return algorithm.server_update(begun, cohort, KEY).params

    heard = np.asarray(weights)
    average = tree.axpy(-float(np.sum(heard * moves) / heard.sum()), away, begun.params)
    return average, step(jnp.asarray(weights), shown())


def distance(a: Params, b: Params) -> float:
    return float(np.sqrt(tree.squared_norm(tree.sub(a.trainable, b.trainable))))


def test_equal_teachers_leave_their_student():
    """KL 0, so Adam's step of 0.1 is none but for rounding, whoever is not heard."""
    average, student = distilled([0.5, 0.5, 0.0], [3.0, 1.0, 0.0], hidden=True, distil_steps=1, distil_lr=0.1)
    assert distance(average, student) < 1e-6


def test_of_linear_models_the_uniform_average_is_the_ensemble():
    """The mean of the teachers' logits is that of the averaged model, so nothing is left to learn; by size it is."""
    options = {"hidden": False, "distil_steps": 1, "distil_lr": 0.1}
    average, student = distilled([0.5, -0.2, 0.9], [1.0, 1.0, 1.0], **options)
    assert distance(average, student) < 1e-6
    average, student = distilled([0.5, -0.2, 0.9], [1.0, 7.0, 2.0], **options)
    assert distance(average, student) > 0.1
    average, student = distilled([0.5, -0.2, 0.9], [1.0, 1.0, 1.0], **options | {"hidden": True})
    assert distance(average, student) > 0.1


def test_the_student_learns_the_ensemble():
    """Many steps on a few examples of a linear model: the divergence goes to 0, whose only zero is the ensemble."""
    moves, weights = [2.0, -1.0, 0.0], [1.0, 8.0, 3.0]
    _, student = distilled(moves, weights, hidden=False, distil_steps=2000, distil_lr=0.05)
    task = network.task(hidden=False)
    middle = tree.axpy(-float(np.mean(moves)), task.init(jax.random.key(9)), task.init(KEY))
    said, meant = (jax.nn.softmax(task.predict(w, PUBLIC)) for w in (student, middle))
    reference.close(said, meant, 1e-5)


def test_public_examples_and_classes_are_needed():
    def begin(data: FederatedData) -> None:
        run = Simulation(network.task(), method(), data)
        run.run(run.init(KEY), KEY, 1)

    with pytest.raises(ValueError, match=r"feddf distils .* there are none: give them with data\.with_public\(x\)"):
        begin(network.data())
    real = from_clients([(np.ones((3, network.INPUTS)), np.ones((3, network.CLASSES)))]).with_public(PUBLIC)
    with pytest.raises(ValueError, match="feddf needs one class for each example, and labels are float"):
        jax.eval_shape(
            lambda data: method().server_update(
                method().init_server(KEY, 1), Cohort(jnp.arange(1), ((), ()), jnp.ones(1), data.everybodys()), KEY
            ),
            real,
        )
