"""Synthetic federations, and measures of how far clients differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pfljax.data import federate, from_clients, load, partition
from pfljax.data.dataset import Dataset
from pfljax.data.heterogeneity import divergences, entropy, heterogeneity, quantity_skew
from pfljax.data.synthetic import synthetic, synthetic_v2

SIZES = [200] * 6


def least_squares_accuracy(dataset: Dataset, fit: int, score: int) -> float:
    """A linear classifier fitted on one client, scored on another."""
    assert dataset.groups is not None
    (x, y), (u, v) = ((dataset.x[dataset.groups == k], dataset.y[dataset.groups == k]) for k in (fit, score))
    x, u = (np.hstack([a, np.ones((len(a), 1))]) for a in (x, u))
    weights = np.linalg.lstsq(x, np.eye(10)[y], rcond=None)[0]
    return float((np.argmax(u @ weights, 1) == v).mean())


def test_alpha_is_inert_in_the_published_generator() -> None:
    """u_k adds the same to every logit: labels are the same for any alpha, so the whole data set is."""
    one, other = synthetic(0.0, 0.5, sizes=SIZES, clients=6), synthetic(5.0, 0.5, sizes=SIZES, clients=6)
    assert np.array_equal(one.y, other.y)
    assert np.array_equal(one.x, other.x)


def test_tau_controls_the_concepts() -> None:
    """At tau 0 a classifier of one client serves another, at tau 5 it does not."""
    options: Any = {"beta": 0.0, "clients": 2, "sizes": [4000, 4000], "dim": 10}
    same, apart = synthetic_v2(0.0, **options), synthetic_v2(5.0, **options)
    assert least_squares_accuracy(same, 0, 1) > least_squares_accuracy(same, 1, 1) - 0.25
    assert least_squares_accuracy(apart, 0, 1) < least_squares_accuracy(apart, 1, 1) - 0.35


def test_input_moments() -> None:
    """x = v + Sigma^(1/2) z with Sigma_jj = j^-1.2; the means have variance beta^2 + 1, or beta^2 in common if IID."""
    dataset = synthetic_v2(0.0, 0.0, clients=1, sizes=[20_000])
    assert dataset.x.var(0) == pytest.approx(np.arange(1, 61) ** -1.2, rel=0.06)
    many = synthetic_v2(0.0, 2.0, clients=500, sizes=[1] * 500, dim=40)
    assert many.x[:, -1].var() == pytest.approx(5 + 40**-1.2, rel=0.2)
    still = synthetic(0.0, 0.0, iid=True, clients=1, sizes=[20_000])
    assert still.x.mean(0) == pytest.approx(0, abs=0.03)
    assert abs(dataset.x.mean(0)).max() > 0.5


def test_reachable_by_name_and_seeded() -> None:
    data = load("synthetic")
    assert data.name == "synthetic_v2(0.5, 0.5)"
    federation = federate(data, partition.natural())
    assert federation.num_clients == 30
    assert np.add(federation.sizes("train"), federation.sizes("test")).min() >= 50
    assert not np.array_equal(synthetic_v2(seed=1).x[:50], data.x[:50])
    assert np.array_equal(synthetic_v2().x, data.x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: synthetic(-1.0),
        lambda: synthetic_v2(float("nan")),
        lambda: synthetic(sizes=[3]),
        lambda: synthetic_v2(clients=0),
    ],
)
def test_bad_arguments(make: Any) -> None:
    with pytest.raises(ValueError, match="at least"):
        make()


def test_golden_divergences() -> None:
    """Worked by hand for p = (.7, .2, .1) and the uniform distribution."""
    expected = {
        "tv": 0.366666666667,
        "emd": 0.733333333333,
        "kl": 0.296793736125,
        "js": 0.074806399252,
        "hellinger": 0.276009117382,
        "w1": 0.6,
    }
    p = np.array([0.7, 0.2, 0.1])
    for found in (divergences(p, np.ones(3) / 3), divergences(np.stack([p, p]), np.ones(3) / 3)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, abs=1e-12)


def test_divergences_at_the_edges() -> None:
    disjoint = divergences(np.array([1.0, 0.0]), np.array([0.0, 1.0]))
    assert [float(disjoint[k]) for k in ("tv", "emd", "kl", "hellinger", "w1")] == [1.0, 2.0, np.inf, 1.0, 1.0]
    assert float(disjoint["js"]) == pytest.approx(np.log(2))
    assert all(float(value) == 0 for value in divergences(np.ones(4) / 4, np.ones(4) / 4).values())
    assert np.exp(entropy(np.array([[0.25] * 4, [1.0, 0, 0, 0]]))) == pytest.approx([4, 1])


def test_quantity_skew() -> None:
    assert quantity_skew(np.array([5, 5, 5])) == {"cv": 0.0, "gini": 0.0}
    sizes = np.array([1, 9, 2, 4])
    pairs = np.abs(sizes[:, None] - sizes).sum() / (2 * 16 * sizes.mean())
    assert quantity_skew(sizes) == pytest.approx({"cv": sizes.std() / 4, "gini": pairs})


def test_heterogeneity_weights() -> None:
    """Two clients with one label each, 3 and 1 examples: p = (3/4, 1/4); the unseen client counts for nothing."""
    data = from_clients([([[0.0]] * 3, [0] * 3), ([[0.0]], [1]), ([[0.0]], [1])], unseen=1, num_classes=2)
    assert heterogeneity(data)["tv"] == pytest.approx(3 / 4 * 1 / 4 + 1 / 4 * 3 / 4)
    uniform = heterogeneity(data, weights="uniform")
    assert uniform["tv"] == pytest.approx(1 / 2)
    assert (uniform["labels"], uniform["entropy"], uniform["cv"], uniform["gini"]) == (1.0, 0.0, 0.5, 0.25)
