"""FENDA and PerFCL."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.data import from_clients
from pfljax.learning import local, tasks
from pfljax.types import Params, State
from tests.oracles import contrast, network, play
from tests.oracles import numpy_reference as reference

pytestmark = pytest.mark.usefixtures("x64")

NET, LR, HIDDEN = network.model(), network.LR, network.HIDDEN
TASK = tasks.classification(NET)
SOLVE = local.descent(optax.sgd(LR), network.plan())
FENDA = algorithms.fenda(TASK, SOLVE, NET)
BODY = masks.named("body")


def train(method: Any, rounds: int = network.ROUNDS, begin: Any = lambda state: state) -> play.Played:
    return play.play(TASK, method, network.data(), rounds, cohort=network.COHORT, begin=begin)


def zeroed(part: str) -> Any:
    """Begins with one branch, and what the head reads of it, at zero, where both stay."""

    def begin(state: State) -> State:
        params, own = state.server.params, state.clients
        kept = own.trainable | {"head": dict(own.trainable["head"])}
        read = np.arange(2 * HIDDEN) < HIDDEN if part == "own" else np.arange(2 * HIDDEN) >= HIDDEN
        kept["head"]["kernel"] = kept["head"]["kernel"] * jnp.asarray(read, float)[None, :, None]
        if part == "own":
            kept["own"] = jax.tree.map(jnp.zeros_like, kept["own"])
        else:
            params = jax.tree.map(jnp.zeros_like, params)
        return state._replace(server=state.server._replace(params=params), clients=own._replace(trainable=kept))

    return begin


def head(run: play.Played, rows: slice) -> dict[str, np.ndarray]:
    top = run.state.clients.trainable["head"]
    return {"W2": top["kernel"][:, rows], "b2": top["bias"]}


def beginning(server: Any, body: Any, top: Any) -> Any:
    """A run of another method from the leaves of one branch and of the head."""

    def begin(state: State) -> State:
        if server is not None:
            whole = state.server.params.trainable | {"body": jax.tree.map(jnp.asarray, server)}
            state = state._replace(server=state.server._replace(params=Params(whole)))
        own = state.clients.trainable | {"head": top} | ({} if body is None else {"body": body})
        return state._replace(clients=state.clients._replace(trainable=jax.tree.map(jnp.asarray, own)))

    return begin


def leaves(branch: Any) -> Any:
    return branch["body"]


def shared(run: play.Played) -> Any:
    return leaves(run.state.server.params.trainable["shared"])


@pytest.mark.slow
def test_without_its_own_branch_it_is_fedper():
    run = train(FENDA, begin=zeroed("own"))
    start = run.start.clients.trainable["head"]
    top = {"W2": start["kernel"][:, :HIDDEN], "b2": start["bias"]}
    begin = beginning(leaves(run.start.server.params.trainable["shared"]), None, top)
    fedper = train(algorithms.fedper(TASK, SOLVE, masks.named("head")), begin=begin)
    play.assert_trees_close(
        leaves(run.state.server.params.trainable["shared"]), fedper.state.server.params.trainable["body"]
    )
    play.assert_trees_close(head(run, slice(None, HIDDEN)), fedper.state.clients.trainable["head"])


@pytest.mark.slow
def test_without_the_shared_branch_clients_train_alone():
    run = train(FENDA, begin=zeroed("shared"))
    start = run.start.clients.trainable
    top = {"W2": start["head"]["kernel"][:, HIDDEN:], "b2": start["head"]["bias"]}
    begin = beginning(None, leaves(start["own"]), top)
    alone = train(algorithms.local_only(TASK, SOLVE, participation="cohort"), begin=begin)
    play.assert_trees_close(leaves(run.state.clients.trainable["own"]), alone.state.clients.trainable["body"])
    play.assert_trees_close(head(run, slice(HIDDEN, None)), alone.state.clients.trainable["head"])


def features(w: reference.Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def loop(run: play.Played, rounds: int, mu: float = 0.0, gamma: float = 0.0, tau: float = 0.5) -> tuple[Any, list]:
    """The shared branch and what clients keep: of each branch W1 and b1, and the head."""
    f = network.federation(rounds)
    body = leaves(run.start.server.params.trainable["shared"])
    clients = run.start.clients if not hasattr(run.start.clients, "more") else run.start.clients.client
    kept = [jax.tree.map(lambda leaf, i=i: leaf[i], clients.trainable) for i in range(5)]
    own = [{**leaves(row["own"]), **row["head"]} for row in kept]
    before = [body] * 5
    for t, cohort in enumerate(f.cohorts):
        results = []
        for i in cohort:
            s, p = dict(body), dict(own[i])
            for x, y in f.batches(t, i, 0):
                z_s, z_p = features(s, x), features(p, x)
                logits = np.hstack([z_s, z_p]) @ p["kernel"] + p["bias"]
                e = np.exp(logits - logits.max(1, keepdims=True))
                error = (e / e.sum(1, keepdims=True) - np.eye(network.CLASSES)[y]) / len(y)
                z_g = features(body, x)
                by_s = error @ p["kernel"][:HIDDEN].T
                by_s += mu * contrast.slope(z_s, z_g, features(before[i], x), tau) / len(y)
                by_p = error @ p["kernel"][HIDDEN:].T
                by_p += gamma * contrast.slope(z_p, features(own[i], x), z_g, tau) / len(y)
                inner_s, inner_p = by_s * (1 - z_s**2), by_p * (1 - z_p**2)
                s = {"W1": s["W1"] - LR * x.T @ inner_s, "b1": s["b1"] - LR * inner_s.sum(0)}
                p = {
                    "W1": p["W1"] - LR * x.T @ inner_p,
                    "b1": p["b1"] - LR * inner_p.sum(0),
                    "kernel": p["kernel"] - LR * np.hstack([z_s, z_p]).T @ error,
                    "bias": p["bias"] - LR * error.sum(0),
                }
            before[i], own[i] = s, p
            results.append(s)
        body = reference.average(results, f.sizes[cohort])
    return body, own


def check(run: play.Played, clients: Any, expected: tuple[Any, list]) -> None:
    body, own = expected
    play.assert_trees_close(shared(run), body)
    for i, row in enumerate(own):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], clients.trainable)
        play.assert_trees_close({**leaves(mine["own"]), **mine["head"]}, row)


def test_fenda_against_a_loop():
    run = train(FENDA)
    check(run, run.state.clients, loop(run, network.ROUNDS))


def test_perfcl_against_a_loop():
    run = train(algorithms.perfcl(TASK, SOLVE, NET, mu=2.0, gamma=3.0), 4)
    check(run, run.state.clients.client, loop(run, 4, 2.0, 3.0))


def test_perfcl_without_contrasts_is_fenda():
    run, fenda = train(algorithms.perfcl(TASK, SOLVE, NET, mu=0.0, gamma=0.0)), train(FENDA)
    play.assert_trees_close(shared(run), shared(fenda))
    own, expected = run.state.clients.client.trainable["own"], fenda.state.clients.trainable["own"]
    play.assert_trees_close(leaves(own), leaves(expected))


@pytest.mark.parametrize("make", [algorithms.fenda, algorithms.perfcl, algorithms.moon])
def test_labels_that_are_no_classes_are_refused(make: Any):
    data = from_clients([(np.zeros((2, network.INPUTS)), np.zeros((2, network.CLASSES)))])
    with pytest.raises(ValueError, match=f"{make.__name__} needs one class for each example"):
        play.play(tasks.regression(NET), make(TASK, SOLVE, NET), data)
