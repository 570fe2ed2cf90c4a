"""pFedHN."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import Params, State
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import Federation, Tree, close

pytestmark = pytest.mark.usefixtures("x64")

TASK = network.task()
HEAD = masks.named(*network.HEAD)
SERVER = {"server_lr": 0.3, "momentum": 0.5, "weight_decay": 0.1, "clip": 1.5}


def solver() -> local.LocalSolver:
    return local.descent(optax.sgd(network.LR), network.plan())


def made(phi: list[np.ndarray], v: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """`H(v)`, and what each layer reads."""
    read = [v]
    for k, layer in enumerate(phi[:-1]):
        z = read[-1] @ layer[:-1] + layer[-1]
        read.append(np.maximum(z, 0) if k < len(phi) - 2 else z)
    return read[-1] @ phi[-1][:-1] + phi[-1][-1], read


def loops(
    f: Federation, phi: list[np.ndarray], v: np.ndarray, own: list[Tree], like: Tree
) -> tuple[list[np.ndarray], np.ndarray, list[Tree]]:
    """Backpropagation by hand through the layers; `like` has the leaves that H makes, `own` the clients' others."""
    phi, v, own = list(phi), np.array(v), list(own)
    velocity = [np.zeros_like(part) for part in [*phi, v]]
    for t, cohort in enumerate(f.cohorts):
        slopes = [np.zeros_like(part) for part in [*phi, v]]
        for i in cohort:
            theta, read = made(phi, v[i])
            parts = np.split(theta, np.cumsum([like[name].size for name in sorted(like)])[:-1])
            body = {name: part.reshape(like[name].shape) for name, part in zip(sorted(like), parts, strict=True)}
            result = reference.descend({**body, **own[i]}, f.gradient, f.batches(t, i, 0), network.LR)
            own[i] = {name: result[name] for name in own[i]}
            error = np.concatenate([np.ravel(body[name] - result[name]) for name in sorted(like)]) / len(cohort)
            for layer in reversed(range(len(phi))):
                slopes[layer] += np.outer([*read[layer], 1.0], error)
                error = phi[layer][:-1] @ error
                if 0 < layer < len(phi) - 1:
                    error = error * (read[layer] > 0)
            slopes[-1][i] += error
        length = np.sqrt(sum(np.sum(slope**2) for slope in slopes))
        scale = min(1.0, SERVER["clip"] / length)
        for k, slope in enumerate(slopes):
            part = phi[k] if k < len(phi) else v
            velocity[k] = scale * slope + SERVER["weight_decay"] * part + SERVER["momentum"] * velocity[k]
            part = part - SERVER["server_lr"] * velocity[k]
            phi, v = ([*phi[:k], part, *phi[k + 1 :]], v) if k < len(phi) else (phi, part)
    return phi, v, own


@pytest.mark.parametrize("kept", [(), network.HEAD], ids=["everything", "the body"])
def test_pfedhn_against_loops(kept):
    """Three of five unequal clients in a round; the norm is clipped in some of them."""
    options: dict[str, Any] = {"embedding": 2, "hidden": 6, "layers": 2, **SERVER}
    build = (
        algorithms.pfedhn_pc(TASK, solver(), HEAD, **options) if kept else algorithms.pfedhn(TASK, solver(), **options)
    )
    run = network.train(build)
    start = run.start.server.params.trainable
    shapes = {name: leaf for name, leaf in TASK.init(jax.random.key(0)).trainable.items() if name not in kept}
    own = play.rows(run.start.clients.trainable, 5)
    assert set(own[0]) == set(kept)
    phi, v, heads = loops(network.federation(), start["phi"], start["v"], own, shapes)
    found = run.state.server.params.trainable
    for mine, expected in zip([*found["phi"], found["v"]], [*phi, v], strict=True):
        close(mine, expected, 1e-11)
    for i, deployed in enumerate(play.rows(run.personalized().trainable, 5)):
        theta = np.concatenate([np.ravel(deployed[name]) for name in sorted(shapes)])
        close(theta, made(phi, v[i])[0], 1e-11)
        play.assert_trees_close({name: deployed[name] for name in kept}, heads[i], 1e-11)


@pytest.mark.slow
def test_a_hypernetwork_of_one_bias_is_reptile():
    """All weights and vectors 0: nothing but the last bias can move, and it is one model for all."""

    def begin(state: State) -> State:
        params = state.server.params
        last = params.trainable["phi"][-1]
        zeros = jax.tree.map(jnp.zeros_like, params.trainable)
        zeros["phi"][-1] = zeros["phi"][-1].at[-1].set(last[-1])
        return state._replace(server=state.server._replace(params=Params(zeros, params.stats)))

    still: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9}
    run = network.train(algorithms.pfedhn(TASK, solver(), server_lr=0.4, hidden=3, layers=1, **still), begin=begin)
    expected = network.train(algorithms.reptile(TASK, solver(), solver(), server_lr=0.4))
    flat = reference.flat(expected.state.server.params.trainable)
    close(run.state.server.params.trainable["phi"][-1][-1], flat)


def test_published_step_of_a_linear_hypernetwork():
    """theta_i = W e_i, from W = 0, mean over the three clients, learning rate 1/2."""

    def begin(state: State) -> State:
        net = {"phi": [jnp.eye(3, 2).at[2].set(0), jnp.zeros((3, 2))], "v": jnp.array([[1.0, 0], [1, 1], [0, 1]])}
        return state._replace(server=state.server._replace(params=Params(net)))

    solve = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 60))
    still: dict[str, Any] = {"momentum": 0.0, "weight_decay": 0.0, "clip": 1e9}
    build = algorithms.pfedhn(q.task(), solve, embedding=2, hidden=2, layers=0, server_lr=0.5, **still)
    net = play.play(q.task(), build, q.data(), begin=begin).state.server.params.trainable
    close(net["phi"][-1][:-1].T, [[0.068251666667, -0.065373697917], [0.136503333333, 0.177253333333]])
    close(net["phi"][-1][-1], 0.5 * np.array([0.0057559375, 0.354506666667]))
    close(net["v"], [[1.0, 0], [1, 1], [0, 1]])


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="each client's own upload"):
        reduced_by(algorithms.pfedhn(TASK, solver()), uniform(mean))
