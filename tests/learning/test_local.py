"""Plans visit what they promise; solvers move as written."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import masks, quadratics
from pfljax.learning import local, losses, plans
from pfljax.types import Batch, ClientData, Examples, Params, Plan

KEY = jax.random.key(0)


def client(size: int, work: float = 1.0) -> ClientData:
    """A client whose examples are numbered 100, 101, ... among those of others."""
    x = jnp.arange(200.0)
    return ClientData(Examples(x, x), jnp.asarray(100), jnp.asarray(size), jnp.asarray(0), jnp.asarray(work))


def visited(plan: Plan, data: ClientData) -> list[list[int]]:
    """The examples of each step."""
    batches = [plan.batch(data, KEY, jnp.asarray(step)) for step in range(int(plan.steps(data)))]
    return [batch.x[batch.mask > 0].astype(int).tolist() for batch in batches]


@pytest.mark.parametrize("size", [1, 3, 4, 10, 11])
def test_an_epoch_visits_every_example_once(size: int):
    steps = visited(plans.epochs(2, 4), client(size))
    assert len(steps) == 2 * -(-size // 4)
    half = len(steps) // 2
    first, second = (list(itertools.chain(*part)) for part in (steps[:half], steps[half:]))
    assert sorted(first) == sorted(second) == list(range(100, 100 + size))
    assert first != second or size < 4, "the second epoch has an order of its own"


def test_drop_last_leaves_out_the_short_batch_but_takes_one_step():
    assert [len(step) for step in visited(plans.epochs(1, 4, drop_last=True), client(11))] == [4, 4]
    assert [len(step) for step in visited(plans.epochs(1, 4, drop_last=True), client(3))] == [3]


def test_steps_reshuffle_when_the_examples_are_used_up():
    steps = visited(plans.steps(5, 4), client(8))
    assert [len(step) for step in steps] == [4] * 5
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(100, 108))


def test_full_batches_and_one_batch_many_times():
    assert visited(plans.full_batch(2, 6), client(5)) == [list(range(100, 105))] * 2
    batch = plans.steps(1, 3).batch(client(8), KEY, jnp.asarray(0))
    assert visited(plans.same(batch, 3), client(8)) == [batch.x.astype(int).tolist()] * 3


@pytest.mark.parametrize(("work", "steps"), [(1.0, 6), (0.5, 3), (0.4, 3), (0.01, 1), (0.0, 0)])
def test_a_straggler_does_its_share_of_the_steps(work: float, steps: int):
    assert int(plans.epochs(2, 4).steps(client(10, work))) == steps


@pytest.mark.parametrize("plan", [plans.epochs(1, 4), plans.epochs(1, 4, drop_last=True), plans.steps(3, 2)])
def test_without_examples_there_are_no_steps(plan: Plan):
    assert int(plan.steps(client(0))) == 0


def quadratic(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
    """The mean of `(w - x)^2 / 2` over the batch."""
    value = jnp.sum(batch.mask * (params.trainable - batch.x) ** 2) / (2 * jnp.sum(batch.mask))
    return value, params.stats


def test_descent_is_the_geometric_series():
    """w_K = m + (1 - lr)^K (w_0 - m) with m the mean of the examples."""
    solve = local.descent(optax.sgd(0.1), plans.full_batch(7, 5))
    w = solve(quadratic, Params(jnp.asarray(0.0)), client(5), KEY).trainable
    assert float(w) == pytest.approx(102 * (1 - 0.9**7), rel=1e-6)


def test_proximal_descent_is_stable_at_any_strength():
    """w <- (w - lr (w - m) + lr lam a) / (1 + lr lam); lam = 1e6 holds w at the anchor a."""
    solve = local.proximal_descent(0.1, plans.full_batch(3, 5))
    w, strength, anchor = 0.0, 2.0, 7.0
    for _ in range(3):
        w = (w - 0.1 * (w - 102) + 0.1 * strength * anchor) / (1 + 0.1 * strength)
    loss = losses.proximal(quadratic, strength, jnp.asarray(anchor))
    assert float(solve(loss, Params(jnp.asarray(0.0)), client(5), KEY).trainable) == pytest.approx(w, rel=1e-6)
    strong = losses.proximal(quadratic, 1e6, jnp.asarray(anchor))
    assert float(solve(strong, Params(jnp.asarray(0.0)), client(5), KEY).trainable) == pytest.approx(7, rel=1e-3)


@pytest.mark.parametrize(("mask", "expected"), [("head", (0, 2.5)), ("body", (2.75, 0))])
def test_proximal_descent_on_a_part_solves_that_part(mask: str, expected: tuple[float, float]):
    """(8 + 3 * 1) / 4 for the body, (4 + 3 * 2) / 4 for the head; masks on masks too."""
    task, data = quadratics.problem(body=[8.0], head=[4.0])
    loss = losses.proximal(task.loss, 3.0, {"body": jnp.asarray(1.0), "head": jnp.asarray(2.0)})
    solve = local.only(masks.named(mask), local.proximal_descent(0.5, plans.full_batch(60, 1)))
    for solver in (solve, local.only(masks.everything, solve)):
        solved = solver(loss, task.init(KEY), data.client(0), KEY).trainable
        np.testing.assert_allclose((solved["body"], solved["head"]), expected, rtol=1e-5)


def noise(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, dict]:
    """Its gradient is a standard normal number."""
    return params.trainable * jax.random.normal(key), params.stats


def test_the_noise_of_a_step_has_a_key_that_no_shuffle_has():
    """The steps of SGD with lr 1 are minus the normal numbers of their keys."""
    seen = []
    for steps in (1, 2):
        solve = local.descent(optax.sgd(1.0), plans.full_batch(steps, 5))
        seen.append(float(solve(noise, Params(jnp.asarray(0.0)), client(5), KEY).trainable))
    drawn = [-seen[0], seen[0] - seen[1]]
    epochs = [float(jax.random.normal(jax.random.fold_in(KEY, epoch))) for epoch in range(4)]
    assert not np.isclose(np.subtract.outer(drawn, [*epochs, float(jax.random.normal(KEY))]), 0, atol=1e-5).any()
    assert abs(drawn[0] - drawn[1]) > 1e-3


def test_batches_of_a_mean_have_noise_of_their_own():
    whole = float(local.mean_gradient(noise, Params(jnp.asarray(0.0)), client(10), KEY, batch_size=10))
    halves = float(local.mean_gradient(noise, Params(jnp.asarray(0.0)), client(10), KEY, batch_size=5))
    assert abs(whole - halves) > 1e-3


def test_support_and_query_have_noise_of_their_own():
    """After a step of 1 along the support's number, the loss of the query is -(its number) times the support's."""
    adapted = losses.after_adaptation(noise, 1.0, "first")
    rows = Batch(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    value = float(adapted(Params(jnp.asarray(0.0)), rows, KEY)[0])
    first = float(jax.random.normal(KEY))
    assert abs(value + first**2) > 1e-3


def test_the_mean_over_a_client_does_not_depend_on_the_batches():
    data = client(10)
    values = [local.mean_loss(quadratic, Params(jnp.asarray(0.0)), data, KEY, batch_size=b) for b in (1, 3, 16)]
    np.testing.assert_allclose(values, np.mean(np.arange(100, 110) ** 2) / 2, rtol=1e-6)


@pytest.mark.parametrize(
    "make", [lambda: plans.epochs(0, 4), lambda: plans.steps(1, 0), lambda: plans.full_batch(1, 0)]
)
def test_counts_below_one_are_refused(make):
    with pytest.raises(ValueError, match="a whole number of at least 1"):
        make()
