"""Wrappers on parabolas, where what attackers, bounds, noise and compression do is known in closed form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks, quadratics
from pfljax.federation import wrappers
from pfljax.federation.reduce import geometric_median, krum, mean, median, trimmed, uniform
from pfljax.federation.wrappers import attacked, clipped, colluding, compressed, noised, reduced_by
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Params, Reduce, Reply
from tests.oracles import play

pytestmark = pytest.mark.usefixtures("x64")

LR = 0.5
STEP = local.descent(optax.sgd(LR), plans.full_batch(1, 3))
CENTERS = np.array([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0], [0.0, 0.0]])
SIZES = (1, 2, 3, 1)


def fedavg(centers: Any, **options: Any) -> tuple[Algorithm, Any, Any]:
    task, data = quadratics.problem(w=centers, **options)
    return algorithms.fedavg(task, STEP), task, data


def model(algorithm: Algorithm, task: Any, data: Any, rounds: int = 1, **options: Any) -> np.ndarray:
    return np.asarray(play.play(task, algorithm, data, rounds, **options).state.server.params.trainable["w"])


# Clipping


def test_clipped_rounds_are_those_of_a_loop():
    """u_i = lr (w - c_i), shortened to 1 where it is longer; a center that is reached sends zeros."""
    algorithm, task, data = fedavg(CENTERS, sizes=SIZES)
    w = np.zeros(2)
    for rounds in range(1, 4):
        uploads = [LR * (w - c) for c in CENTERS]
        lengths = [np.sqrt(np.sum(u**2)) for u in uploads]
        shortened = [u if length <= 1 else u / length for u, length in zip(uploads, lengths, strict=True)]
        w = w - np.average(shortened, axis=0, weights=SIZES)
        np.testing.assert_allclose(model(clipped(algorithm, 1.0), task, data, rounds), w, rtol=1e-12)


def test_all_that_is_trained_is_one_vector_and_statistics_none_of_it():
    """(3, 4) of two leaves has length 5; statistics of 900 neither count nor shrink, nor does a whole number."""
    task, data = quadratics.problem(w=[0.0])
    upload = (jnp.asarray(7), Params({"a": jnp.asarray(3.0), "b": jnp.asarray([4.0])}, {"mean": jnp.asarray(900.0)}))
    algorithm = algorithms.fedavg(task, STEP)._replace(client_update=lambda *args: Reply(upload, ()))
    sent = clipped(algorithm, 1.0).client_update((), (), data.client(0), jax.random.key(0)).upload
    np.testing.assert_allclose(np.hstack(jax.tree.leaves(sent)), [7, 0.6, 0.8, 900.0], rtol=1e-12)


# Noise


@pytest.mark.parametrize(("at", "std"), [("server", 1 / 3), ("client", 1 / np.sqrt(3))])
def test_noise_has_the_deviation_that_it_should(at: Any, std: float):
    """Three clients at their center 0: what moves the model is noise, 3000 numbers of std multiplier clip on the sum.

    In the second round they pull back by `lr w_1`, and the noise is another one: the correlation of both moves.
    """
    algorithm, task, data = fedavg(np.zeros((3, 3000)))
    noisy = reduced_by(noised(algorithm, 0.005, 200.0, at=at), uniform(mean))
    moved = model(noisy, task, data)
    assert abs(np.std(moved) / std - 1) < 5 / np.sqrt(2 * 3000)
    assert abs(np.mean(moved)) < 5 * std / np.sqrt(3000)
    again = model(noisy, task, data, 2) - moved
    assert abs(np.corrcoef(moved, again)[0, 1] + LR / np.sqrt(1 + LR**2)) < 0.1


def test_noise_counts_those_who_are_heard_and_spares_statistics():
    """Two of three clients in a round: the sum has std 1, so the mean has a half."""
    algorithm, task, data = fedavg(np.zeros((3, 3000)))
    moved = model(noised(algorithm, 1.0, 1.0), task, data, cohort=2)
    assert abs(np.std(moved) / 0.5 - 1) < 5 / np.sqrt(2 * 3000)


def test_noise_at_the_server_weighs_clients_equally():
    algorithm, task, data = fedavg([0.0, 8.0], sizes=[1, 3])
    np.testing.assert_allclose(model(noised(algorithm, 0.0, 100.0), task, data), LR * 4, rtol=1e-12)


# Attacks

HONEST = np.array([1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0])


@pytest.mark.parametrize(
    ("reduction", "end"),
    [(median, 2.5), (trimmed(0.3), None), (krum(2), None), (uniform(geometric_median(steps=100)), None)],
    ids=["median", "trimmed", "krum", "geometric median"],
)
def test_robust_reductions_stay_with_the_honest_where_the_mean_leaves(reduction: Reduce, end: float | None):
    """Seven honest clients at 1 to 6; two, at 0 and at 100, flip the sign and send ten times as much.

    The mean moves by `lr/9 (7 (w - mean) - 10 w - 10 (w - 100))`, which grows without end. Between 1 and 6 the two are
    the outermost values, one on each side: the median is the honest one's, 2.5, and all others stay among the honest.
    """
    centers = np.array([*HONEST, 0.0, 100.0])
    algorithm, task, data = fedavg(centers)
    bad = attacked(algorithm, lambda id: id >= 7, wrappers.sign_flip(10.0))
    step = LR / 9 * np.array([7, -20])
    w = 0.0
    for _ in range(40):
        w = w - step[0] * (w - HONEST.mean()) - step[1] * (w - 50.0)
    np.testing.assert_allclose(model(bad, task, data, 40), w, rtol=1e-9)
    assert abs(w) > 1e3
    reached = model(reduced_by(bad, reduction), task, data, 200)
    assert HONEST.min() <= reached <= HONEST.max()
    if end is not None:
        np.testing.assert_allclose(reached, end, atol=1e-6)


@pytest.mark.parametrize("kind", ["alie", "inner_product"])
def test_those_who_collude_send_what_the_paper_says_of_the_uploads_of_the_round(kind: str):
    """A loop in NumPy: of each cohort the attackers in it (or the honest) make one upload, which each of them sends."""
    centers = np.random.default_rng(1).normal(3.0, 2.0, (7, 2))
    algorithm, task, data = fedavg(centers)
    collusion = {"alie": wrappers.alie(0.8), "inner_product": wrappers.inner_product(0.4)}[kind]
    bad = colluding(algorithm, lambda id: id >= 4, collusion)
    played = play.play(task, bad, data, 6, cohort=5)
    w = np.zeros(2)
    for ids in map(np.asarray, played.cohorts):
        uploads, attack = LR * (w - centers[ids]), ids >= 4
        theirs = uploads[attack]
        sent = theirs.mean(0) - 0.8 * theirs.std(0) if kind == "alie" else -0.4 * uploads[~attack].mean(0)
        w = w - np.where(attack[:, None], sent, uploads).mean(0)
    np.testing.assert_allclose(played.state.server.params.trainable["w"], w, rtol=1e-9)


def test_attackers_do_not_see_those_who_are_not_heard():
    """Of the attackers at 1, 3 and 90 and the honest at 5 and 70 those of weight 0 count for nothing."""
    attacks, uploads = jnp.array([True, True, True, False, False]), jnp.array([1.0, 3.0, 90.0, 5.0, 70.0])
    weights = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0])
    algorithm, _, _ = fedavg(np.zeros(5))
    for collusion, sent in ((wrappers.alie(1.0), 1.0), (wrappers.inner_product(2.0), -10.0)):
        reduce = colluding(algorithm, lambda id: id < 3, collusion).reduce
        np.testing.assert_allclose(reduce.lower((attacks, uploads), weights), (2 * sent + 5) / 3)


def test_attackers_are_the_same_in_every_round_and_send_what_they_should():
    """Of clients at the same center one in four is replaced by noise of std 2, three send honest uploads."""
    algorithm, task, data = fedavg(np.full((4, 3000), 8.0))
    bad = attacked(algorithm, wrappers.some(4, 0.25, seed=5), wrappers.gaussian(2.0))
    moved = model(bad, task, data)
    np.testing.assert_allclose(np.mean(moved), 3, atol=5 * 0.5 / np.sqrt(3000))
    assert abs(np.std(moved) / 0.5 - 1) < 5 / np.sqrt(2 * 3000)


def test_a_scaled_upload_takes_the_place_of_the_model():
    """With `N / lr` times its upload, an attacker among clients at the mean puts its own center there."""
    algorithm, task, data = fedavg([0.0, 0.0, 0.0, 5.0])
    bad = attacked(algorithm, lambda id: id == 3, wrappers.scaling(4 / LR))
    np.testing.assert_allclose(model(bad, task, data), 5.0, rtol=1e-12)


# Compression

COMPRESSORS = {"top_k": wrappers.top_k(0.3), "random_k": wrappers.random_k(0.3), "sign": wrappers.sign()}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_was_sent_and_what_is_owed_is_what_was_learned(name: str):
    """One client: sum of u = w_0 - w_T + e_T. A linear loss has u = lr g in every round, so that sum is T lr g."""
    gradient = np.random.default_rng(0).normal(size=10)
    task, data = quadratics.problem(w=[np.zeros(10)])

    def loss(params: Params, batch: Any, key: Any) -> Any:
        return jnp.sum(params.trainable["w"] * gradient), params.stats

    task = task._replace(loss=loss)
    algorithm = compressed(algorithms.fedavg(task, STEP), COMPRESSORS[name])
    for rounds in (1, 7):
        run = play.play(task, algorithm, data, rounds)
        owed = run.state.clients.more.trainable["w"][0]
        sent = -run.state.server.params.trainable["w"]
        np.testing.assert_allclose(sent + owed, rounds * LR * gradient, rtol=0, atol=1e-13)
        assert np.any(np.abs(owed) > 1e-3)
    if name != "sign":
        first = play.play(task, algorithm, data, 1).state.server.params.trainable["w"]
        assert np.sum(first != 0) == 3


def test_compressors_are_loops_over_numbers():
    """The largest three of ten; the mean size with each one's sign, in bits and bytes."""
    leaf = np.random.default_rng(0).normal(size=(2, 5))
    largest = np.sort(np.abs(leaf).ravel())[-3:]
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        wrappers.top_k(0.3).through(jnp.asarray(leaf), key), np.where(np.abs(leaf) >= largest[0], leaf, 0)
    )
    np.testing.assert_allclose(
        wrappers.sign().through(jnp.asarray(leaf), key), np.sign(leaf) * np.abs(leaf).mean(), rtol=1e-14
    )
    bits = {name: each.bits(1000, 32) for name, each in COMPRESSORS.items()}
    assert bits == {"top_k": 300 * 64, "random_k": 300 * 32 + 32, "sign": 1032}
    assert wrappers.top_k(0.9).bits(1000, 32) == 32_000
    assert wrappers.quantized(4).bits(1000, 32) == 4032


