"""Adaptation of a common model: distillation, elastic weights, alignment of features, and how long it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.data import FederatedData
from pfljax.federation.skeletons import fine_tuned
from pfljax.learning import local, losses, plans, tasks
from pfljax.types import Algorithm, Rows
from tests.oracles import network, play
from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import Tree, close

pytestmark = pytest.mark.usefixtures("x64")

MODEL = network.model()
TASK = tasks.classification(MODEL)
STEPS, RATE = 6, 0.3
SOLVE = local.descent(optax.sgd(network.LR), network.plan())
TUNE = local.descent(optax.sgd(RATE), plans.full_batch(STEPS, max(network.SIZES)))
SHOWN = np.random.default_rng(8).normal(size=(9, network.INPUTS)) * [1, 2, 3]


def trained(build: Algorithm, data: FederatedData) -> tuple[Tree, list[Tree]]:
    """The common model and what each client deploys."""
    run = play.play(TASK, build, data, network.ROUNDS, cohort=network.COHORT)
    deployed = network.flat(run.personalized().trainable)
    return network.flat(run.state.server.params.trainable), play.rows(deployed, len(network.SIZES))


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def features(w: Tree, x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ w["W1"] + w["b1"])


def body(w: Tree, x: np.ndarray, slope: np.ndarray) -> Tree:
    """Gradients of the body from that of the features."""
    inner = slope * (1 - features(w, x) ** 2)
    return {"W1": x.T @ inner, "b1": inner.sum(0)}


def descended(w: Tree, gradient: Callable[[Tree, Any], Tree], rows: Any) -> Tree:
    return reference.descend(w, gradient, [rows] * STEPS, RATE)


def test_the_algebra_of_these_losses() -> None:
    """The constants of the specification, and the gradient by which a student moves towards its teacher."""
    z, teacher, one = jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.0, 1.0, 0.0]]), jnp.ones(1)
    value, slope = jax.value_and_grad(losses.imitation)(z, teacher, one, 2.0)
    close(value, 0.447297128652)
    close(slope[0], (0.464823543989, -0.289333752318, -0.175489791671))
    first, second = np.random.default_rng(0).normal(size=(7, 1)), np.random.default_rng(1).normal(size=(9, 1))
    every = [jnp.ones(len(part)) for part in (first, second)]
    expected = (first.var(ddof=1) - second.var(ddof=1)) ** 2 / 4
    close(losses.coral(jnp.asarray(first), every[0], jnp.asarray(second), every[1]), expected)
    close(losses.coral(jnp.asarray(first), every[0], jnp.asarray(first[::-1]), every[0]), 0)
    padded = jnp.asarray(np.concatenate([second, [[99.0]]]))
    close(losses.coral(jnp.asarray(first), every[0], padded, jnp.append(every[1], 0.0)), expected)
    assert losses.coral(jnp.ones((1, 2)), one, jnp.zeros((1, 2)), one) == 0


def test_distillation_against_a_loop() -> None:
    alpha, temperature = 0.7, 3.0
    build = algorithms.fedavg_distilled(TASK, SOLVE, TUNE, alpha=alpha, temperature=temperature)
    w, deployed = trained(build, network.data())

    def gradient(v: Tree, rows: Any) -> Tree:
        x, y = rows
        said, meant = (reference.logits(model, x) for model in (v, w))
        soft = temperature * (softmax(said / temperature) - softmax(meant / temperature))
        error = (alpha * soft + (1 - alpha) * (softmax(said) - np.eye(network.CLASSES)[y])) / len(y)
        return {"W2": features(v, x).T @ error, "b2": error.sum(0)} | body(v, x, error @ v["W2"].T)

    for own, rows in zip(deployed, network.federation().everything, strict=True):
        play.assert_trees_close(own, descended(w, gradient, rows))


def test_elastic_weights_against_a_loop() -> None:
    """With the Fisher information of each example on its own."""
    w, deployed = trained(algorithms.fedavg_ewc(TASK, SOLVE, TUNE, lam=8.0), network.data())
    f = network.federation()
    for own, (x, y) in zip(deployed, f.everything, strict=True):
        slopes = [f.gradient(w, (x[s : s + 1], y[s : s + 1])) for s in range(len(y))]
        fisher = reference.average([{name: g**2 for name, g in slope.items()} for slope in slopes])

        def gradient(v: Tree, rows: Any, fisher: Tree = fisher) -> Tree:
            return {name: g + 8.0 * fisher[name] * (v[name] - w[name]) for name, g in f.gradient(v, rows).items()}

        play.assert_trees_close(own, descended(w, gradient, (x, y)))


@pytest.mark.parametrize(("lam", "exact"), [(0.9, False), (5000.0, True)])
def test_elastic_weights_hold_parabolas_where_they_were(lam: float, exact: bool) -> None:
    """`(A + lam F) v = A c + lam F w`, `F = diag((A (w - c))^2)`, as all examples of a client are one."""
    solve, plan = local.descent(optax.sgd(q.LR), plans.full_batch(q.STEPS, 1)), plans.full_batch(400, 1)
    tune = local.proximal_descent(0.2, plan) if exact else local.descent(optax.sgd(0.2), plan)
    run = play.play(q.task(), algorithms.fedavg_ewc(q.task(), solve, tune, lam=lam), q.data(), 3)
    w = run.state.server.params.trainable["w"]
    for own, a, c in zip(run.personalized().trainable["w"], q.A, q.C, strict=True):
        held = lam * np.diag((a @ (w - c)) ** 2)
        close(own, np.linalg.solve(a + held, a @ c + held @ w), 1e-9)


def test_alignment_against_a_loop() -> None:
    """All public examples are in each minibatch, which has room for more; covariances by NumPy."""
    build = algorithms.fedhealth(TASK, SOLVE, TUNE, MODEL, lam=20.0)
    w, deployed = trained(build, network.data().with_public(SHOWN))
    f, d = network.federation(), network.HIDDEN

    def gradient(v: Tree, rows: Any) -> Tree:
        x, _ = rows
        own, theirs = features(v, x), features(v, SHOWN)
        apart = (np.cov(own, rowvar=False) - np.cov(theirs, rowvar=False)) / (2 * d**2)
        both = [2 / (len(z) - 1) * (z - z.mean(0)) @ apart for z in (own, theirs)]
        first, second = body(v, x, both[0]), body(v, SHOWN, both[1])
        task = f.gradient(v, rows)
        return task | {name: task[name] + 20.0 * (first[name] - second[name]) for name in first}

    for own, rows in zip(deployed, f.everything, strict=True):
        play.assert_trees_close(own, descended(w, gradient, rows))


@pytest.mark.slow
def test_without_its_term_each_is_fine_tuning() -> None:
    data = network.data().with_public(SHOWN)
    _, plain = trained(algorithms.fedavg_finetuned(TASK, SOLVE, TUNE), data)
    for build in (
        algorithms.fedavg_distilled(TASK, SOLVE, TUNE, alpha=0.0),
        algorithms.fedavg_ewc(TASK, SOLVE, TUNE, lam=0.0),
        algorithms.fedhealth(TASK, SOLVE, TUNE, MODEL, lam=0.0),
    ):
        w, deployed = trained(build, data)
        for own, expected in zip(deployed, plain, strict=True):
            play.assert_trees_close(own, expected)
            assert np.abs(own["W2"] - w["W2"]).max() > 0.05


def test_a_student_of_the_teacher_alone_stays() -> None:
    w, deployed = trained(algorithms.fedavg_distilled(TASK, SOLVE, TUNE, alpha=1.0), network.data())
    for own in deployed:
        play.assert_trees_close(own, w)


# One pass is one step; client i validates on what its neighbour trains on, client 4 on nothing.
STEP = local.descent(optax.sgd(0.5), plans.full_batch(1, max(network.SIZES)))
PASSES = 12


def validated() -> FederatedData:
    data = network.data()
    start, size = (np.roll(leaf, 1) for leaf in data.train)
    return dataclasses.replace(data, validation=Rows(start, size * (np.arange(5) < 4)))


def walks(w: Tree) -> list[list[Tree]]:
    """What each client has after 0, 1, ... passes."""
    f, made = network.federation(), []
    for rows in f.everything:
        made.append([w])
        for _ in range(PASSES):
            made[-1].append(reference.descend(made[-1][-1], f.gradient, [rows], 0.5))
    return made


def judged(walk: Sequence[Tree], i: int) -> np.ndarray:
    """Losses on the examples by which client i chooses."""
    f = network.federation()
    return np.array([f.loss(v, f.everything[i - 1]) for v in walk])


def test_each_client_tunes_as_long_as_it_helps() -> None:
    build = algorithms.fedavg_chosen_steps(TASK, SOLVE, STEP, passes=PASSES)
    w, deployed = trained(build, validated())
    best = []
    for i, (own, walk) in enumerate(zip(deployed, walks(w), strict=True)):
        best.append(int(judged(walk, i).argmin()) if i < 4 else PASSES)
        play.assert_trees_close(own, walk[best[-1]])
    assert len(set(best[:4])) > 1, "the choice made no difference"


def test_all_clients_tune_as_long_as_it_helps_the_cohort() -> None:
    """The losses are those of the last cohort, along the model that it received."""
    build = algorithms.fedavg_common_steps(TASK, SOLVE, STEP, passes=PASSES)
    run = play.play(TASK, build, validated(), network.ROUNDS, cohort=network.COHORT)
    keys = jax.random.key(play.KEY), jax.random.key(play.KEY + 1)
    before, _ = run.simulation.advance(run.simulation.init(keys[1]), keys[0], network.ROUNDS - 1, 4)
    f, cohort = network.federation(), run.cohorts[-1]
    along = walks(network.flat(jax.device_get(before).server.model.params.trainable))
    told = [judged(along[i], i) if i < 4 else np.zeros(PASSES + 1) for i in cohort]
    expected = np.average(told, axis=0, weights=f.sizes[cohort])
    close(run.state.server.losses, expected)
    w = network.flat(run.state.server.model.params.trainable)
    start = network.flat(run.start.server.model.params.trainable)
    play.assert_trees_close(w, reference.fedavg(f, start, lr=network.LR))
    deployed = play.rows(network.flat(run.personalized().trainable), 5)
    for own, walk in zip(deployed, walks(w), strict=True):
        play.assert_trees_close(own, walk[int(expected.argmin())])


def test_no_passes_are_fedavg_bit_for_bit() -> None:
    _, deployed = trained(algorithms.fedavg_chosen_steps(TASK, SOLVE, STEP, passes=0), validated())
    w, _ = trained(algorithms.fedavg(TASK, SOLVE), validated())
    for own in deployed:
        play.assert_bitwise(own, w)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="passes=-1: it must be a whole number of at least 0"):
        algorithms.fedavg_chosen_steps(TASK, SOLVE, STEP, passes=-1)
    headless = MODEL._replace(features=None)
    with pytest.raises(ValueError, match="fedhealth aligns features, and the model has none"):
        algorithms.fedhealth(TASK, SOLVE, TUNE, headless)
    with pytest.raises(ValueError, match="examples that everybody sees, and there are none"):
        trained(algorithms.fedhealth(TASK, SOLVE, TUNE, MODEL), network.data())
    several = algorithms.fedrod(TASK, SOLVE, MODEL)
    with pytest.raises(ValueError, match="fine_tuned trains the one model that a client deploys"):
        fine_tuned(several, TASK, TUNE, masks.everything)
