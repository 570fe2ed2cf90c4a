"""Advice, on federations that were made to differ in one way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize
from scipy.special import logsumexp

from pfljax.data import FederatedData, federate, from_arrays, from_clients, probes, shifted
from pfljax.data.advice import advise
from pfljax.data.heterogeneity import label_skew
from pfljax.data.partition import classes_per_client, iid, power_law


def blobs(partitioner: Any, classes: int = 4, spread: float = 1.4, **options: Any) -> FederatedData:
    """Classes around the corners of a square, which overlap."""
    draw, examples = np.random.default_rng(0), 1200
    y = np.arange(examples) % classes
    angle = 2 * np.pi * y / classes + 0.3
    x = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + spread * draw.normal(size=(examples, 2))
    return federate(from_arrays(x.astype(np.float32), y), partitioner, **options)


TWELVE, EIGHT = blobs(iid(12)), blobs(iid(10), classes=8, spread=0.3)
CASES: dict[str, tuple[FederatedData, str, str]] = {
    "nothing": (TWELVE, "shared", "fedavg"),
    "labels": (blobs(classes_per_client(12, 2)), "priors", "ditto"),
    "groups that are known": (shifted(TWELVE, "roll", [0, 1]), "groups", "ifca"),
    "groups that are not": (shifted(TWELVE, "roll", np.arange(12) % 2 * 2, spread="each"), "groups", "ifca"),
    "each another": (shifted(EIGHT, "permutation", np.arange(10), spread="each"), "near", "ditto"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_was_made_is_what_is_found(case: str) -> None:
    data, best, start = CASES[case]
    found = advise(data)
    assert found.best == best
    assert found.start == start
    assert start in str(found)
    for name, gain in found.gains.items():
        assert gain.low <= gain.mean <= gain.high
        np.testing.assert_allclose(gain.mean, found.scores[name] - found.scores["shared"], atol=1e-12)


def test_the_common_probe_is_the_least_squares_of_all() -> None:
    """Real targets of one line: explained to the noise; of opposite lines: only by models of their own."""
    draw, clients = np.random.default_rng(1), []
    for sign in (1, 1, 1, 1, -1, -1, -1, -1):
        x = draw.normal(size=(60, 1)).astype(np.float32)
        clients.append((x, (sign * 2 * x[:, 0] + 0.1 * draw.normal(size=60)).astype(np.float32)))
    alike = from_clients([(x, 2 * x[:, 0]) for x, _ in clients], [(x, 2 * x[:, 0]) for x, _ in clients])
    assert probes.probe(alike).scores["shared"].min() > 0.999
    apart = from_clients(clients, clients)
    found = advise(apart)
    assert found.metric == "explained variance"
    assert found.scores["shared"] < 0.1
    assert found.scores["near"] > 0.95
    assert found.scores["groups"] > 0.95
    assert found.start in ("ifca", "ditto")


def test_the_logistic_probe_is_at_its_optimum() -> None:
    """SciPy's minimizer of the same loss finds no lower value."""
    draw = np.random.default_rng(2)
    x, y, start = draw.normal(size=(80, 5)), np.eye(3)[draw.integers(0, 3, 80)], draw.normal(size=(5, 3))

    def loss(flat: np.ndarray) -> float:
        w = flat.reshape(5, 3)
        return float((logsumexp(x @ w, axis=1) - (x @ w * y).sum(1)).sum() + np.square(w - start).sum())

    found = probes._logistic(x, y, start, 2.0)
    assert loss(found.ravel()) <= optimize.minimize(loss, start.ravel()).fun + 1e-4


def test_few_clients_are_a_guess_and_uneven_sizes_are_named() -> None:
    assert "guess" in advise(blobs(iid(3))).sure
    assert "Sizes differ" in str(advise(blobs(power_law(9, 1.5, min_size=12))))
    assert "Sizes differ" not in str(advise(TWELVE))


def test_chance_is_the_skew_of_labels_dealt_at_random() -> None:
    skew = label_skew(TWELVE)
    assert abs(skew["tv"] - skew["chance"]) < 0.03
    apart = label_skew(blobs(classes_per_client(12, 1, uneven=True)))
    np.testing.assert_allclose(apart["tv"], 0.75, atol=0.01)
    assert apart["chance"] < 0.1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (blobs(iid(4), test=0.0), "give test=0.25"),
        (from_clients([(({"a": [[0.0]] * 8}), [0] * 8)] * 3, [({"a": [[0.0]]}, [0])] * 3), "several arrays"),
    ],
)
def test_mistakes(data: FederatedData, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advise(data)
