"""Clients of several kinds: two networks, one server."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.data import FederatedData
from pfljax.federation.kinds import of_kinds
from pfljax.learning import local, tasks
from pfljax.types import Array, Model, Params, Tree
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

KINDS = np.array([0, 1, 0, 1, 1])
BENT = network.model()
LR = network.LR


def straight() -> Model:
    """`(x V + v) W2 + b2`: the head of `network.model` on another body, by other names."""

    def init(key: Array) -> Params:
        first, second = jax.random.split(key)
        top = network.task().init(second).trainable
        drawn = jax.random.uniform(first, (network.INPUTS + 1, network.HIDDEN), float, -1, 1)
        return Params({"stem": {"V": drawn[1:], "v": drawn[0]}, "top": {name: top[name] for name in network.HEAD}})

    def features(params: Params, x: Tree, **_: Any) -> tuple[Array, Tree]:
        stem = params.trainable["stem"]
        return x @ stem["V"] + stem["v"][None], params.stats

    def head(params: Params, z: Array, **_: Any) -> tuple[Array, Tree]:
        top = params.trainable["top"]
        return z @ top["W2"] + top["b2"][None], params.stats

    return Model(init, features, head, ("stem", "top"), features_shape=(network.HIDDEN,))


MODELS = BENT, straight()
TASKS = [tasks.classification(model) for model in MODELS]


def data() -> FederatedData:
    return network.data().with_traits({"kind": KINDS})


def gradient(w: Any, rows: reference.Rows) -> Any:
    """Of either network, by the names of its leaves."""
    if "V" not in w:
        return reference.network_gradient(w, rows)
    x, y = rows
    z = x @ w["V"] + w["v"]
    top = reference.network_gradient({"W2": w["W2"], "b2": w["b2"]}, (z, y))
    scores = z @ w["W2"] + w["b2"]
    p = np.exp(scores - scores.max(1, keepdims=True))
    error = (p / p.sum(1, keepdims=True) - np.eye(w["b2"].size)[y]) / len(y) @ w["W2"].T
    return {"V": x.T @ error, "v": error.sum(0), **top}


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(LR), network.plan())


def flat(part: Any) -> Any:
    """The leaves of a model that are there, without the names of its blocks."""
    return {name: np.asarray(leaf) for block in part.values() for name, leaf in block.items() if leaf is not None}


def row(part: Any, place: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[place], part)


@pytest.mark.parametrize("cohort", [None, 3])
def test_bodies_of_two_kinds_under_one_head_against_loops(cohort):
    """LG-FedAvg: each kind trains its own body, and all of them average one head."""
    parts = [algorithms.lg_fedavg(t, solver(), masks.head(m)) for t, m in zip(TASKS, MODELS, strict=True)]
    run = play.play(TASKS, of_kinds(parts), data(), 3, cohort=cohort)  # pyright: ignore[reportArgumentType]
    f = network.federation(3, cohort)._replace(gradient=gradient)
    place = [int((KINDS[:i] == KINDS[i]).sum()) for i in range(5)]

    def own(clients: Any, i: int) -> Any:
        return flat(row(clients[KINDS[i]].trainable, place[i]))

    head = flat(run.start.server.params.trainable)
    bodies = [own(run.start.clients, i) for i in range(5)]
    assert [sorted(body) for body in bodies] == [["W1", "b1"] if kind == 0 else ["V", "v"] for kind in KINDS]
    w, private = reference.sharing(f, head, bodies, phases=[(None, LR)], by_n=False)
    play.assert_trees_close(flat(run.state.server.params.trainable), w)
    for i in range(5):
        play.assert_trees_close(own(run.state.clients, i), private[i])
