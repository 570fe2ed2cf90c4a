"""CONTRIBUTING.md is true: its programs run, and its worked example is a method that passes its own tests."""

from __future__ import annotations

import itertools
import re
import sys
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from pfljax import algorithms, quadratics
from pfljax.engine.runs import simulate
from pfljax.learning import local, plans
from tests.oracles import test_identities

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def program(name: str) -> dict[str, Any]:
    """What the program below the comment `name` leaves behind."""
    found = re.search(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert found, f"CONTRIBUTING.md has no program {name}"
    names: dict[str, Any] = {"__name__": "contributed"}
    sys.modules["contributed"] = types.ModuleType("contributed")
    exec(compile(found[1], f"CONTRIBUTING.md, {name}", "exec", flags=0, dont_inherit=True), names)
    return names


def test_the_data_set():
    data = program("run: data")["data"]
    assert data.names == ("anna", "ben", "cem")
    assert data.class_names == ("sits", "walks")
    assert data.sizes("test").tolist() == [5, 5, 5]


def test_the_partitioner():
    data = program("run: partitioner")["data"]
    held = [np.asarray(data.examples.x)[a : a + n] for a, n in zip(data.train.start, data.train.size, strict=True)]
    means = [part.astype(float).reshape(len(part), -1).mean(axis=1) for part in held]
    assert all(before.max() <= after.min() for before, after in itertools.pairwise(means))


def test_the_model():
    names = program("run: model")
    model, params = names["model"], names["model"].init(jax.random.key(0))
    assert model.features_shape == (16,)
    assert model.norms
    assert jax.tree.leaves(jax.tree.map(lambda leaf, top: leaf.size if top else 0, params, names["head"](params)))
    assert model.apply(params, np.zeros((3, 8, 8, 1), np.uint8))[0].shape == (3, 10)


def test_two_networks():
    result = program("run: kinds")["result"]
    layers = [len([leaf for leaf in jax.tree.leaves(result.models[n].params) if leaf.ndim == 2]) for n in range(2)]
    assert layers == [2, 3]


def test_the_callback():
    names = program("run: callback")
    result = names["result"]
    worst = [result.names[row.argmin()] for row in result.scores["personal", "test", "accuracy"]]
    assert names["worst"].worst == dict(zip(result.rounds.tolist(), worst, strict=True))


def test_the_selector():
    task, data = quadratics.problem(w=[0.0, 1.0, 2.0, 3.0])
    method = algorithms.fedavg(task, local.descent(optax.sgd(0.5), plans.full_batch(1, 1)))
    result = simulate(task, method, data, rounds=6, cohort=program("run: selector")["rested"](2))
    teams = [set(ids) for ids in result.log["ids"].tolist()]
    assert all(not before & after for before, after in itertools.pairwise(teams)), "somebody did not rest"


@pytest.mark.usefixtures("x64")
def test_the_method(monkeypatch: pytest.MonkeyPatch):
    """The file of the example, its limit and its closed form."""
    shrunken = program("file: pfljax/algorithms/shrunken.py")["shrunken"]
    monkeypatch.setattr(algorithms, "shrunken", shrunken, raising=False)
    limit = re.search(r"<!-- append: tests/oracles/test_identities.py -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert limit
    names = {**vars(test_identities)}
    exec(limit[1], names)
    names["test_shrunken_all_the_way_is_fedavg"]()
    program("file: tests/oracles/test_shrunken.py")["test_each_client_goes_its_share_of_the_way"]()
