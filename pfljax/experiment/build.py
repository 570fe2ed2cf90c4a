"""What a configuration means: data, a model, a method, a cohort."""

from __future__ import annotations

import math
import typing
from typing import Any

import numpy as np

from pfljax import checks, models
from pfljax import data as data_layer
from pfljax.algorithms import method
from pfljax.data import FederatedData
from pfljax.experiment.config import PARTITIONS, SOLVED, SYNTHETIC, CohortConfig, Config, DataConfig, RunConfig
from pfljax.experiment.recipe import (
    Recipe,
    build,
    traced,
)
from pfljax.federation import sampling
from pfljax.federation.sampling import Sampler
from pfljax.learning import tasks
from pfljax.results import scores
from pfljax.types import Task


class Experiment(typing.NamedTuple):
    """What a configuration means."""

    data: FederatedData
    task: Task
    recipe: Recipe
    cohort: Sampler

    def options(self, run: RunConfig) -> dict[str, Any]:
        """What `engine.simulate` and `ensemble.simulate_many` need besides task, algorithm and data."""
        pooled = self.recipe.pooled
        return {
            "rounds": run.rounds,
            "eval_every": run.eval_every,
            "patience": run.patience,
            "plan": self.recipe.plan,
            "train": self.data.pooled() if pooled else None,
            "cohort": sampling.full() if pooled else self.cohort,
            "executor": run.executor,
            "onboard_rounds": run.onboard_rounds,
        }


def prepare(config: Config, data: FederatedData | None = None) -> Experiment:
    """Loads the data and builds model and method; compiles nothing.

    Args:
      config: the configuration.
      data: the federation, if it is at hand already.

    Raises:
      ValueError: if the configuration cannot be met.
      FileNotFoundError: if the data are not found.
    """
    data = load_data(config.data) if data is None else data
    shape = tuple(np.shape(data.examples.x)[1:])
    outputs = math.prod(np.shape(data.examples.y)[1:]) if data.num_classes is None else data.num_classes
    model = models.by_name(config.model.name, shape, outputs, **config.model.options)
    model = models.compute_in(model, config.run.precision)
    learned = tasks.regression if data.num_classes is None else tasks.classification
    task = learned(model) if config.run.metrics is None else learned(model, metrics=config.run.metrics)
    if config.run.metric is not None:
        scores.choose(config.run.metric, [metric.name for metric in task.metrics])
    needs = method(config.algorithm.name).needs
    if "class labels" in needs:
        checks.classes(data.examples.y, config.algorithm.name)
    if "public data" in needs and data.public is None:
        raise ValueError(
            f"{config.algorithm.name} needs examples that everybody sees, and {data.name} has none: set "
            "data.public=0.1, or choose fedavg"
        )
    pooled = "pooled data" in needs
    capacity = data.pooled().capacity if pooled else data.capacity
    recipe = build(config.algorithm.name, task, model, capacity=capacity, **_ingredients(config))
    return Experiment(data, task, recipe, _sampler(config.cohort))


def hyperparameters(config: Config) -> dict[str, Any]:
    """The numbers that one compiled program serves, by the names of `Recipe.hyper`; loads and builds nothing.

    Raises:
      ValueError: if the method does not take an option.
    """
    return traced(config.algorithm.name, **_ingredients(config))


def load_data(config: DataConfig) -> FederatedData:
    """The federation that a configuration describes.

    Raises:
      ValueError: if data set or partition are unknown or cannot be made.
      FileNotFoundError: if the data are not found.
    """
    if config.name in SYNTHETIC and config.path is None:
        dataset = SYNTHETIC[config.name](**config.options)
    else:
        options = ("path", "source", "download", "groups", "units", "times")
        dataset = data_layer.load(config.name, **{option: getattr(config, option) for option in options})
    dealt = PARTITIONS[config.partition.name](**config.partition.options)
    options = ("test", "validation", "unseen", "public", "stratify", "chronological", "seed", "min_size")
    return data_layer.federate(dataset, dealt, **{option: getattr(config, option) for option in options})


def _ingredients(config: Config) -> dict[str, Any]:
    sections = {name: getattr(config, name) for name in SOLVED}
    return {"options": config.resolved().algorithm.options, "rounds": config.run.rounds, **sections}


def _sampler(config: CohortConfig) -> Sampler:
    kinds = {
        "full": sampling.full,
        "uniform": lambda: sampling.uniform(config.size),
        "weighted": lambda: sampling.weighted(config.size),
        "poisson": lambda: sampling.poisson(config.rate, config.size),
    }
    sampler = kinds[config.sampling]()
    if config.dropouts:
        sampler = sampling.dropouts(sampler, config.dropouts)
    if config.stragglers:
        sampler = sampling.stragglers(sampler, config.stragglers, partial=config.partial)
    return sampler
