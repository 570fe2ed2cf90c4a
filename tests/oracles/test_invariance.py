"""Features that keep a secret."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.learning import local, tasks
from pfljax.types import Model, Params
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)


def told(x: Any) -> Any:
    """The secret: whether the first input is large."""
    return (x[:, 0] > 0.5).astype(int)


def adversary() -> Model:
    """Logistic regression on the features."""

    def init(key: jax.Array) -> Params:
        return Params({"D": jax.random.normal(key, (network.HIDDEN, 2), float), "e": jnp.zeros(2)})

    def head(params: Params, z: jax.Array, **_: Any) -> tuple[jax.Array, Any]:
        return z @ params.trainable["D"] + params.trainable["e"][None], params.stats

    return Model(init, None, head)


def logits(z: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    e = np.exp(z @ kernel + bias)
    return e / e.sum(1, keepdims=True)


def slopes(w: reference.Tree, rows: reference.Rows, lam: float) -> reference.Tree:
    """The model descends its loss and climbs that of the adversary, which descends its own."""
    x, y = rows
    z = np.tanh(x @ w["W1"] + w["b1"])
    wrong = (logits(z, w["D"], w["e"]) - np.eye(2)[told(x)]) / len(y)
    inner = wrong @ w["D"].T * (1 - z**2)
    plain = reference.network_gradient({name: w[name] for name in (*network.BODY, *network.HEAD)}, rows)
    plain["W1"] = plain["W1"] - lam * x.T @ inner
    plain["b1"] = plain["b1"] - lam * inner.sum(0)
    return {**plain, "D": z.T @ wrong, "e": wrong.sum(0)}


@pytest.mark.parametrize("lam", [0.0, 0.8])
def test_lg_fedavg_against_an_adversary_and_against_loops(lam):
    """Representations stay with the clients; head and adversary are shared."""
    task = tasks.invariant(TASK, MODEL, adversary(), told, lam=lam)
    solve = local.descent(optax.sgd(network.LR), network.plan())
    shared = masks.union(masks.head(MODEL), masks.named("adversary"))
    build = algorithms.lg_fedavg(task, solve, shared)
    run = play.play(task, build, network.data(), network.ROUNDS, cohort=network.COHORT)
    f = network.federation()._replace(gradient=lambda w, rows: slopes(w, rows, lam))
    top = network.flat(run.start.server.params.trainable)
    bodies = [network.flat(jax.tree.map(lambda leaf, i=i: leaf[i], run.start.clients.trainable)) for i in range(5)]
    phases = [((*network.BODY, *network.HEAD, "D", "e"), network.LR)]
    top, bodies = reference.sharing(f, top, bodies, phases=phases, by_n=False)
    play.assert_trees_close(network.flat(run.state.server.params.trainable), top)
    for i in range(5):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], run.state.clients.trainable)
        play.assert_trees_close(network.flat(own), bodies[i])
    one = jax.tree.map(lambda leaf: leaf[0], run.personalized())
    x = network.data().examples.x[:4]
    expected = reference.logits({**top, **bodies[0]}, np.asarray(x))
    close(task.predict(one, x), expected)


def test_features_are_needed():
    with pytest.raises(ValueError, match="invariant is for features, and the model has none"):
        tasks.invariant(TASK, MODEL._replace(features=None), adversary(), told)
