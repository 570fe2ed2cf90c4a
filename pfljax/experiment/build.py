"""What a configuration means: data, a model, a method, a cohort."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pfljax import checks, models
from pfljax import data as data_layer
from pfljax.algorithms import POOLED, method
from pfljax.data import FederatedData, drift
from pfljax.experiment.config import (
    PARTITIONS,
    SOLVED,
    SYNTHETIC,
    Choice,
    CohortConfig,
    Config,
    DataConfig,
    DriftConfig,
    RunConfig,
)
from pfljax.experiment.recipe import (
    Recipe,
    build,
    traced,
)
from pfljax.federation import sampling
from pfljax.federation.sampling import Sampler
from pfljax.learning import tasks
from pfljax.results import scores
from pfljax.types import Algorithm, Model, Selector, Task


class Experiment(typing.NamedTuple):
    """What a configuration means."""

    data: FederatedData
    train: FederatedData
    task: Task
    recipe: Recipe
    cohort: Sampler | Selector

    def options(self, run: RunConfig) -> dict[str, Any]:
        """What `engine.simulate` and `ensemble.simulate_many` need besides task, algorithm and data."""
        return {
            "rounds": run.rounds,
            "eval_every": run.eval_every,
            "patience": run.patience,
            "plan": self.recipe.plan,
            "train": self.train,
            "cohort": self.cohort,
            "executor": run.executor,
            "onboard_rounds": run.onboard_rounds,
        }


def prepare(config: Config, data: FederatedData | None = None, model: nn.Module | Model | None = None) -> Experiment:
    """Loads the data and builds model and method; compiles nothing.

    Args:
      config: the configuration.
      data: the federation, if it is at hand already.
      model: the model of a configuration with `model=None`; a module takes the examples as they are.

    Raises:
      ValueError: if the configuration cannot be met.
      FileNotFoundError: if the data are not found.
    """
    data = load_data(config.data) if data is None else data
    model = models.compute_in(_model(config.model, data, model), config.run.precision)
    learned = tasks.regression if data.num_classes is None else tasks.classification
    task = learned(model) if config.run.metrics is None else learned(model, metrics=config.run.metrics)
    if config.run.metric is not None:
        scores.choose(config.run.metric, [metric.name for metric in task.metrics])
    row = method(config.algorithm.name)
    if "class labels" in row.needs:
        checks.classes(data.examples.y, config.algorithm.name)
    if "public data" in row.needs and data.public is None:
        raise ValueError(
            f"{config.algorithm.name} needs examples that everybody sees, and {data.name} has none: set "
            "data.public=0.1, or choose fedavg"
        )
    if "validation examples" in row.needs and not data.sizes("validation")[: data.num_clients].any():
        raise ValueError(
            f"{config.algorithm.name} compares models on validation examples, and no client has any: set "
            "data.validation=0.2"
        )
    train = data if row.prepare is None else row.prepare(data)
    numbers = sum(math.prod(np.shape(leaf)[1:]) for leaf in jax.tree.leaves(train.examples.x))
    sizes = {"capacity": train.capacity, "inputs": numbers, "clients": train.num_clients}
    sizes |= {"groups": data_layer.num_groups(data)} if "groups" in row.needs else {}
    recipe = build(config.algorithm.name, task, model, data=train, **sizes, **_ingredients(config))
    cohort = sampling.full() if row.prepare is POOLED else _sampler(config.cohort)
    if isinstance(cohort, Selector):
        recipe = recipe._replace(make=_reporting(recipe.make, task))
    return Experiment(data, train, task, recipe, cohort)


def hyperparameters(config: Config) -> dict[str, Any]:
    """The numbers that one compiled program serves, by the names of `Recipe.hyper`; loads and builds nothing.

    Raises:
      ValueError: if the method does not take an option.
    """
    return traced(config.algorithm.name, **_ingredients(config))


def load_data(config: DataConfig | None) -> FederatedData:
    """The federation that a configuration describes.

    Raises:
      ValueError: if it describes none, or data set or partition are unknown or cannot be made.
      FileNotFoundError: if the data are not found.
    """
    if config is None:
        raise ValueError("config.data=None: a program gave the federation; call it again with resume=True to go on")
    if config.name in SYNTHETIC and config.path is None:
        dataset = SYNTHETIC[config.name](**config.options)
    else:
        options = ("path", "source", "download", "groups", "units", "times")
        dataset = data_layer.load(config.name, **{option: getattr(config, option) for option in options})
    dealt = PARTITIONS[config.partition.name](**config.partition.options)
    names = ("test", "validation", "unseen", "public", "stratify", "chronological", "seed", "min_size")
    options = {name: getattr(config, name) for name in names}
    if config.drift is not None and config.drift.kind == "time":
        options["validation"] = 0.0  # of each part in time, later
    data = data_layer.federate(dataset, dealt, **options)
    data = data if config.clusters is None else data_layer.grouped(data, config.clusters, seed=config.seed)
    data = data_layer.featurized(data) if config.featurized else data
    return data if config.drift is None else _drifting(data, config.drift, config)


def _drifting(data: FederatedData, config: DriftConfig, of: DataConfig) -> FederatedData:
    """The federation whose clients drift as the configuration says."""
    numbers = range(config.concepts)
    if config.kind == "time":
        concepts = drift.in_time(data, config.concepts, validation=of.validation)
    elif config.kind == "rotation":
        concepts = [drift.rotated(data, number) for number in numbers]
    else:
        classes = np.arange(data.num_classes or 0)
        concepts = [drift.relabeled(data, np.roll(classes, -number)) for number in numbers]
    delays = drift.delayed(data, share=config.share, spread=config.spread, seed=of.seed)
    return drift.drifting(concepts, config.changes, gradual=config.gradual, recurring=config.recurring, delays=delays)


def _model(config: Choice | None, data: FederatedData, given: nn.Module | Model | None) -> Model:
    if (config is None) == (given is None):
        raise ValueError("a model is named by the configuration, or given where config.model=None: do one of them")
    if isinstance(given, Model):
        return given
    x = data.examples.x
    if not hasattr(x, "dtype"):
        raise ValueError(f"an example of {data.name} is several arrays: give a Model that reads them, as model=...")
    shape = tuple(x.shape[1:])
    if config is None:
        tokens = x.dtype.kind in "iu" and x.dtype != np.uint8
        return models.from_linen(typing.cast(nn.Module, given), shape, jnp.int32 if tokens else jnp.float32)
    outputs = math.prod(np.shape(data.examples.y)[1:]) if data.num_classes is None else data.num_classes
    return models.by_name(config.name, shape, outputs, **config.options)


def _ingredients(config: Config) -> dict[str, Any]:
    sections = {name: getattr(config, name) for name in (*SOLVED, "wrappers")}
    return {"options": config.resolved().algorithm.options, "rounds": config.run.rounds, **sections}


def _reporting(make: Callable[..., Algorithm], task: Task) -> Callable[..., Algorithm]:
    """`make` whose clients report what selectors learn from."""
    return lambda **hyper: sampling.reporting(make(**hyper), task)


def _sampler(config: CohortConfig) -> Sampler | Selector:
    kinds = {
        "full": sampling.full,
        "uniform": lambda: sampling.uniform(config.size),
        "weighted": lambda: sampling.weighted(config.size),
        "poisson": lambda: sampling.poisson(config.rate, config.size),
        "power_of_choice": lambda: sampling.power_of_choice(config.size, config.candidates),
    }
    sampler = kinds[config.sampling]()
    if config.dropouts:
        sampler = sampling.dropouts(sampler, config.dropouts)
    if config.stragglers:
        sampler = sampling.stragglers(sampler, config.stragglers, partial=config.partial)
    return sampler
