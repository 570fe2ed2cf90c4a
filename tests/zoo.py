"""A small federation for tests of the engine: unequal clients, one with a single example, one unseen; batch norm."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest

from pfljax import models
from pfljax.algorithms import METHODS
from pfljax.data import FederatedData, from_clients
from pfljax.experiment import recipe
from pfljax.experiment.recipe import Recipe, SolverConfig
from pfljax.learning import tasks
from pfljax.types import Model, Task

SIZES = (9, 5, 1, 12, 7, 4, 6)
VALIDATION = (3, 2, 0, 4, 2, 1, 2)
CLIENTS, UNSEEN, FEATURES, CLASSES, GROUPS = 6, 1, 8, 4, 2
# Full batches compile fast; steps differ from client to client where there are stragglers.
LOCAL = SolverConfig(lr=0.1, plan="full_batch", steps=3, batch_size=max(SIZES))
OPTIMIZERS = {
    name: dataclasses.replace(LOCAL, **fields)
    for name, fields in {"sgd": {}, "momentum": {"momentum": 0.9}, "adam": {"optimizer": "adam"}}.items()
}
FEDERATED = [name for name, row in METHODS.items() if row.prepare is None]
FIRSTS = list({METHODS[name].family: name for name in reversed(FEDERATED)}.values())[::-1]
"""The first method of each family."""


def slow_but_for(quick: Iterable[str], names: Iterable[str] = FEDERATED) -> list[Any]:
    """Methods as parameters of a test, those that are not `quick` for slow runs."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in names]


ORIGINALS = slow_but_for([name for name in FEDERATED if not METHODS[name].variant_of])
"""Every method; variants are slow."""
FEW = FIRSTS[2::6]
FAMILIES = slow_but_for(FEW)
"""Every method; all but the first of every sixth family are slow."""


def network(norm: nn.Module) -> Model:
    """One hidden layer; weights are drawn as the tests compute, since draws in float32 differ between programs."""
    layers = [nn.Dense(6, param_dtype=float), norm, nn.relu, nn.Dense(CLASSES, param_dtype=float)]
    return models.from_linen(nn.Sequential(layers), (FEATURES,))


# Of a single example batch norm leaves rounding and the bias: the usual epsilon of 1e-5 would make the first 300 times
# as large, and beside a bias of 0 it would say whether ReLU is on.
MODEL = network(nn.BatchNorm(momentum=0.9, epsilon=0.1, bias_init=nn.initializers.constant(0.1)))
# Batch norm makes some gradients zero but for rounding, which Adam would make large.
LAYERED = network(nn.LayerNorm())
TASK = tasks.classification(MODEL)


def federation() -> FederatedData:
    """Gaussian classes, more or less of each with each client, and six public examples."""
    draw = np.random.default_rng(0)
    centers = draw.normal(size=(CLASSES, FEATURES))

    def client(size: int) -> tuple[np.ndarray, np.ndarray]:
        y = draw.choice(CLASSES, size, p=draw.dirichlet(np.ones(CLASSES)))
        return (centers[y] + 0.5 * draw.normal(size=(size, FEATURES))).astype(np.float32), y

    train, test, validation = ([client(size) for size in sizes] for sizes in (SIZES, SIZES, VALIDATION))
    data = from_clients(train, test, validation, unseen=UNSEEN, num_classes=CLASSES)
    return data.with_traits({"group": np.arange(len(SIZES)) % GROUPS}).with_public(*client(6))


def recipe_of(name: str, local: SolverConfig = LOCAL, model: Model = MODEL, **options: Any) -> Recipe:
    """A method of the table on `model`."""
    options = dict(METHODS[name].example) | options
    task = tasks.classification(model)
    return recipe.build(
        name,
        double(task) if jax.config.read("jax_enable_x64") else task,
        model,
        options=options,
        local=local,
        capacity=max(SIZES),
        groups=GROUPS,
        inputs=FEATURES,
        data=federation() if local.persistent else None,
    )


def double(task: Task) -> Task:
    """The task in float64."""
    return task._replace(init=lambda key: jax.tree.map(lambda leaf: leaf.astype(float), task.init(key)))
