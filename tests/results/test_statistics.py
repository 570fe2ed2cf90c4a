"""Statistics over clients against numbers worked out by hand, and their laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pfljax.results import statistics

SCORES = np.array([0.5, 0.6, 0.7, 0.8, 0.9])
SIZES = np.array([1, 1, 1, 1, 6])
GOLDEN = {
    "mean": 0.7,
    "std": 0.141421356237,
    "worst": 0.5,
    "best": 0.9,
    "median": 0.7,
    "jain": 0.960784313725,
    "gini": 0.114285714286,
    "entropy": 1.588786034335,
    "uniformity": 0.987168266673,
}
many = st.lists(st.floats(0.01, 1), min_size=1, max_size=30).map(np.array)


@pytest.mark.parametrize(("name", "value"), GOLDEN.items())
def test_golden(name: str, value: float) -> None:
    """Five clients, worked out by hand."""
    assert getattr(statistics, name)(SCORES) == pytest.approx(value, abs=1e-12)


def test_weighted_mean_is_the_mean_over_examples() -> None:
    """`(0.5 + 0.6 + 0.7 + 0.8 + 6 * 0.9) / 10`."""
    assert statistics.weighted_mean(SCORES, SIZES) == pytest.approx(0.8, abs=1e-12)


@pytest.mark.parametrize(("clients", "count"), [(5, 1), (10, 1), (19, 1), (20, 2), (29, 2), (100, 10)])
def test_tail_mean_takes_a_tenth_but_at_least_one(clients: int, count: int) -> None:
    """Of the scores 0, 1, 2, ... the lowest c average (c - 1) / 2."""
    scores = np.random.default_rng(0).permutation(clients).astype(float)
    assert statistics.tail_mean(scores) == (count - 1) / 2
    assert statistics.tail_mean(scores, top=True) == clients - 1 - (count - 1) / 2


@pytest.mark.parametrize(("clients", "place"), [(5, 0), (10, 1), (20, 2), (25, 2)])
def test_quantile_is_an_element(clients: int, place: int) -> None:
    """`sorted[floor(n / 10)]`."""
    assert statistics.quantile(np.arange(clients)[::-1]) == place


@pytest.mark.parametrize("clients", [1, 7, 100, 1000])
@pytest.mark.parametrize("hundredths", range(0, 101, 1))
def test_a_share_is_the_decimal_that_is_written(hundredths: int, clients: int) -> None:
    """0.29 of 100 clients are 29, although the product of the two in binary is below."""
    share, place = hundredths / 100, hundredths * clients // 100
    assert statistics.quantile(np.arange(clients), share=share) == min(place, clients - 1)
    assert statistics.tail_mean(np.arange(clients), share=share) == (max(1, place) - 1) / 2
    tops = statistics.tail_mean(np.arange(clients), share=np.float64(share), top=True)
    assert tops == clients - (max(1, place) + 1) / 2


@pytest.mark.parametrize("share", [-0.1, 1.5, np.nan])
def test_what_is_no_share_is_refused(share: float) -> None:
    for statistic in (statistics.quantile, statistics.tail_mean):
        with pytest.raises(ValueError, match=r"share=.*: it must be a (finite )?number from 0 to 1"):
            statistic(np.arange(5), share=share)


def test_better_off_is_strict() -> None:
    """Two of four clients gain, one loses, one ties."""
    scores, reference = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.4, 0.6, 0.8, 0.7])
    assert statistics.better_off(scores, reference) == 0.5
    assert statistics.tied(scores, reference) == 0.25


def test_clients_without_examples_count_for_nothing() -> None:
    """NaN on either side takes the client out of both."""
    scores = np.array([0.5, np.nan, 0.9, 0.1])
    assert statistics.mean(scores) == pytest.approx(0.5)
    assert statistics.weighted_mean(scores, np.array([1, 100, 1, 0])) == pytest.approx(0.7)
    assert statistics.better_off(scores, np.array([0.4, 0.0, np.nan, 0.2])) == 0.5
    assert statistics.summarize(scores, np.ones(4))["clients"] == 3


def test_nobody_is_nan() -> None:
    """Without a single score there is no statistic, and no warning."""
    summary = statistics.summarize(np.full(3, np.nan), np.zeros(3))
    assert summary.pop("clients") == 0
    assert np.isnan(list(summary.values())).all()


def test_arrays_must_fit() -> None:
    """A reference of other clients is refused."""
    with pytest.raises(ValueError, match="both must be"):
        statistics.better_off(np.ones(3), np.ones(4))


@given(many)
def test_equality_has_the_extreme_indices(scores: np.ndarray) -> None:
    """Jain is 1 / (1 + cv^2); equal clients have Jain 1, Gini 0, uniformity 1."""
    assert statistics.jain(scores) == pytest.approx(1 / (1 + (scores.std() / scores.mean()) ** 2))
    pairs = np.abs(scores[:, None] - scores).sum() / (2 * len(scores) ** 2 * scores.mean())
    assert statistics.gini(scores) == pytest.approx(pairs, abs=1e-9)
    equal = np.full_like(scores, scores[0])
    assert statistics.jain(equal) == pytest.approx(1)
    assert statistics.gini(equal) == pytest.approx(0, abs=1e-9)
    assert statistics.uniformity(equal) == pytest.approx(1)


@given(many)
def test_losses_mirror_scores(scores: np.ndarray) -> None:
    """Where less is better, the worst client is the one with the most."""
    up = statistics.summarize(scores, np.ones(len(scores)), scores[::-1])
    down = statistics.summarize(-scores, np.ones(len(scores)), -scores[::-1], lower_is_better=True)
    for name in ("mean", "worst", "best", "bottom_decile", "top_decile"):
        assert down[name] == pytest.approx(-up[name])
    assert down["better_off"] == up["better_off"]


def test_all_zero_has_no_indices() -> None:
    """0/0 is NaN, not a number."""
    assert np.isnan([statistics.jain(np.zeros(3)), statistics.gini(np.zeros(3)), statistics.entropy(np.zeros(3))]).all()


def test_scores_below_zero_have_no_indices() -> None:
    """Shares of a sum are of what is not negative; means and ranks are of anything."""
    scores = np.array([-0.5, 0.2, 0.9])
    summary = statistics.summarize(scores, np.ones(3))
    assert np.isnan([summary["jain"], summary["gini"], summary["uniformity"]]).all()
    assert (summary["mean"], summary["worst"]) == pytest.approx((0.2, -0.5))


def test_recovery_from_a_drift() -> None:
    """The round of the change is the first that is scored on the new concept: it is done in the next evaluation."""
    rounds, scores = (
        np.array([2, 4, 6, 8, 10]),
        np.array([[0.7, 0.9], [0.9, np.nan], [0.4, 0.6], [0.8, 0.9], [0.9, 0.9]]),
    )
    assert statistics.recovery(rounds, scores, 4) == pytest.approx((0.4, 6.0))
    assert statistics.recovery(rounds, scores, 4, share=0.9) == pytest.approx((0.4, 4.0))
    assert statistics.recovery(rounds, scores, 3) == pytest.approx((-0.1, 1.0))
    assert statistics.recovery(rounds, np.array([0.9, 0.9, 0.5, 0.6, 0.7])[:, None], 4).rounds == np.inf
    assert np.isnan([*statistics.recovery(rounds, scores, 10), *statistics.recovery(rounds, scores, 1)]).all()


def test_cosine_is_that_of_the_angle_to_equal_scores() -> None:
    scores = np.array([0.2, 0.9, 0.4, 0.7])
    angle = scores @ np.ones(4) / (np.linalg.norm(scores) * np.linalg.norm(np.ones(4)))
    assert statistics.cosine(scores) == pytest.approx(angle)
    assert statistics.variance(scores) == pytest.approx(np.mean((scores - scores.mean()) ** 2))


def test_trend_is_the_line_of_least_squares() -> None:
    """Slope, correlation and t test by the normal equations; who has no score or no trait is left out."""
    draw = np.random.default_rng(3)
    trait = draw.normal(50, 20, 12)
    scores = 0.5 + 0.004 * trait + draw.normal(0, 0.05, 12)
    given = np.append(scores, [0.1, np.nan]), np.append(trait, [np.nan, 1.0])
    line = statistics.trend(*given)
    x = (trait - trait.mean()) / trait.std()
    design = np.column_stack([np.ones(12), x])
    (level, slope), [left], *_ = np.linalg.lstsq(design, scores)
    error = np.sqrt(left / 10 / np.sum(x**2))
    assert (line.slope, line.clients) == (pytest.approx(slope), 12)
    assert level == pytest.approx(scores.mean())
    assert line.correlation == pytest.approx(np.corrcoef(trait, scores)[0, 1])
    assert line.chance == pytest.approx(2 * stats.t.sf(abs(slope / error), 10))
    assert np.isnan(statistics.trend(scores, np.full(12, 7.0)).slope)
    with pytest.raises(ValueError, match="both must be"):
        statistics.trend(scores, trait[1:])
