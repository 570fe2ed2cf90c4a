"""FedPer, FedRep, FedBABU, LG-FedAvg, FedBN."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Array, Batch, Params, Task, Tree
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close

pytestmark = pytest.mark.usefixtures("x64")

LINE = q.line()
SLOPE, INTERCEPTS = 1.45652173913, (0.876811594203, -1.065217391304, 3.695652173913)


def step(lr: float) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plans.full_batch(1, 3))


LINES: dict[str, Callable[[], Algorithm]] = {
    "FedPer": lambda: algorithms.fedper(LINE, step(0.2), masks.named("intercept")),
    "FedRep": lambda: algorithms.fedrep(LINE, step(0.2), step(1.0), masks.named("intercept")),
    "LG-FedAvg": lambda: algorithms.lg_fedavg(LINE, step(0.2), masks.named("slope")),
}


@pytest.mark.parametrize("method", LINES)
def test_private_intercepts_converge_to_the_within_estimator(method):
    run = play.play(LINE, LINES[method](), q.line_data(), 1000)
    params = run.personalized().trainable
    close(params["slope"], [SLOPE] * 3, 1e-10)
    close(params["intercept"], INTERCEPTS, 1e-10)
    close(run.state.clients.trainable.get("intercept"), INTERCEPTS, 1e-10)
    assert run.state.clients.trainable["slope"] is None
    assert run.state.server.params.trainable["intercept"] is None


def test_one_intercept_for_all_converges_to_pooled_least_squares():
    run = play.play(LINE, algorithms.fedavg(LINE, step(0.2)), q.line_data(), 1000)
    slope, intercept = np.polyfit(q.LINE_X.ravel(), q.LINE_Y.ravel(), 1)
    params = run.state.server.params.trainable
    close((params["slope"], params["intercept"]), (slope, intercept), 1e-10)


def measuring(task: Task) -> Task:
    """`task` with a running mean of the centers that it has seen."""

    def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        center = jnp.sum(batch.x["c"] * batch.mask[:, None], 0) / jnp.sum(batch.mask)
        return task.loss(params, batch, key)[0], {"seen": (params.stats["seen"] + center) / 2}

    return task._replace(loss=loss, init=lambda key: task.init(key)._replace(stats={"seen": jnp.zeros(2)}))


@pytest.mark.parametrize("server_lr", [1.0, 0.3])
def test_statistics_are_averaged_or_kept(server_lr):
    """They are what was measured, so the server's step size is not for them."""
    task = measuring(q.task())
    solve = local.descent(optax.sgd(q.LR), plans.full_batch(2, 60))
    server, seen = fedopt(optax.sgd(server_lr)), 0.75 * q.C
    averaged = play.play(task, algorithms.fedavg(task, solve, server=server), q.data())
    close(averaged.state.server.params.stats["seen"], q.shares(q.N) @ seen)
    kept = play.play(task, reduced_by(algorithms.fedbn(task, solve, masks.stats, server=server), mean), q.data())
    assert kept.state.server.params.stats["seen"] is None
    close(kept.state.clients.stats["seen"], seen)
    close(kept.personalized().stats["seen"], seen)
    moved = server_lr * q.shares(q.N) @ q.descended(np.zeros(2), q.A, q.C, q.LR, 2)
    for run in (averaged, kept):
        close(run.state.server.params.trainable["w"], moved)


def _solver(lr: float = network.LR, batch_size: int = 4, momentum: float = 0.5) -> local.LocalSolver:
    return local.descent(optax.sgd(lr, momentum=momentum), network.plan(batch_size))


BODY, HEAD = masks.named(*network.BODY), masks.named(*network.HEAD)
JOINT = [((*network.BODY, *network.HEAD), network.LR)]
ALTERNATING = [(network.HEAD, 0.1), (network.BODY, network.LR)]

# method -> what makes it, private leaves, phases, weights by examples, per-client start
SHARINGS = {
    "FedPer": (lambda t: algorithms.fedper(t, _solver(), HEAD), network.HEAD, JOINT, True, True),
    "FedPer, head first": (
        lambda t: algorithms.fedper(t, _solver(), HEAD, head_first=True),
        network.HEAD,
        [(network.HEAD, network.LR), *JOINT],
        True,
        True,
    ),
    "FedRep": (
        lambda t: reduced_by(algorithms.fedrep(t, _solver(), _solver(0.1), HEAD, init="common"), uniform(mean)),
        network.HEAD,
        ALTERNATING,
        False,
        False,
    ),
    "LG-FedAvg": (lambda t: algorithms.lg_fedavg(t, _solver(), HEAD), network.BODY, JOINT, False, False),
    "FedBN": (lambda t: algorithms.fedbn(t, _solver(), masks.named("b1")), ("b1",), JOINT, False, False),
}


@pytest.mark.parametrize("method", SHARINGS)
def test_sharing_against_loops(method):
    make, private, phases, by_n, per_client = SHARINGS[method]
    run = network.train(make(network.task()))
    start = play.rows(run.start.clients.trainable, 5)
    assert np.array_equal(start[0][private[0]], start[1][private[0]]) != per_client
    w = {name: leaf for name, leaf in run.start.server.params.trainable.items() if leaf is not None}
    f = network.federation(plans=(network.plan,) * len(phases))
    shared, own = reference.sharing(f, w, start, phases=phases, by_n=by_n, momentum=0.5)
    play.assert_trees_close(run.state.server.params.trainable, shared)
    deployed = play.rows(run.personalized().trainable, 5)
    for i, row in enumerate(play.rows(run.state.clients.trainable, 5)):
        play.assert_trees_close(row, own[i])
        play.assert_trees_close(deployed[i], {**shared, **own[i]})


def test_fedbabu_against_loops():
    """Momentum and weight decay leave the head where it was; all of the network is tuned at the end."""
    optimizer = optax.chain(optax.add_decayed_weights(0.01), optax.sgd(network.LR, momentum=0.9))
    tune = local.descent(optax.sgd(0.1), plans.full_batch(6, 14))
    build = algorithms.fedbabu(network.task(), local.descent(optimizer, network.plan()), tune, HEAD)
    run = network.train(build)
    head = {name: run.start.clients.trainable[name] for name in network.HEAD}
    play.assert_bitwise({name: run.state.clients.trainable[name] for name in head}, head)
    fixed = {name: leaf[0] for name, leaf in head.items()}
    w = {name: run.start.server.params.trainable[name] for name in network.BODY}
    f = network.federation()
    body, _ = reference.sharing(f, w, [fixed] * 5, phases=[(network.BODY, network.LR)], momentum=0.9, decay=0.01)
    play.assert_trees_close(run.state.server.params.trainable, body)
    for i, tuned in enumerate(play.rows(run.personalized().trainable, 5)):
        expected = reference.descend({**body, **fixed}, f.gradient, [f.everything[i]] * 6, 0.1)
        play.assert_trees_close(tuned, expected)
