"""Cohorts: sets of the right size, drawn with the right chances."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax.federation import sampling
from pfljax.learning.shuffle import permute

SIZES = jnp.array([10, 20, 30, 40, 0])
KEYS = jax.random.split(jax.random.key(0), 4000)


def draws(sampler: sampling.Sampler) -> sampling.Draw:
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda key: sampler(key, SIZES)))(KEYS))


def share(draw: sampling.Draw) -> np.ndarray:
    """How often each client was in a cohort."""
    return np.array([(draw.ids == id).any(axis=1).mean() for id in range(5)])


def test_a_cohort_is_an_ascending_set():
    for sampler in (sampling.full(), sampling.uniform(3), sampling.weighted(3), sampling.poisson(0.5, 4)):
        ids = draws(sampler).ids
        gaps = np.diff(ids, axis=1)
        assert ((gaps > 0) | (ids[:, 1:] == 5)).all()


def test_uniform_cohorts_are_uniform():
    np.testing.assert_allclose(share(draws(sampling.uniform(2))), 0.4, atol=0.04)


def test_weighted_cohorts_of_one_follow_the_sizes():
    np.testing.assert_allclose(share(draws(sampling.weighted(1))), [0.1, 0.2, 0.3, 0.4, 0.0], atol=0.04)


def test_poisson_cohorts_have_the_rate_and_the_capacity():
    draw = draws(sampling.poisson(0.3, 5))
    np.testing.assert_allclose(share(draw), 0.3, atol=0.04)
    assert (draw.replied == (draw.ids < 5)).all()
    crowded = draws(sampling.poisson(1.0, 2))
    np.testing.assert_allclose(share(crowded), 0.4, atol=0.04)


def test_dropouts_and_stragglers_have_their_rates():
    assert draws(sampling.dropouts(sampling.full(), 0.25)).replied.mean() == pytest.approx(0.75, abs=0.02)
    draw = draws(sampling.stragglers(sampling.full(), 0.5))
    assert (draw.work < 1).mean() == pytest.approx(0.5, abs=0.02)
    assert draw.work[draw.work < 1].mean() == pytest.approx(0.5, abs=0.02)
    assert draw.replied.all()
    assert draws(sampling.stragglers(sampling.full(), 0.5, partial=False)).replied.mean() == pytest.approx(
        0.5, abs=0.02
    )


def foreign(sampler: sampling.Sampler) -> sampling.Sampler:
    """The same sampler, from somebody else's hand."""

    def sample(key: jax.Array, sizes: jax.Array) -> sampling.Draw:
        return sampler(key, sizes)

    return sample


@pytest.mark.parametrize("between", [lambda sampler: sampler, foreign], ids=["nested", "behind a function"])
def test_crashes_on_crashes_are_independent(between):
    twice = sampling.dropouts(between(sampling.dropouts(sampling.full(), 0.5)), 0.5)
    assert draws(twice).replied.mean() == pytest.approx(0.25, abs=0.01)
    thrice = sampling.dropouts(between(twice), 0.5)
    assert draws(thrice).replied.mean() == pytest.approx(0.125, abs=0.01)


@pytest.mark.parametrize("between", [lambda sampler: sampler, foreign], ids=["nested", "behind a function"])
def test_slow_clients_on_slow_clients_are_independent(between):
    """A quarter is never slow; the share of a share has mean 1/4, and of always slow clients its square has 1/9."""
    draw = draws(sampling.stragglers(between(sampling.stragglers(sampling.full(), 0.5)), 0.5))
    assert (draw.work == 1).mean() == pytest.approx(0.25, abs=0.01)
    always = draws(sampling.stragglers(between(sampling.stragglers(sampling.full(), 1.0)), 1.0)).work
    assert always.mean() == pytest.approx(1 / 4, abs=0.01)
    assert (always**2).mean() == pytest.approx(1 / 9, abs=0.01)
    lost = draws(sampling.stragglers(sampling.dropouts(sampling.full(), 0.5), 0.5, partial=False))
    assert lost.replied.mean() == pytest.approx(0.25, abs=0.01)


