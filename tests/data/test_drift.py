"""Federations that drift: concepts, when they change, and for whom."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from pfljax import experiment
from pfljax.data import FederatedData, drift, drifting, from_arrays, from_clients
from pfljax.data.federated import federate
from pfljax.data.partition import iid


def clients(*labels: list[int], unseen: int = 0, side: int = 2, **options: Any) -> FederatedData:
    held = [(np.arange(len(y) * side**2).reshape(-1, side, side), y) for y in labels]
    return from_clients(held, unseen=unseen, num_classes=3, **options)


TWO = clients([0, 1, 2], [2, 1])


def held(data: FederatedData, round: int, split: Any = "train") -> list[list[int]]:
    """Labels of each client."""
    rows, y = getattr(data.at(round), split), np.asarray(data.examples.y)
    return [y[a : a + n].tolist() for a, n in zip(np.asarray(rows.start), np.asarray(rows.size), strict=True)]


def test_a_sudden_change() -> None:
    data = drifting([TWO, drift.relabeled(TWO, [1, 2, 0])], [5])
    assert [held(data, t) for t in (0, 4)] == [[[0, 1, 2], [2, 1]]] * 2
    assert [held(data, t) for t in (5, 9, 10**6)] == [[[1, 2, 0], [0, 2]]] * 3


def test_a_gradual_change_moves_a_window() -> None:
    """Three rounds between; the first examples go first."""
    data = drifting([clients([0] * 4), clients([1] * 8)], [10], gradual=3)
    mixed = [held(data, t)[0] for t in (9, 10, 11, 12, 13)]
    assert mixed == [[0] * 4, [0] * 3 + [1] * 2, [0] * 2 + [1] * 4, [0] + [1] * 6, [1] * 8]
    assert data.capacity == 8


def test_it_comes_again() -> None:
    """Three concepts, back to the first after 9 rounds, with one round of mixture at each change."""
    concepts = [clients([k] * 2) for k in range(3)]
    data = drifting(concepts, [2, 5, 8], gradual=1, recurring=True)
    period = [[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [1, 2], [2, 2], [2, 2], [2, 0]]
    assert [held(data, t)[0] for t in range(30)] == (period * 4)[:30]
    sudden = drifting(concepts, [2, 5, 8], recurring=True)
    assert [held(sudden, t)[0][0] for t in range(17)] == ([0] * 2 + [1] * 3 + [2] * 3) * 2 + [0]
    assert len(sudden.examples.y) == 6, "nothing is stored twice"


def test_late_clients_and_clients_that_stay() -> None:
    data = drifting([TWO, drift.relabeled(TWO, [1, 2, 0])], [5], delays=[3, 2**31 - 1])
    assert held(data, 7) == [[0, 1, 2], [2, 1]]
    assert held(data, 8) == held(data, 10**9) == [[1, 2, 0], [2, 1]]


def test_who_is_late() -> None:
    many = clients(*[[0]] * 200, unseen=20)
    late = drift.delayed(many, share=0.75, spread=3, seed=2)
    moving = late[late < 2**31 - 1]
    assert (len(late), len(moving)) == (200, 150)
    assert set(moving) == {0, 1, 2, 3}
    np.testing.assert_array_equal(late, drift.delayed(many, share=0.75, spread=3, seed=2))
    assert (late != drift.delayed(many, share=0.75, spread=3, seed=3)).any()
    assert not drift.delayed(many).any()


def test_all_splits_traits_and_public_examples() -> None:
    pair = [([[1.0]], [0]), ([[2.0]], [1])]
    first = (
        from_clients(pair, pair, pair, num_classes=2).with_traits({"age": [3, 4]}).with_public([[7.0], [8.0]], [1, 1])
    )
    data = drifting([first, drift.relabeled(first, [1, 0])], [1])
    for split in ("train", "validation", "test"):
        assert held(data, 0, split) == [[0], [1]]
        assert held(data, 1, split) == [[1], [0]]
    assert data.public is not None
    start, size = data.public
    assert data.examples.x[start : start + size].tolist() == [[7.0], [8.0]]
    assert data.examples.y[start : start + size].tolist() == [1, 1], "they stay what they were"
    assert data.traits["age"].tolist() == [3, 4]


def test_images_turn() -> None:
    image = np.arange(4).reshape(1, 2, 2)
    for turns, expected in {1: [[1, 3], [0, 2]], 2: [[3, 2], [1, 0]], 4: [[0, 1], [2, 3]]}.items():
        assert drift.rotated(from_clients([(image, [0])]), turns).examples.x[0].tolist() == expected


def test_labels_that_do_not_count_stay() -> None:
    data = from_clients([(np.ones((2, 1)), [[0, 9], [1, 0]])], num_classes=2, ignore=9)
    assert drift.relabeled(data, [1, 0]).examples.y.tolist() == [[1, 9], [0, 1]]


def test_parts_in_time() -> None:
    """Each is tested on the next, the last on what was tested before; the last of a part validate."""
    train, test = [(np.ones((n, 1)), list(range(n))) for n in (6, 4)], [(np.ones((1, 1)), [9])] * 2
    parts = drift.in_time(from_clients(train, test, num_classes=10), 2, validation=0.4)
    data = drifting(parts, [3])
    assert held(data, 0) == [[0, 1], [0, 1]]
    assert held(data, 0, "validation") == [[2], []]
    assert held(data, 0, "test") == [[3, 4, 5], [2, 3]]
    assert held(data, 3) == [[3, 4], [2, 3]]
    assert held(data, 3, "validation") == [[5], []]
    assert held(data, 3, "test") == [[9], [9]]


def test_the_fingerprint_tells_drifts_apart() -> None:
    other = drift.relabeled(TWO, [1, 2, 0])
    made = [
        drifting([TWO, other], [5]),
        drifting([TWO, other], [6]),
        drifting([TWO, other], [5], gradual=1),
        drifting([TWO, other], [5], delays=[0, 1]),
        drifting([TWO, drift.relabeled(TWO, [2, 0, 1])], [5]),
        drifting([TWO, other], [5, 9], recurring=True),
        TWO,
    ]
    assert len({data.fingerprint for data in made}) == len(made)
    assert drifting([TWO, other], [5]).fingerprint == made[0].fingerprint


def test_a_configuration_describes_it() -> None:
    """The classes move on by one, from the third round on, for half of the clients."""
    partition = {"name": "iid", "clients": 4}
    config = {"partition": partition, "drift": {"changes": [2], "share": 0.5}}
    data = experiment.load_data(experiment.from_config_dict({"data": config}).data)
    before, after = held(data, 1), held(data, 2)
    moved = [[(label + 1) % 10 for label in mine] for mine in before]
    assert sorted(now == then for now, then in zip(after, before, strict=True)) == [False, False, True, True]
    assert all(now in (then, new) for now, then, new in zip(after, before, moved, strict=True))
    turned = {"partition": partition, "drift": {"kind": "rotation", "changes": (2, 4)}}
    data = experiment.load_data(experiment.from_config_dict({"data": turned}).data)
    rows = [int(np.asarray(data.at(t).train.start)[0]) for t in (0, 4)]
    np.testing.assert_array_equal(np.rot90(data.examples.x[rows[0]], 2), data.examples.x[rows[1]])
    timed = {"partition": partition, "chronological": True, "validation": 0.2, "drift": {"kind": "time", "gradual": 2}}
    data = experiment.load_data(experiment.from_config_dict({"data": timed}).data)
    assert data.sizes("validation").all()
    assert held(data, 0, "test") == [
        mine + rest for mine, rest in zip(held(data, 12), held(data, 12, "validation"), strict=True)
    ], "the next part in time"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: drifting([TWO], []), "1 concept is no drift: give at least 2"),
        (lambda: drifting([], []), r"concepts=\[\]: give at least 2"),
        (lambda: drifting(cast(Any, TWO), [1]), "give a list of federations"),
        (lambda: drifting([TWO, TWO], [1, 2]), r"changes=\[1, 2\] of 2 concepts: give 1, the round in which each"),
        (lambda: drifting([TWO, TWO], [1], recurring=True), "give 2, the round .* and the first again"),
        (lambda: drifting([TWO, TWO], [0]), "must be .* of at least 1"),
        (lambda: drifting([TWO, TWO, TWO], [4, 6], gradual=2), "later than 2 rounds after the one before"),
        (lambda: drifting([TWO, TWO], [4], gradual=-1), "gradual=-1: it must be a whole number of at least 0"),
        (lambda: drifting([TWO, TWO], [4], delays=[1]), "give one whole number of at least 0 for each of 2 clients"),
        (lambda: drifting([TWO, TWO], [4], delays=[1, -1]), "give one whole number of at least 0"),
        (lambda: drifting([TWO, clients([0])], [4]), "concept 1 has num_clients=1, and the first has 2: give the same"),
        (lambda: drifting([TWO, clients([0], [1], side=3)], [4]), r"concept 1 has rows int64\[3, 3\]"),
        (lambda: drifting([drifting([TWO, TWO], [4]), TWO], [9]), "concept 0 drifts already"),
        (lambda: drift.relabeled(TWO, [0, 1]), "give a class from 0 to 2 for each of 3"),
        (lambda: drift.relabeled(TWO, [0, 1, 3]), "give a class from 0 to 2 for each of 3"),
        (lambda: drift.relabeled(from_clients([([[1.0]], [0.5])]), [0]), "targets are real numbers"),
        (lambda: drift.rotated(from_clients([([[1.0]], [0])]), 1), r"only square images \[T, side, side, ...\] can"),
        (lambda: drift.transformed(TWO, lambda e: e.x), r"return Examples\(x, y\)"),
        (lambda: drift.transformed(TWO, lambda e: e._replace(y=e.y + 1)), "labels lie in 1..3"),
        (lambda: drift.transformed(TWO, lambda e: type(e)(e.x[1:], e.y[1:])), "made 4 examples of 5: keep"),
        (lambda: drift.in_time(TWO, 1), "parts=1: give at least 2"),
        (lambda: drift.delayed(TWO, share=1.5), "share=1.5: it must be a number from 0 to 1"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_kept_for_an_example_does_not_drift() -> None:
    config = {"data": {"drift": {"changes": [3]}}, "algorithm": {"name": "mocha"}}
    with pytest.raises(ValueError, match="mocha keeps a number for each example, and those of digits"):
        experiment.prepare(experiment.from_config_dict(config))


def test_parts_in_time_make_their_own_validation() -> None:
    dealt = federate(from_arrays(np.ones((20, 1)), [0, 1] * 10), iid(2), validation=0.2, chronological=True)
    with pytest.raises(ValueError, match="has validation examples: deal it without, and give in_time their share"):
        drift.in_time(dealt, 2)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"changes": [4, 2]}, r"config.data.drift.changes=\[4, 2\] with gradual=0"),
        ({"changes": [4], "recurring": True}, "config.data.drift.1 concept is no drift"),
        ({"kind": "time"}, "config.data.drift.kind='time' needs examples in time: set chronological=True"),
        ({"kind": "labls"}, "did you mean 'labels'"),
    ],
)
def test_mistakes_in_a_configuration(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment.from_config_dict({"data": {"drift": section}})
