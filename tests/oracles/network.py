"""A small classifier and five clients of unequal size, in JAX; `numpy_reference` has the same by hand."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax.data import FederatedData, from_clients
from pfljax.engine.site import Build
from pfljax.learning import plans
from pfljax.learning.metrics import mean
from pfljax.types import Array, Batch, ClientData, Model, Params, Plan, Task, Tree
from tests.oracles import numpy_reference as reference
from tests.oracles.play import Played, cohorts, federate, play

SIZES = (3, 5, 8, 9, 14)
INPUTS, HIDDEN, CLASSES = 3, 4, 3
BODY, HEAD = ("W1", "b1"), ("W2", "b2")
PARTS = {"body": BODY, "head": HEAD}
LR, COHORT, ROUNDS = 0.2, 3, 3


def task(hidden: bool = True) -> Task:
    """Cross-entropy of `tanh(x W1 + b1) W2 + b2`, or without the hidden layer of `x W2 + b2`."""

    def init(key: Array) -> Params:
        width = HIDDEN if hidden else INPUTS
        shapes = {"W1": (INPUTS, HIDDEN), "b1": (HIDDEN,)} if hidden else {}
        shapes |= {"W2": (width, CLASSES), "b2": (CLASSES,)}
        sizes = [math.prod(shape) for shape in shapes.values()]
        drawn = jnp.split(jax.random.uniform(key, (sum(sizes),), float, -1, 1), np.cumsum(sizes)[:-1])
        return Params({name: part.reshape(shapes[name]) for name, part in zip(shapes, drawn, strict=True)})

    def predict(params: Params, x: Tree) -> Array:
        p = params.trainable
        features = jnp.tanh(x @ p["W1"] + p["b1"][None]) if hidden else x
        return features @ p["W2"] + p["b2"][None]

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        del key
        log_p = jax.nn.log_softmax(predict(params, batch.x))
        losses = -jnp.take_along_axis(log_p, batch.y[:, None], 1)[:, 0]
        return jnp.sum(losses * batch.mask) / jnp.maximum(jnp.sum(batch.mask), 1), params.stats

    right = mean("accuracy", lambda outputs, y: jnp.asarray(outputs.argmax(-1).astype(y.dtype) == y, float))
    return Task(init, loss, predict, (right,))


def model() -> Model:
    """The same network as a head on its hidden layer; the leaves lie below `body` and `head`."""

    def init(key: Array) -> Params:
        leaves = task().init(key).trainable
        return Params({part: {name: leaves[name] for name in names} for part, names in PARTS.items()})

    def features(params: Params, x: Tree, **_: Any) -> tuple[Array, Tree]:
        body = params.trainable["body"]
        return jnp.tanh(x @ body["W1"] + body["b1"][None]), params.stats

    def head(params: Params, z: Array, **_: Any) -> tuple[Array, Tree]:
        top = params.trainable["head"]
        return z @ top["W2"] + top["b2"][None], params.stats

    return Model(init, features, head, tuple(PARTS), features_shape=(HIDDEN,))


def flat(trainable: Tree) -> Tree:
    """The leaves of `model` as those of `task`."""
    return {name: leaf for part in trainable.values() for name, leaf in part.items() if leaf is not None}


def data(seed: int = 0) -> FederatedData:
    """Inputs shifted and labels skewed from client to client."""
    generator = np.random.default_rng(seed)
    clients = []
    for i, n in enumerate(SIZES):
        x = generator.normal(size=(n, INPUTS)) + i / 4
        clients.append((x, (generator.integers(0, 2, n) + i) % CLASSES))
    return from_clients(clients, num_classes=CLASSES)


def plan(batch_size: int = 4) -> Plan:
    """Two passes in minibatches, the last one of a pass short.

    The order is a random rotation, which compiles more quickly than the permutation of `local.epochs`.
    """

    def per_epoch(client: ClientData) -> Array:
        return -(-client.size // batch_size)

    def batch(client: ClientData, key: Array, step: Array) -> Batch:
        turn = jax.random.randint(
            jax.random.fold_in(key, step // per_epoch(client)), (), 0, client.size, client.size.dtype
        )
        places = step % per_epoch(client) * batch_size + jnp.arange(batch_size, dtype=step.dtype)
        return plans.gather(client, jnp.where(places < client.size, (places + turn) % client.size, places))

    return Plan(lambda client: 2 * per_epoch(client), batch)


def train(
    build: Build, *, rounds: int = ROUNDS, cohort: int | None = COHORT, hidden: bool = True, **hyper: Any
) -> Played:
    """A run on the five clients."""
    return play(task(hidden), build, data(), rounds, cohort=cohort, **hyper)


@functools.cache
def federation(
    rounds: int = ROUNDS, cohort: int | None = COHORT, plans: tuple[Callable[[], Plan], ...] = (plan,)
) -> reference.Federation:
    """The same clients and batches for the loops; a plan for each phase."""
    who = cohorts(data(), rounds, cohort)
    return federate(data(), [make() for make in plans], reference.network_gradient, reference.network_loss, who)