def test_what_happens_to_a_cohort_does_not_change_who_is_drawn():
    plain = sampling.uniform(3)
    for sampler in (sampling.dropouts(plain, 0.5), sampling.stragglers(sampling.dropouts(plain, 0.5), 0.5)):
        np.testing.assert_array_equal(draws(sampler).ids, draws(plain).ids)


SHARES = [1.5, -0.1, float("nan"), True, np.True_, "0.5", None]


@pytest.mark.parametrize("rate", SHARES, ids=repr)
@pytest.mark.parametrize("make", [sampling.dropouts, sampling.stragglers, lambda _, rate: sampling.poisson(rate, 2)])
def test_a_rate_that_is_no_share_is_refused(make, rate):
    with pytest.raises(ValueError, match=r"rate.*: it must be a (finite )?number from 0 to 1"):
        make(sampling.full(), rate)


@pytest.mark.parametrize("size", [0, -3, 1.5, True, "2", None], ids=repr)
@pytest.mark.parametrize("make", [sampling.uniform, sampling.weighted, lambda size: sampling.poisson(0.5, size)])
def test_a_size_that_is_no_number_of_clients_is_refused(make, size):
    with pytest.raises(ValueError, match=r"=.*: it must be a whole number of at least 1"):
        make(size)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -2, 1, 1, 1], r"weights\[1\]=-2.0: a weight must be finite and not negative"),
        ([1, 1, np.nan, 1, 1], r"weights\[2\]=nan: a weight must be finite and not negative"),
        ([np.inf, 1, 1, 1, 1], r"weights\[0\]=inf: a weight must be finite"),
        ([0, 0, 0, 0, 0], "weights are all 0"),
        ([[1, 1]], r"weights of shape \(1, 2\): give a number for each client"),
        (1.0, r"weights of shape \(\)"),
        ("many", "weights='many': give a number for each client"),
    ],
)
def test_weights_that_are_none_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        sampling.weighted(2, weights)


def test_weights_are_as_many_as_clients():
    with pytest.raises(ValueError, match="3 weights for 5 clients: give one for each"):
        sampling.weighted(2, np.ones(3))(KEYS[0], SIZES)


def test_weights_of_ones_own_are_followed():
    draw = draws(sampling.weighted(1, [0, 1, 0, 3, 0]))
    np.testing.assert_allclose(share(draw), [0, 0.25, 0, 0.75, 0], atol=0.03)
    few = draws(sampling.weighted(3, [0, 1, 0, 3, 0]))
    np.testing.assert_array_equal(few.ids, [[1, 3, 5]] * len(KEYS))
    np.testing.assert_array_equal(few.replied, [[True, True, False]] * len(KEYS))


def test_a_cohort_larger_than_the_population_is_refused():
    with pytest.raises(ValueError, match="a cohort of 6 out of 5 clients: choose 1 to 5"):
        sampling.uniform(6)(KEYS[0], SIZES)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_a_shuffle_is_a_uniform_permutation(size: int):
    places = np.asarray(jax.jit(jax.vmap(lambda key: permute(jnp.arange(size), jnp.asarray(size), key)))(KEYS))
    assert (np.sort(places, axis=1) == np.arange(size)).all()
    counts = np.stack([np.bincount(column, minlength=size) for column in places.T])
    expected = len(KEYS) / size
    # rows and columns of the counts are fixed: chi-squared with (size - 1)^2 degrees of freedom, five deviations
    statistic = (size - 1) / size * ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert statistic <= freedom + 5 * np.sqrt(2 * freedom)


def test_three_things_have_six_equally_likely_orders():
    places = np.asarray(jax.jit(jax.vmap(lambda key: permute(jnp.arange(3), jnp.asarray(3), key)))(KEYS))
    counts = np.unique(places, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert ((counts - len(KEYS) / 6) ** 2 / (len(KEYS) / 6)).sum() < 5 + 5 * np.sqrt(10)
