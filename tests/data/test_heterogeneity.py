"""Measures of how far clients differ, with and without their examples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from pfljax.data import FederatedData, federate, from_clients, load, shifted
from pfljax.data.heterogeneity import divergences, heterogeneity, input_skew, noised, quantity_skew
from pfljax.data.partition import dirichlet, iid


def of(*labels: list[int]) -> FederatedData:
    return from_clients([([[float(y)] for y in mine], mine) for mine in labels], num_classes=4)


DATA = of([0, 0, 1], [1, 2, 3, 3, 3], [0, 3])


def test_divergences_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    p, q = draw.dirichlet(np.ones(5)), draw.dirichlet(np.ones(5))
    found = divergences(p, q)
    np.testing.assert_allclose(found["js"], jensenshannon(p, q) ** 2)
    np.testing.assert_allclose(found["w1"], wasserstein_distance(range(5), range(5), p, q))
    np.testing.assert_allclose(found["tv"], np.abs(p - q).sum() / 2)


def test_gini_is_the_mean_difference_over_twice_the_mean() -> None:
    sizes = np.array([3.0, 5.0, 2.0, 40.0])
    pairs = np.abs(sizes[:, None] - sizes).mean()
    np.testing.assert_allclose(quantity_skew(sizes)["gini"], pairs / (2 * sizes.mean()))


def test_without_noise_nothing_is_lost() -> None:
    for name, estimate in noised(DATA, 1e12).items():
        assert estimate.truth == pytest.approx(heterogeneity(DATA)[name])
        np.testing.assert_allclose(estimate.value, estimate.truth, atol=1e-5)


def test_what_noise_adds_is_taken_off() -> None:
    """Over many releases the mean error is a small part of that of the counts as they are sent."""
    data = federate(load("digits"), dirichlet(10, 0.5))
    counts, errors, plain = data.label_counts()[:10], [], []
    for seed in range(12):
        errors.append(noised(data, 0.3, seed=seed)["tv"].error)
        sent = np.maximum(counts + np.random.default_rng(seed).laplace(scale=1 / 0.3, size=counts.shape), 0)
        share = sent / sent.sum(1, keepdims=True)
        tv = divergences(share, sent.sum(0) / sent.sum())["tv"]
        plain.append(np.average(tv, weights=sent.sum(1)) - heterogeneity(data)["tv"])
    assert np.abs(plain).mean() > 0.002
    assert abs(np.mean(errors)) < 0.02


def test_inputs_by_hand() -> None:
    """Two clients at two points: `k = exp(-|x - x'|^2 / 2)` of the standardized points -1 and 1."""
    data = from_clients([([[3.0]] * 2, [0, 0]), ([[7.0]] * 2, [0, 0])])
    np.testing.assert_allclose(input_skew(data).truth, (1 - np.exp(-2)) / 2)
    alike = from_clients([([[3.0], [7.0]], [0, 0])] * 2)
    np.testing.assert_allclose(input_skew(alike), [0, 0], atol=1e-12)


def test_sketches_come_near_as_features_grow() -> None:
    data = shifted(federate(load("digits"), iid(6)), "rotation", [0, 90])
    errors = {
        d: np.mean([abs(input_skew(data, features=d, most=300, seed=seed).error) for seed in range(8)])
        for d in (16, 256, 4096)
    }
    assert errors[16] > 2 * errors[256] > 4 * errors[4096]
    private = [input_skew(data, most=300, noise=0.02, seed=seed).error for seed in range(12)]
    assert abs(np.mean(private)) < 0.3 * input_skew(data, most=300).truth


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        (noised, {"epsilon": 0.0}, "epsilon=0.0: it must be a number above 0"),
        (noised, {"draws": 0}, "draws=0"),
        (input_skew, {"noise": -1.0}, "noise=-1.0"),
    ],
)
def test_mistakes(measure: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(DATA, **options)
