"""Shifts of inputs and labels: what a level means, who has which, and what stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pfljax.data import FederatedData, federate, from_arrays, from_clients, load, shifted
from pfljax.data.partition import iid
from pfljax.data.shifts import SHIFTS
from pfljax.experiment import build, from_config_dict


def images(dtype: Any = np.float32, channels: int = 3, clients: int = 4, side: int = 6) -> FederatedData:
    draw = np.random.default_rng(1)
    x = draw.integers(0, 256, (clients, 8, side, side, channels)).astype(dtype)
    x = x / np.float32(255) if dtype == np.float32 else x
    y = np.tile(np.arange(8) % 4, (clients, 1))
    return from_clients(list(zip(x[:, :6], y[:, :6], strict=True)), list(zip(x[:, 6:], y[:, 6:], strict=True)))


def own(data: FederatedData, client: int, split: Any = "train", leaf: str = "x") -> np.ndarray:
    rows = getattr(data, split)
    start = int(rows.start[client])
    return np.asarray(getattr(data.examples, leaf))[start : start + int(rows.size[client])]


IDLE = {"contrast": 1}


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("kind", SHIFTS)
def test_level_zero_changes_nothing_and_others_only_their_own_clients(kind: str, dtype: Any) -> None:
    data, idle = images(dtype), IDLE.get(kind, 0)
    level = {"rotation": 30, "colour": 40, "blur": 0.7, "noise": 0.2, "brightness": 0.3, "label_noise": 0.7}.get(
        kind, 2
    )
    made = shifted(data, kind, [idle, idle, level, idle], spread="each")
    leaf = "y" if SHIFTS[kind].labels else "x"
    for split in ("train", "test"):
        for client in range(4):
            same = np.array_equal(own(made, client, split, leaf), own(data, client, split, leaf))
            if kind in ("colour", "contrast"):
                same = np.allclose(own(made, client, split, leaf), own(data, client, split, leaf), atol=1e-6)
            assert same == (client != 2 or (split == "test" and not SHIFTS[kind].tests))
    other = "x" if leaf == "y" else "y"
    np.testing.assert_array_equal(getattr(made.examples, other), getattr(data.examples, other))
    assert made.examples.x.dtype == data.examples.x.dtype
    assert made.fingerprint != data.fingerprint


def test_quarters_are_exact_and_other_angles_turn_the_same_way() -> None:
    data = images()
    made = shifted(data, "rotation", [0, 90, 180, 270], spread="each")
    for client in range(4):
        np.testing.assert_array_equal(own(made, client), np.rot90(own(data, client), client, axes=(1, 2)))
    near = shifted(data, "rotation", [90.0001] * 4, spread="each")
    np.testing.assert_allclose(own(near, 0), np.rot90(own(data, 0), 1, axes=(1, 2)), atol=1e-3)


def test_a_third_of_the_hues_permutes_the_channels() -> None:
    data = images()
    made = shifted(data, "colour", [120, 240, 360, 0], spread="each")
    for client, order in enumerate([[2, 0, 1], [1, 2, 0], [0, 1, 2], [0, 1, 2]]):
        np.testing.assert_allclose(own(made, client), own(data, client)[..., order], atol=1e-6)


def test_noise_brightness_and_contrast_have_the_moments_that_they_say() -> None:
    flat = from_clients([(np.full((400, 50), 0.5, np.float32), np.zeros(400, int))] * 3)
    made = shifted(flat, "noise", [0.0, 0.4], spread="ramp")
    np.testing.assert_allclose([own(made, client).std() for client in range(3)], [0, 0.2, 0.4], rtol=0.02)
    np.testing.assert_allclose([own(made, client).mean() for client in range(3)], 0.5, atol=0.02)
    data = images()
    np.testing.assert_allclose(own(shifted(data, "brightness", [0.25]), 0), own(data, 0) + 0.25, rtol=1e-6)
    np.testing.assert_allclose(own(shifted(data, "contrast", [3]), 0), 3 * own(data, 0) - 1, atol=1e-5)
    grey = images(np.uint8)
    bright = own(shifted(grey, "brightness", [0.2]), 0).astype(int)
    np.testing.assert_array_equal(bright, np.minimum(own(grey, 0).astype(int) + 51, 255))


def test_blur_keeps_the_mean_of_a_bump_and_spreads_it() -> None:
    x = np.zeros((1, 31, 31, 1), np.float32)
    x[0, 15, 15] = 1
    made = own(shifted(from_clients([(x, [0])]), "blur", [2.0]), 0)[0, ..., 0]
    place = np.arange(31) - 15
    np.testing.assert_allclose(made.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose((made.sum(0) * place**2).sum(), 4.0, rtol=0.02)


def test_a_permutation_is_the_same_wherever_its_number_is() -> None:
    data = images()
    made = shifted(data, "pixels", [5, 5, 6, 0], spread="each")
    flat, moved = own(data, 0).reshape(6, -1), own(made, 0).reshape(6, -1)
    order = [int(np.flatnonzero((flat == column[:, None]).all(0))[0]) for column in moved.T]
    assert sorted(order) == list(range(flat.shape[1]))
    np.testing.assert_array_equal(own(made, 1).reshape(6, -1), own(data, 1).reshape(6, -1)[:, order])
    np.testing.assert_array_equal(own(made, 1, "test").reshape(2, -1), own(data, 1, "test").reshape(2, -1)[:, order])
    assert not np.array_equal(own(made, 2).reshape(6, -1), own(data, 2).reshape(6, -1)[:, order])


def test_names_of_classes() -> None:
    data = from_clients([([[0.0]] * 6, [0, 1, 2, 3, 4, 5])] * 3)
    y = lambda made: [own(made, client, leaf="y").tolist() for client in range(3)]  # noqa: E731
    assert y(shifted(data, "swap", [0, 1, 3], spread="each")) == [[*range(6)], [1, 0, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4]]
    assert y(shifted(data, "roll", [0, 1, 5], spread="each")) == [[*range(6)], [1, 2, 3, 4, 5, 0], [5, 0, 1, 2, 3, 4]]
    permuted = y(shifted(data, "permutation", [0, 1, 1], spread="each"))
    assert permuted[1] == permuted[2] != permuted[0]
    assert sorted(permuted[1]) == permuted[0]


def test_noisy_labels_are_others_at_the_asked_rate_and_tests_stay_clean() -> None:
    train, test = ([[0.0]] * 4000, np.arange(4000) % 5), ([[0.0]] * 20, np.arange(20) % 5)
    data = from_clients([train] * 2, [test] * 2)
    made = shifted(data, "label_noise", [0.0, 0.3], spread="each")
    wrong = own(made, 1, leaf="y") != train[1]
    assert abs(wrong.mean() - 0.3) < 0.03
    shift = (own(made, 1, leaf="y") - train[1])[wrong] % 5
    np.testing.assert_allclose(np.bincount(shift, minlength=5) / wrong.sum(), [0, 0.25, 0.25, 0.25, 0.25], atol=0.03)
    np.testing.assert_array_equal(own(made, 1, "test", "y"), test[1])


def test_groups_are_the_truth_of_clusters() -> None:
    data = from_clients([([[0.0]], [0]), ([[0.0]], [1])] * 4, unseen=2)
    group = {spread: shifted(data, "roll", [0, 1], spread=spread).traits["group"] for spread in ("turns", "blocks")}
    assert group["turns"].tolist() == [0, 1] * 4
    assert group["blocks"].tolist() == [0] * 4 + [1] * 4
    random = shifted(data, "roll", [0, 1], spread="random", seed=3)
    assert sorted(random.traits["group"].tolist()) == group["blocks"].tolist()
    twice = shifted(random, "noise", [0.0, 1.0], spread="group")
    changed = [not np.array_equal(own(twice, client), own(random, client)) for client in range(8)]
    np.testing.assert_array_equal(changed, random.traits["group"] == 1)


def test_a_configuration_asks_for_it() -> None:
    partition = {"name": "iid", "clients": 8}
    section = {"kind": "rotation", "levels": (0, 90, 180, 270), "spread": "blocks"}
    config = from_config_dict({"data": {"partition": partition, "shift": section}})
    made = build.load_data(config.data)
    plain = federate(load("digits"), iid(8))
    by_hand = shifted(plain, "rotation", [0, 90, 180, 270], spread="blocks")
    assert made.fingerprint == by_hand.fingerprint != plain.fingerprint
    assert made.traits["group"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_whole_levels_come_through_a_configuration() -> None:
    config = from_config_dict(
        {"data": {"partition": {"name": "iid", "clients": 4}, "shift": {"kind": "roll", "levels": (0, 3)}}}
    )
    by_hand = shifted(federate(load("digits"), iid(4)), "roll", [0, 3])
    assert build.load_data(config.data).fingerprint == by_hand.fingerprint
    with pytest.raises(ValueError, match="whole number"):
        from_config_dict({"data": {"shift": {"kind": "roll", "levels": (0, 0.5)}}})


TABLE = federate(from_arrays(np.zeros((20, 3)), np.arange(20) % 2), iid(4))


@pytest.mark.parametrize(
    ("data", "kind", "levels", "options", "message"),
    [
        (TABLE, "rotate", [0], {}, "rotation"),
        (TABLE, "rotation", [0], {}, r"images \[T, height"),
        (images(channels=1), "colour", [0], {}, r"width, 3\]"),
        (TABLE, "noise", [-1.0], {}, "at least 0"),
        (TABLE, "label_noise", [1.5], {}, "from 0 to 1"),
        (TABLE, "swap", [2], {}, "1 pairs"),
        (TABLE, "swap", [0.5], {}, "whole number"),
        (TABLE, "roll", [0] * 5, {}, "at most 4"),
        (TABLE, "roll", [0], {"spread": "each"}, "one for each of 4"),
        (TABLE, "noise", [0.0], {"spread": "ramp"}, "first client and of the last"),
        (TABLE, "noise", [0.0], {"spread": "group"}, "needs the trait"),
        (shifted(TABLE, "roll", [0, 1]), "roll", [0, 1], {}, "spread='group'"),
        (from_clients([([[0.0]], [0.5])]), "roll", [0], {}, "real numbers"),
    ],
)
def test_mistakes(data: FederatedData, kind: str, levels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shifted(data, kind, levels, **options)
