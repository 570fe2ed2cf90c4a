"""Groups of clients by context."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import experiment
from pfljax.data import FederatedData, drifting, featurized, from_clients, grouped, num_groups


def clients(count: int, unseen: int = 0, **traits: Any) -> FederatedData:
    data = from_clients([([[0.0]], [0])] * count, unseen=unseen)
    return data.with_traits(traits) if traits else data


def partition(labels: np.ndarray) -> set[frozenset[int]]:
    """Who is with whom."""
    return {frozenset(map(int, np.flatnonzero(labels == k))) for k in set(labels.tolist())}


def spread(points: np.ndarray, labels: Any) -> float:
    """Sum of squared distances to the mean of each group."""
    labels = np.asarray(labels)
    return sum(((points[labels == k] - points[labels == k].mean(0)) ** 2).sum() for k in set(labels.tolist()))


def test_groups_are_the_best_of_all_partitions() -> None:
    """All leaves of the traits count, also as rows; they stay as they are."""
    draw = np.random.default_rng(4)
    side = np.array([1, -1, -1, 1, 1, -1, 1, 1])
    age, place = draw.normal(size=8) + side, draw.normal(size=(8, 2)) + side[:, None]
    data = grouped(clients(8, age=age, place=place), 2)
    points = np.column_stack([age, place])
    best = min(itertools.product((0, 1), repeat=8), key=lambda labels: spread(points, labels) if any(labels) else 1e9)
    assert partition(data.traits["group"]) == partition(np.array(best))
    np.testing.assert_allclose(data.traits["place"], place, rtol=1e-6)
    assert num_groups(data) == 2


def test_unseen_clients_join_the_nearest_center_and_move_none() -> None:
    """Centers of 0, 1 and 10, 11 are 0.5 and 10.5: 5.4 is nearer to the first, and 90 to the second."""
    group = grouped(clients(6, unseen=2, age=[0, 10, 1, 11, 5.4, 90]), 2).traits["group"]
    assert partition(group) == {frozenset({0, 2, 4}), frozenset({1, 3, 5})}


def test_without_traits_clients_are_known_by_their_training_labels() -> None:
    """By shares and not by counts; of real targets by their means."""
    shares = [[0, 0, 1], [1, 1, 0], [0] * 20 + [1] * 10, [1] * 20 + [0] * 10]
    data = from_clients([(np.zeros((len(y), 1)), y) for y in shares])
    assert partition(grouped(data, 2).traits["group"]) == {frozenset({0, 2}), frozenset({1, 3})}
    targets = [[2.0], [9.0, 7.0], [2.5, 2.5], [8.25]]
    real = from_clients([(np.zeros((len(y), 1)), np.array(y)) for y in targets])
    assert partition(grouped(real, 2).traits["group"]) == {frozenset({0, 2}), frozenset({1, 3})}


def test_traits_that_are_an_array_are_the_context() -> None:
    data = grouped(clients(3).with_traits([0.0, 9.0, 1.0]), 2)
    assert partition(data.traits["group"]) == {frozenset({0, 2}), frozenset({1})}
    np.testing.assert_array_equal(data.traits["context"], [0.0, 9.0, 1.0])


def test_the_seed_decides_and_groups_are_part_of_the_data() -> None:
    plain = clients(9, age=np.random.default_rng(0).normal(size=9))
    first, again = grouped(plain, 4, seed=1), grouped(plain, 4, seed=1)
    np.testing.assert_array_equal(first.traits["group"], again.traits["group"])
    assert first.fingerprint == again.fingerprint != plain.fingerprint


def test_context_goes_beside_features_and_images() -> None:
    """Each example has that of its client, in every split; public ones have the mean of those that train."""
    draw = np.random.default_rng(1)
    held = [[(draw.normal(size=(n, 2)), [0] * n) for n in sizes] for sizes in ((3, 1, 2), (1, 2, 1), (0, 2, 1))]
    plain = from_clients(*held, unseen=1).with_traits({"age": [0.5, 0.1, 9.0], "place": [[1, 2], [3, 4], [5, 6]]})
    data = featurized(plain.with_public(np.ones((2, 2))))
    for split in ("train", "validation", "test"):
        for i, context in enumerate([[0.5, 1, 2], [0.1, 3, 4], [9.0, 5, 6]]):
            before, after = (each.client(i, split) for each in (plain, data))
            rows = slice(int(after.start), int(after.start + after.size))
            np.testing.assert_array_equal(data.examples.x[rows, :2], plain.examples.x[rows])
            np.testing.assert_allclose(data.examples.x[rows, 2:], np.tile(context, (int(before.size), 1)), rtol=1e-6)
    np.testing.assert_allclose(data.examples.x[-1], [1, 1, 0.3, 2, 3], rtol=1e-6)
    assert data.fingerprint != plain.fingerprint
    image = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)
    images = featurized(from_clients([(image, [0])] * 3).with_traits({"group": [0, 2, 1]})).examples.x
    np.testing.assert_allclose(images[..., :2], np.tile(image / 127.5 - 1, (3, 1, 1, 1)), rtol=1e-6)
    assert [one.tolist() for one in images[:, 1, 0, 2:]] == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


@pytest.mark.parametrize(
    "model",
    [pfl.models.logistic((4,), 1), pfl.models.contextual(pfl.models.logistic((2,), 1), 1, context=2)],
    ids=["inputs", "features"],
)
def test_a_model_of_features_and_context_is_least_squares_with_fixed_effects(model: pfl.Model) -> None:
    """FedAvg of full gradients on `y = <a, x> + b_group + noise` ends at the solution by NumPy, which one without
    context does not reach, and serves a client that has never trained."""
    draw = np.random.default_rng(3)
    groups, effect = [0, 1, 1, 0, 1], np.array([-1.0, 2.0])
    x = draw.normal(size=(5, 6, 2))
    y = x @ [0.5, -1.5] + effect[groups][:, None] + 0.1 * draw.normal(size=(5, 6))
    pairs = list(zip(x, y, strict=True))
    data = featurized(from_clients(pairs, pairs, unseen=1).with_traits({"group": groups}))
    task, solve = pfl.regression(model), pfl.descent(optax.sgd(0.2), pfl.full_batch(1, 6))
    result = pfl.simulate(task, pfl.algorithms.fedavg(task, solve), data, rounds=400, eval_every=400)
    design = np.concatenate([x, np.broadcast_to(np.eye(2)[groups][:, None], (5, 6, 2))], axis=2)
    best = np.linalg.lstsq(design[:4].reshape(-1, 4), y[:4].ravel(), rcond=None)[0]
    assert best[:2] == pytest.approx([0.5, -1.5], abs=0.1)
    for which, clients in {"personal": range(4), "unseen_personal": [4]}.items():
        errors = [np.mean((design[i] @ best - y[i]) ** 2) / 2 for i in clients]
        np.testing.assert_allclose(result.scores[which, "test", "loss"][0], errors, rtol=1e-3)


def test_a_configuration_asks_for_it() -> None:
    config = {"data": {"clusters": 3, "featurized": True}, "model": {"name": "logistic"}, "run": {"rounds": 1}}
    made = experiment.prepare(experiment.from_config_dict(config))
    assert made.data.examples.x.shape[1:] == (8, 8, 4)
    config["model"] = {"name": "contextual", "context": 3, "network": "mlp", "options": {"hidden": (7,)}}
    server = experiment.prepare(experiment.from_config_dict(config)).recipe.make().init_server(jax.random.key(0), 20)
    shapes = jax.tree.map(lambda leaf: leaf.shape, server.params.trainable)
    assert shapes["Dense_0"] == {"kernel": (64, 7), "bias": (7,)}
    assert shapes["classifier"] == {"kernel": (10, 7 + 3), "bias": (10,)}
    config["data"] = {"clusters": 3}
    with pytest.raises(ValueError, match=r"context=3 numbers of examples \(8, 8, 1\), which end with 1: put them"):
        experiment.prepare(experiment.from_config_dict(config))
    with pytest.raises(ValueError, match="featurized=True: nothing is known of the clients"):
        experiment.from_config_dict({"data": {"featurized": True}})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: grouped(clients(3, age=[1, 1, 2]), 3), "clusters=3 of 2 different contexts of clients: give at most"),
        (lambda: grouped(clients(3, age=[1, 1, 2]), 0), "clusters=0: it must be a whole number of at least 1"),
        (lambda: grouped(clients(2, group=[0, 1]), 2), "clients of clients have the trait 'group' already"),
        (
            lambda: featurized(clients(2)),
            "nothing is known of the clients of clients: give traits",
        ),
        (lambda: featurized(from_clients([([[1]], [0])]).with_traits([[1.0]])), "context goes beside floats"),
        (lambda: featurized(drifting([clients(2, age=[1, 2])] * 2, [3])), "drifts: give its concepts their context"),
        (lambda: num_groups(clients(2)), "clients of clients are in no groups: set data.clusters=2"),
        (lambda: num_groups(clients(2, group=[0.5, 1])), r"the trait 'group' of clients is float64\[2\] from 0.5 on"),
        (lambda: num_groups(clients(2, group=[-1, 1])), r"the trait 'group' of clients is int64\[2\] from -1 on"),
    ],
)
def test_mistakes(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