def test_quantized_numbers_are_levels_and_right_on_average():
    """Levels of ||u|| / 3 with 3 bits, the two next to each number; 2000 draws."""
    leaf = np.array([3.0, -4.0, 0.5, 0.0])
    draws = jax.vmap(lambda key: wrappers.quantized(3).through(jnp.asarray(leaf), key))
    made = np.asarray(draws(jax.random.split(jax.random.key(0), 2000)))
    level = np.linalg.norm(leaf) / 3
    np.testing.assert_allclose(made / level, np.round(made / level), atol=1e-12)
    assert np.all(np.abs(made - leaf) < level)
    np.testing.assert_allclose(made.mean(axis=0), leaf, atol=5 * level / 2 / np.sqrt(2000))


def test_clients_who_share_a_part_owe_a_part():
    """FedPer sends the body alone: the head, which trains to its center, is owed to nobody."""
    task, data = quadratics.problem(body=[[0.0, 3.0], [8.0, 1.0]], head=[1.0, 5.0])
    algorithm = compressed(algorithms.fedper(task, STEP, masks.named("head")), wrappers.top_k(0.5))
    run = play.play(task, algorithm, data, 60)
    assert run.state.clients.more.trainable["head"] is None
    np.testing.assert_allclose(run.state.clients.client.trainable["head"], [1, 5], atol=1e-9)


MISSPELLED: Any = "cleint"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a: compressed(compressed(a, wrappers.sign()), wrappers.sign()), "compress it once"),
        (lambda a: compressed(a, wrappers.quantized(), feedback=True), "leave feedback out"),
        (lambda a: clipped(a, 0.0), "norm=0.0: it must be a number above 0"),
        (lambda a: noised(a, -1.0, 1.0), "multiplier=-1.0: it must be a number of at least 0"),
        (lambda a: noised(a, 1.0, 1.0, at=MISSPELLED), "did you mean 'client'"),
        (
            lambda a: attacked(a, wrappers.some(4, 1.5), wrappers.scaling()),
            "share=1.5: it must be a number from 0 to 1",
        ),
        (lambda a: reduced_by(a, MISSPELLED), "it must be a reduction, such as pfl.reduce.mean"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        make(fedavg([0.0])[0])
