"""What a configuration means: data, a model, a method, a cohort."""

from __future__ import annotations

import functools
import math
import typing
from collections.abc import Callable, Mapping, Sequence
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
    OF_FILES,
    PARTITIONS,
    SOLVED,
    SYNTHETIC,
    Choice,
    CohortConfig,
    Config,
    DataConfig,
    DriftConfig,
    RunConfig,
    TaskConfig,
    from_config_dict,
)
from pfljax.experiment.recipe import (
    Recipe,
    build,
    traced,
)
from pfljax.federation import sampling
from pfljax.federation.kinds import of_kinds
from pfljax.federation.sampling import Sampler
from pfljax.learning import tasks
from pfljax.printing import brief
from pfljax.results import scores
from pfljax.types import Algorithm, Model, Selector, Task


class Experiment(typing.NamedTuple):
    """What a configuration means."""

    data: FederatedData
    train: FederatedData
    task: Task | tuple[Task, ...]  # of each kind of clients, where they are of several
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


def prepare(
    config: Config, data: FederatedData | None = None, model: nn.Module | Model | Mapping[str, Any] | None = None
) -> Experiment:
    """Loads the data and builds model and method; compiles nothing.

    Args:
      config: the configuration.
      data: the federation, if it is at hand already.
      model: the model of a configuration with `model=None`; a module takes the examples as they are. Of clients of
        several kinds one for each, which may be a name or a section too.

    Raises:
      ValueError: if the configuration cannot be met.
      FileNotFoundError: if the data are not found.
    """
    data = load_data(config.data) if data is None else data
    if config.kinds and model is None:
        data, model = data_layer.in_turn(data, len(config.kinds)), config.kinds
    kind, learned = _task(config, data)
    networks = _networks(config.model, data, model, tasks.outputs(kind, data))
    networks = [models.compute_in(network, config.run.precision) for network in networks]
    learning = tuple(map(learned, networks))
    if config.run.metric is not None:
        scores.choose(config.run.metric, [metric.name for metric in learning[0].metrics])
    row = method(config.algorithm.name)
    if "class labels" in row.needs:
        checks.classes(data.examples.y, config.algorithm.name)
        if kind != "classification":
            raise ValueError(
                f"{config.algorithm.name} counts classes, which {kind} has none of: choose fedavg or ditto"
            )
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
    if "lasting examples" in row.needs and data.drift is not None:
        raise ValueError(
            f"{config.algorithm.name} keeps a number for each example, and those of {data.name} change: leave "
            "data.drift out, or choose mocha_primal"
        )
    if len(networks) > 1 and row.prepare is POOLED:
        raise ValueError(
            f"{config.algorithm.name} trains one network on all data, not one for each kind of clients: give one model"
        )
    train = data if row.prepare is None else row.prepare(data)
    numbers = sum(math.prod(np.shape(leaf)[1:]) for leaf in jax.tree.leaves(train.examples.x))
    sizes = {"capacity": train.capacity, "inputs": numbers, "clients": train.num_clients}
    sizes |= {"groups": data_layer.num_groups(data)} if "groups" in row.needs else {}
    cohort = sampling.full() if row.prepare is POOLED else _sampler(config.cohort)
    recipes = []
    for task, network in zip(learning, networks, strict=True):
        recipe = build(config.algorithm.name, task, network, data=train, **sizes, **_ingredients(config))
        if isinstance(cohort, Selector):
            recipe = recipe._replace(make=_reporting(recipe.make, task))
        recipes.append(recipe)
    if len(recipes) == 1:
        return Experiment(data, train, learning[0], recipes[0], cohort)
    return Experiment(data, train, learning, recipes[0]._replace(make=_together(recipes)), cohort)


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
        given = {name: getattr(config, name) for name in OF_FILES} | config.options
        dataset = data_layer.load(config.name, **given)
    dealt = PARTITIONS[config.partition.name](**config.partition.options)
    names = (
        *("test", "validation", "unseen", "public", "stratify", "chronological"),
        *("standardize", "seed", "min_size"),
    )
    options = {name: getattr(config, name) for name in names}
    if config.drift is not None and config.drift.kind == "time":
        options["validation"] = 0.0  # of each part in time, later
    data = data_layer.federate(dataset, dealt, **options)
    if config.shift is not None:
        data = data_layer.shifted(
            data, config.shift.kind, config.shift.levels, spread=config.shift.spread, seed=config.seed
        )
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


def _task(config: Config, data: FederatedData) -> tuple[str, Callable[[Model], Task]]:
    """The name of the task, and what makes it of a network."""
    chosen, options = config.task, dict[str, Any]()
    usual = "regression" if data.num_classes is None else "classification"
    name = usual if chosen.name == "auto" else chosen.name
    if config.run.metrics is not None:
        options["metrics"] = config.run.metrics
    if name == "classification":
        options |= {"label_smoothing": chosen.label_smoothing, "ignore": chosen.ignore}
        options["weights"] = tasks.balanced(data) if chosen.balanced == "weights" else None
        options["prior"] = tasks.shares(data) if chosen.balanced == "softmax" else None
    elif chosen != TaskConfig(chosen.name):
        raise ValueError(f"task={chosen} is for classes, and {data.name} has targets: leave all but its name out")
    return name, functools.partial(tasks.TASKS[name], **options)


def _model(config: Choice | None, data: FederatedData, given: nn.Module | Model | None, outputs: int) -> Model:
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
    return models.by_name(config.name, shape, outputs, **config.options)


def _networks(
    config: Choice | None, data: FederatedData, given: nn.Module | Model | Mapping[str, Any] | None, outputs: int
) -> list[Model]:
    """The network of all clients, or that of each kind of clients."""
    if not isinstance(given, Mapping):
        return [_model(config, data, given, outputs)]
    if len(given) < 2:
        raise ValueError(f"model={brief(given)}: a section lacks its name, or kinds of clients a second network")
    return [_of_kind(kind, network, data, outputs) for kind, network in given.items()]


def _of_kind(kind: str, given: Any, data: FederatedData, outputs: int) -> Model:
    """The network of one kind of clients."""
    if isinstance(given, nn.Module | Model):
        return _model(None, data, given, outputs)
    if not isinstance(given, str | Mapping):
        raise ValueError(f"model[{kind!r}]={brief(given)}: give a name, a section, a Flax module or a Model")
    named = {"name": given} if isinstance(given, str) else given
    with checks.within(f"model[{kind!r}]"):
        return _model(from_config_dict({"model": named}).model, data, None, outputs)


def _together(recipes: Sequence[Recipe]) -> Callable[..., Algorithm]:
    """What makes the algorithm of clients of several kinds."""
    return lambda **hyper: of_kinds([recipe.make(**hyper) for recipe in recipes])


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
