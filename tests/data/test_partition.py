"""Every partitioner: each example once, sizes as asked, one seed one partition, and an end for every input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pfljax.data import Dataset, Partitioner, from_arrays, load
from pfljax.data import partition as p

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def dataset(y: Any, groups: Any = None) -> Dataset:
    y = np.asarray(y, np.int32)
    return Dataset("toy", np.zeros((len(y), 1), np.uint8), y, None, groups)


def deal(partitioner: Partitioner, data: Dataset, seed: int = 0) -> list[np.ndarray]:
    return list(partitioner(data, np.random.Generator(np.random.PCG64(seed))))


def counts(parts: list[np.ndarray], data: Dataset) -> np.ndarray:
    return np.stack([np.bincount(data.y[rows], minlength=data.y.max() + 1) for rows in parts])


MAKERS: dict[str, Callable[[int, float], Partitioner]] = {
    "iid": lambda n, a: p.iid(n),
    "shards": lambda n, a: p.shards(n, 2),
    "classes_per_client": lambda n, a: p.classes_per_client(n, 2, uneven=True),
    "dirichlet capped": lambda n, a: p.dirichlet(n, a, max_tries=50),
    "dirichlet raw": lambda n, a: p.dirichlet(n, a, variant="raw"),
    "dirichlet balanced": lambda n, a: p.dirichlet(n, a, variant="balanced"),
    "dirichlet_client": p.dirichlet_client,
    "dirichlet_client global": lambda n, a: p.dirichlet_client(n, a, prior="global"),
    "power_law": lambda n, a: p.power_law(n, min(a, 100)),
    "log_normal": lambda n, a: p.log_normal(n, min(a, 100)),
    "dirichlet_sizes": p.dirichlet_sizes,
    "similar": lambda n, a: p.similar(n, min(a, 1)),
    "label_groups": lambda n, a: p.label_groups(n, 2, a),
    "natural": lambda n, a: p.natural(),
}


@pytest.mark.parametrize("name", MAKERS)
@quick
@given(
    y=st.lists(st.integers(0, 6), max_size=120),
    clients=st.integers(1, 12),
    alpha=st.one_of(st.floats(1e-300, 1e9), st.sampled_from([5e-324, 1e-3, 0.1, 1.0, 100.0])),
    seed=st.integers(0, 2**32),
)
def test_each_example_once_or_one_clear_error(name: str, y: list[int], clients: int, alpha: float, seed: int) -> None:
    """Disjoint, union = all, as many parts as clients, deterministic; whatever the labels are."""
    data = dataset(y, np.arange(len(y)) % clients if len(y) >= clients else None)
    partitioner = MAKERS[name](clients, alpha)
    try:
        parts = deal(partitioner, data, seed)
    except ValueError:
        return
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(y)))
    again = deal(partitioner, data, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "natural"])
def test_seeds_differ(name: str) -> None:
    data, partitioner = dataset(np.arange(200) % 5), MAKERS[name](5, 1.0)
    first, second = deal(partitioner, data, 0), deal(partitioner, data, 1)
    assert any(sorted(a) != sorted(b) for a, b in zip(first, second, strict=True))


ABSURD: dict[str, Callable[[], Partitioner]] = {
    "no clients": lambda: p.iid(0),
    "negative": lambda: p.shards(-3),
    "a fraction": lambda: p.iid(2.5),  # type: ignore[arg-type]
    "a Boolean": lambda: p.iid(True),
    "no shards": lambda: p.shards(5, 0),
    "more clients than examples": lambda: p.iid(10**12),
    "more shards than examples": lambda: p.shards(10**6, 10**6),
    "more raw clients than examples": lambda: p.dirichlet(10**12, 1.0, variant="raw"),
    "more balanced clients than examples": lambda: p.dirichlet(10**12, 1.0, variant="balanced"),
    "more clients than examples by law": lambda: p.power_law(10**12),
    "more classes than there are": lambda: p.classes_per_client(5, 6),
    "a fair share does not exist": lambda: p.classes_per_client(3, 2),
    "classes left over": lambda: p.classes_per_client(2, 2, uneven=True),
    "many holders": lambda: p.classes_per_client(10**9, 5),
    "alpha 0": lambda: p.dirichlet(5, 0.0),
    "alpha below 0": lambda: p.dirichlet_client(5, -1.0),
    "alpha NaN": lambda: p.dirichlet(5, float("nan")),
    "alpha infinite": lambda: p.dirichlet(5, float("inf")),
    "exponent NaN": lambda: p.power_law(5, float("nan")),
    "sigma infinite": lambda: p.log_normal(5, float("inf")),
    "sizes too large": lambda: p.iid(2, [99, 99]),
    "sizes of others": lambda: p.dirichlet_client(3, 1.0, [1, 2]),
    "sizes below 0": lambda: p.dirichlet_client(2, 1.0, [-1, 2]),
    "out of reach": lambda: p.dirichlet(50, 1e-3, min_size=2, max_tries=20),
    "more than there is": lambda: p.dirichlet(5, 1.0, min_size=21),
    "no tries": lambda: p.dirichlet(5, 1.0, max_tries=0),
    "unknown variant": lambda: p.dirichlet(5, 1.0, variant="capped!"),  # type: ignore[arg-type]
    "unknown prior": lambda: p.dirichlet_client(5, 1.0, prior="flat"),  # type: ignore[arg-type]
    "no groups": p.natural,
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_arguments_end_in_one_sentence(case: str) -> None:
    with pytest.raises(ValueError, match=r":|use|give"):
        deal(ABSURD[case](), dataset(np.arange(100) % 5))


@pytest.mark.parametrize("name", ["shards", "dirichlet capped", "dirichlet_client", "classes_per_client"])
def test_targets_are_not_classes(name: str) -> None:
    data = Dataset("reals", np.zeros((9, 1)), np.linspace(0, 1, 9))
    with pytest.raises(ValueError, match="one class for each example"):
        deal(MAKERS[name](3, 1.0), data)


def test_failure_of_dirichlet_says_what_to_change() -> None:
    with pytest.raises(ValueError, match="larger alpha, fewer clients") as error:
        deal(p.dirichlet(20, 1e-4, min_size=10, max_tries=10), dataset(np.arange(400) % 10))
    assert "10 draws" in str(error.value)


@quick
@given(
    sizes=st.lists(st.integers(1, 400), min_size=2, max_size=12),
    clients=st.integers(1, 20),
    alpha=st.sampled_from([1e-8, 1e-3, 0.1, 10.0]),
    seed=st.integers(0, 999),
)
def test_equal_sizes(sizes: list[int], clients: int, alpha: float, seed: int) -> None:
    """IID, `dirichlet_client` and balanced Dirichlet give floor or ceil of T / N."""
    data = dataset(np.repeat(np.arange(len(sizes)), sizes))
    clients, examples = min(clients, len(data)), len(data)
    balanced = p.dirichlet(clients, alpha, variant="balanced")
    for partitioner in (p.iid(clients), p.dirichlet_client(clients, alpha), balanced):
        found = {len(rows) for rows in deal(partitioner, data, seed)}
        assert found <= {examples // clients, -(-examples // clients)}


def test_equal_sizes_where_scaling_does_not_converge() -> None:
    """Almost all of each class falls to one client, and 29 clients want equal sizes."""
    data = dataset(np.repeat(np.arange(6), 100 + 10 * np.arange(6)))
    for seed in range(12):
        sizes = {len(rows) for rows in deal(p.dirichlet(29, 1e-8, variant="balanced"), data, seed)}
        assert sizes == {750 // 29, 750 // 29 + 1}


def test_given_sizes() -> None:
    data = dataset(np.arange(60) % 3)
    for partitioner in (p.iid(3, [5, 0, 20]), p.dirichlet_client(3, 0.2, [5, 0, 20])):
        parts = deal(partitioner, data)
        assert [len(rows) for rows in parts] == [5, 0, 20]
        assert len(np.unique(np.concatenate(parts))) == 25


def test_fedper_table() -> None:
    """FedPer on CIFAR-10 with 10 clients: k = 4 gives 4 holders a class with 1250 images, k = 8 gives 8 with 625."""
    data = dataset(np.repeat(np.arange(10), 5000))
    for k, share in ((4, 1250), (8, 625)):
        held = counts(deal(p.classes_per_client(10, k), data), data)
        assert set(held.ravel()) == {0, share}
        assert ((held > 0).sum(1) == k).all()
        assert ((held > 0).sum(0) == k).all()


def test_classes_per_client_breaks_the_windows_up() -> None:
    """20 clients with 2 of 10 classes: walking in order would repeat each of 5 pairs 4 times."""
    data = dataset(np.repeat(np.arange(10), 40))
    held = counts(deal(p.classes_per_client(20, 2), data), data) > 0
    assert len({tuple(row) for row in held}) > 8


def test_uneven_holders_differ_by_one() -> None:
    data = dataset(np.repeat(np.arange(10), 60))
    held = counts(deal(p.classes_per_client(7, 3, uneven=True), data), data) > 0
    assert (held.sum(1) == 3).all()
    assert set(held.sum(0)) == {2, 3}


def test_shards_that_align_give_at_most_so_many_labels() -> None:
    data = dataset(np.repeat(np.arange(10), 60))
    held = counts(deal(p.shards(100, 2), data), data)
    assert (held.sum(1) == 6).all()
    assert (held > 0).sum(1).max() == 2
    assert set(held.ravel()) == {0, 3, 6}


def test_pflib_setting_on_digits() -> None:
    """20 clients, alpha 0.1: everybody has min(40, T / N / 2), and labels are few."""
    data = load("digits")
    held = counts(deal(p.dirichlet(20, 0.1), data), data)
    assert held.sum(1).min() >= 40
    assert (held > 0).sum(1).mean() < 6


@pytest.mark.parametrize("variant", ["raw", "balanced", "capped"])
def test_dirichlet_moments(variant: Any) -> None:
    """A share of Dir(alpha 1_N) has mean 1/N; for raw also variance (1/N)(1 - 1/N) / (alpha N + 1)."""
    data, clients, alpha = dataset(np.repeat(np.arange(10), 1000)), 5, 0.5
    draws = [counts(deal(p.dirichlet(clients, alpha, variant=variant, min_size=1), data, s), data) for s in range(60)]
    shares = np.stack(draws) / 1000
    assert shares.mean((0, 2)) == pytest.approx(0.2, abs=0.04)
    if variant == "raw":
        assert shares.var() == pytest.approx(0.2 * 0.8 / (alpha * clients + 1), rel=0.1)


def test_prior_sets_the_total_concentration() -> None:
    """E sum_y q_y^2 = (1 + a) / (1 + a C) with concentration `a` on each of C labels: a = alpha, or alpha / C."""
    data = dataset(np.repeat(np.arange(10), 20_000))
    for prior, a in (("uniform", 1.0), ("global", 0.1)):
        partitioner = p.dirichlet_client(400, 1.0, [100] * 400, prior=prior)  # type: ignore[arg-type]
        q = counts(deal(partitioner, data), data) / 100
        unbiased = ((q**2).sum(1) * 100 - 1) / 99  # E of the sample's sum of squares is (1 + 99 sum q^2) / 100
        assert unbiased.mean() == pytest.approx((1 + a) / (1 + 10 * a), rel=0.08)


def test_power_law_ratios() -> None:
    sizes = np.sort([len(rows) for rows in deal(p.power_law(4, 1.0, min_size=1), dataset(np.zeros(25_004)))])[::-1]
    assert sizes.tolist() == [12_001, 6_001, 4_001, 3_001]  # 25,000 in proportion 1 : 1/2 : 1/3 : 1/4, plus 1 each


def test_log_normal_spread() -> None:
    sizes = np.array([len(rows) for rows in deal(p.log_normal(2000, 0.5, min_size=1), dataset(np.zeros(10**6)))])
    assert sizes.min() >= 1
    assert np.log(sizes - 1 + 1e-9).std() == pytest.approx(0.5, rel=0.05)


def test_natural() -> None:
    data = dataset(np.zeros(7), np.array(["c", "a", "a", "b", "c", "a", "d"]))
    assert [rows.tolist() for rows in deal(p.natural(), data)] == [[1, 2, 5], [3], [0, 4], [6]]
    assert [rows.tolist() for rows in deal(p.natural(min_size=2), data)] == [[1, 2, 5], [0, 4]]
    chosen = [rows.tolist() for rows in deal(p.natural(2), data)]
    assert len(chosen) == 2
    assert all(rows in [[1, 2, 5], [3], [0, 4], [6]] for rows in chosen)
    with pytest.raises(ValueError, match="2 groups of at least 2 examples, 3 are wanted"):
        deal(p.natural(3, min_size=2), data)


SHARP: dict[str, Callable[[int, float], Partitioner]] = {
    "raw": lambda n, a: p.dirichlet(n, a, variant="raw"),
    "capped": lambda n, a: p.dirichlet(n, a, min_size=0),
    "balanced": lambda n, a: p.dirichlet(n, a, variant="balanced"),
    "client": p.dirichlet_client,
    "client global": lambda n, a: p.dirichlet_client(n, a, prior="global"),
}


@pytest.mark.parametrize("name", SHARP)
@quick
@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=8),
    clients=st.integers(1, 12),
    alpha=st.sampled_from([5e-324, 1e-300, 1e-12, 1e-6]),
    seed=st.integers(0, 999),
)
def test_the_limit_of_small_alpha(name: str, sizes: list[int], clients: int, alpha: float, seed: int) -> None:
    """Shares are 0 or 1: a class goes to one client as far as it may, so at most C + N - 1 pairs are not empty.

    Without sizes to keep, `raw` and `capped` give every class whole to one client.
    """
    data = dataset(np.repeat(np.arange(len(sizes)), sizes))
    held = counts(deal(SHARP[name](min(clients, len(data)), alpha), data, seed), data)
    assert held.sum(0).tolist() == sizes
    most = len(sizes) if name in ("raw", "capped") else len(sizes) + len(held) - 1
    assert (held > 0).sum() <= most


@pytest.mark.parametrize("name", SHARP)
def test_smaller_alpha_means_fewer_labels(name: str) -> None:
    """On ten equal classes and twenty clients, through the values where shares underflow one after the other."""
    data = dataset(np.arange(2000) % 10)
    labels = [
        np.mean([(counts(deal(SHARP[name](20, alpha), data, seed), data) > 0).sum(1).mean() for seed in range(8)])
        for alpha in (1.0, 0.1, 0.03, 0.01, 1e-3, 1e-6, 1e-12)
    ]
    assert all(after <= before + 0.1 for before, after in itertools.pairwise(labels)), labels


@pytest.mark.parametrize("name", SHARP)
def test_nobody_is_preferred_at_the_limit(name: str) -> None:
    """The first class falls to each of 4 clients equally often."""
    data = dataset(np.arange(80) % 4)
    firsts = [counts(deal(SHARP[name](4, 1e-12), data, seed), data)[:, 0].argmax() for seed in range(400)]
    assert np.bincount(firsts, minlength=4) / 400 == pytest.approx(0.25, abs=0.09)


@pytest.mark.parametrize(
    "partitioner",
    [
        *(make(1, 0.5) for name, make in MAKERS.items() if name != "classes_per_client"),
        *(p.iid(60), p.power_law(60, 3.0, min_size=1), p.log_normal(60, 9.0, min_size=1), p.dirichlet_client(60, 0.1)),
        *(p.power_law(20, 2.0, min_size=3), p.log_normal(20, 2.0, min_size=3), p.shards(60, 1), p.shards(4, 15)),
        *(p.classes_per_client(4, 4), p.classes_per_client(4, 1), p.classes_per_client(60, 1)),
        *(p.dirichlet(60, 0.1, variant="balanced"), p.dirichlet(60, 1e-9, variant="balanced")),
        p.natural(60),
    ],
)
def test_the_ends_of_the_ranges(partitioner: Partitioner) -> None:
    """One client, as many clients as examples, all to the minimum, one class or all classes each."""
    data = dataset(np.arange(60) % 4, np.arange(60))
    assert sorted(np.concatenate(deal(partitioner, data)).tolist()) == list(range(60))


@quick
@given(order=st.permutations(range(30)), name=st.sampled_from(sorted(MAKERS)))
def test_partitions_do_not_depend_on_the_order(order: list[int], name: str) -> None:
    """The same examples in another order: the same clients hold them, by rows as they were given."""
    x, y = np.arange(30)[:, None], np.arange(30) % 3
    one, other = (
        from_arrays(x[rows], y[rows], groups=y[rows], name="toy") for rows in (np.arange(30), np.asarray(order))
    )
    partitioner = MAKERS[name](3, 0.5)
    held = [[data.x[rows, 0].tolist() for rows in deal(partitioner, data)] for data in (one, other)]
    assert held[0] == held[1]


def test_a_mixture_of_iid_and_sorted_examples() -> None:
    data = dataset(np.repeat(np.arange(10), 100))
    apart = counts(deal(p.similar(10, 0.0), data), data)
    np.testing.assert_array_equal(np.sort(apart, axis=1)[:, -1], 100)
    half = counts(deal(p.similar(10, 0.5), data), data)
    assert ((half > 35).sum(axis=1) <= 2).all()
    assert half.min() >= 0
    assert (half > 0).mean() > 0.9
    np.testing.assert_array_equal(half.sum(axis=1), 100)
    assert counts(deal(p.similar(10, 1.0), data), data).max() < 30


def test_clients_are_mixtures_of_groups_of_labels() -> None:
    """Classes of one group have the same shares at every client, up to chance; groups differ."""
    data = dataset(np.repeat(np.arange(6), 2000))
    found = counts(deal(p.label_groups(5, 2, 0.3), data), data) / 2000
    kinds = np.unique(np.round(found.T, 1), axis=0)
    assert len(kinds) == 2
    np.testing.assert_allclose(found.sum(axis=0), 1)


def test_domains_are_cut_into_clients() -> None:
    domain = np.repeat(["a", "b", "c"], 30)
    data = dataset(np.zeros(90, int), domain)
    parts = deal(p.domains(3), data)
    assert [len(rows) for rows in parts] == [10] * 9
    assert [set(domain[rows].tolist()) for rows in parts] == [{name} for name in "aaabbbccc"]
    with pytest.raises(ValueError, match="at most as many"):
        deal(p.domains(31), data)


def test_dirichlet_sizes_have_the_moments_of_shares() -> None:
    """`Var q_i = (N - 1) / (N^2 (N alpha + 1))`."""
    data = dataset(np.zeros(10_000, int))
    sizes = np.stack([[len(rows) for rows in deal(p.dirichlet_sizes(5, 2.0, min_size=1), data, s)] for s in range(300)])
    np.testing.assert_allclose(sizes.sum(axis=1), 10_000)
    np.testing.assert_allclose((sizes / 10_000).var(axis=0).mean(), 4 / (25 * 11), rtol=0.1)
