"""Experiments: a configuration of plain values becomes data, a model, a method and a result."""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from pfljax import data as data_layer
from pfljax import engine, hosts, metrics, models, results, sampling, scores, tasks
from pfljax.algorithms import method
from pfljax.data import FederatedData, partition, synthetic
from pfljax.progress import Bar
from pfljax.recipe import Recipe, ServerConfig, SolverConfig, build, check_names, check_options, check_value, traced
from pfljax.results import Comparison, Result, Select
from pfljax.sampling import Sampler
from pfljax.types import Algorithm, Task

PARTITIONS = partition.PARTITIONS
"""Name -> partitioner, as `data.partition.name` means it."""

_SYNTHETIC = {make.__name__: make for make in (synthetic.synthetic, synthetic.synthetic_v2)}


@dataclass(frozen=True)
class Choice:
    """One of several by name, with values for its arguments; in a dictionary `{"name": ..., argument: value, ...}`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """Which examples, and who holds them.

    Args:
      name: a data set for `data.load`, or `synthetic` / `synthetic_v2`.
      path, source, download, groups, units, times: see `data.load`.
      options: arguments of a synthetic data set.
      partition: a partitioner of `PARTITIONS` with its arguments.
      test, validation, unseen, stratify, chronological, seed, min_size: see `data.federate`.
    """

    name: str = "digits"
    path: str | None = None
    source: Literal["auto", "files", "tfds"] = "auto"
    download: bool = False
    groups: str | None = None
    units: str | None = None
    times: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    partition: Choice = Choice("dirichlet", {"clients": 20, "alpha": 0.1})
    test: float | Literal["mirror", "pooled"] = 0.25
    validation: float = 0.0
    unseen: float = 0.0
    stratify: bool = False
    chronological: bool = False
    seed: int = 0
    min_size: int = 1


@dataclass(frozen=True)
class CohortConfig:
    """Who takes part in a round.

    Args:
      sampling: everybody (`full`), `size` clients `uniform` or `weighted` by examples, or each with `rate` (`poisson`).
      size: clients of a round; slots of `poisson`.
      rate: chance of each client, of `poisson`.
      dropouts: chance that a sampled client does not reply.
      stragglers: chance that one is slow and does a part of its steps.
      partial: the server takes the work of slow clients.
    """

    sampling: Literal["full", "uniform", "weighted", "poisson"] = "full"
    size: int = 10
    rate: float = 0.5
    dropouts: float = 0.0
    stragglers: float = 0.0
    partial: bool = True


@dataclass(frozen=True)
class RunConfig:
    """How long, how often, and how.

    Args:
      rounds: rounds in all.
      eval_every: rounds between two evaluations, each with a checkpoint where results are kept.
      seed: of initial models, cohorts and minibatches.
      executor: `auto`, `vmap`, `sequential` or a block size; see `engine.Simulation`.
      store: the clients' states on the `device`, in `host` memory, or `auto`; see `engine.Simulation`.
      precision: that the model computes in, see `models.compute_in`.
      onboard_rounds: rounds of onboarding for unseen clients.
      select: which evaluation tables report.
      metric: what clients are compared by, see `scores.read`; accuracy or loss if None.
    """

    rounds: int = 20
    eval_every: int = 1
    seed: int = 0
    executor: Literal["auto", "vmap", "sequential"] | int = "auto"
    store: Literal["auto", "device", "host"] = "auto"
    precision: Literal["default", "float32", "tf32", "bfloat16"] = "default"
    onboard_rounds: int = 5
    select: Select = "last"
    metric: str | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True, repr=False)
class Config:
    """A whole experiment.

    Args:
      data: examples and clients.
      model: a model of `models.MODELS` with its arguments.
      algorithm: a method with its options, see `recipe.build`.
      methods: method -> options that it has wherever it is run; `algorithm` comes before them.
      local: solver of a client's round.
      tune, head_local, personal_local: solvers of those names where a method has them; as `local` if None. In a
        dictionary, what such a section leaves out is as in `local`.
      server: server optimizer of methods that take one.
      cohort: who takes part.
      run: how long.
    """

    data: DataConfig = DataConfig()
    model: Choice = Choice("mlp", {"hidden": (100,)})
    algorithm: Choice = Choice("fedavg")
    methods: dict[str, Any] = field(default_factory=dict)
    local: SolverConfig = field(default_factory=SolverConfig)
    tune: SolverConfig | None = None
    head_local: SolverConfig | None = None
    personal_local: SolverConfig | None = None
    server: ServerConfig = field(default_factory=ServerConfig)
    cohort: CohortConfig = CohortConfig()
    run: RunConfig = RunConfig()

    def __repr__(self) -> str:
        """What differs from the defaults, as the command line has it."""
        mine, usual = _flat(self.to_dict()), _flat(Config().to_dict())
        return f"Config({', '.join(f'{name}={value!r}' for name, value in mine.items() if usual.get(name) != value)})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_config_dict` reads them."""
        return _plain(self)

    def of_method(self, name: str) -> Config:
        """The same experiment with another method and its options of `methods`."""
        return self if name == self.algorithm.name else replace(self, algorithm=Choice(name))

    def resolved(self) -> Config:
        """The same run, with what `methods` says about its method moved into `algorithm`."""
        name, options = self.algorithm.name, self.algorithm.options
        return replace(self, algorithm=Choice(name, {**self.methods.get(name, {}), **options}), methods={})


def from_config_dict(values: Mapping[str, Any] | ConfigDict) -> Config:
    """A configuration from a `ConfigDict` or a dictionary of sections; what is missing has its default.

    Raises:
      ValueError: if a name is unknown (the message suggests the nearest), a value has the wrong type, or a choice does
        not exist. Nothing is loaded or compiled.
    """
    values = values.to_dict() if isinstance(values, ConfigDict) else dict(values)
    for name in ("tune", "head_local", "personal_local"):
        if isinstance(values.get(name), Mapping):
            values[name] = {**values.get("local", {}), **values[name]}
    config = _section(Config, values, "config")
    _check(config)
    return config


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
    task = tasks.regression(model) if data.num_classes is None else tasks.classification(model)
    if config.run.metric is not None:
        scores.choose(config.run.metric, _measured(task, data))
    pooled = "pooled data" in method(config.algorithm.name).needs
    capacity = data.pooled().capacity if pooled else data.capacity
    recipe = build(config.algorithm.name, task, model, capacity=capacity, **_ingredients(config))
    return Experiment(data, task, recipe, _sampler(config.cohort))


def hyperparameters(config: Config) -> dict[str, float]:
    """The numbers that one compiled program serves, by the names of `Recipe.hyper`; loads and builds nothing.

    Raises:
      ValueError: if the method does not take an option.
    """
    return traced(config.algorithm.name, **_ingredients(config))


def _ingredients(config: Config) -> dict[str, Any]:
    sections = ("local", "tune", "head_local", "personal_local", "server")
    return {"options": config.resolved().algorithm.options} | {name: getattr(config, name) for name in sections}


def load_data(config: DataConfig) -> FederatedData:
    """The federation that a configuration describes.

    Raises:
      ValueError: if data set or partition are unknown or cannot be made.
      FileNotFoundError: if the data are not found.
    """
    if config.name in _SYNTHETIC and config.path is None:
        dataset = _SYNTHETIC[config.name](**config.options)
    else:
        options = ("path", "source", "download", "groups", "units", "times")
        dataset = data_layer.load(config.name, **{option: getattr(config, option) for option in options})
    dealt = PARTITIONS[config.partition.name](**config.partition.options)
    options = ("test", "validation", "unseen", "stratify", "chronological", "seed", "min_size")
    return data_layer.federate(dataset, dealt, **{option: getattr(config, option) for option in options})


def run(
    config: Config,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
    data: FederatedData | None = None,
) -> Result:
    """One run.

    Args:
      config: the configuration.
      out: a folder for `config.json`, `summary.json`, `clients.npz` and checkpoints, or None.
      resume: continue the run in `out`, bit for bit as if it had not stopped.
      progress: a live bar on the standard error.
      data: the federation, if it is at hand already.

    Raises:
      FileExistsError: if `out` holds another run.
      ValueError, FileNotFoundError: if the configuration cannot be met.
      engine.Diverged: if a model is no longer finite.
    """
    experiment = prepare(config, data)
    if out is not None:
        _claim(Path(out), config.to_dict(), resume)
    with Bar(progress) as bar:
        return _run(config, experiment, out, resume, bar)


def compare_methods(
    config: Config,
    methods: Iterable[str],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
) -> Comparison:
    """Several methods on the same data, each in its own folder below `out`. See `run`.

    Raises:
      ValueError: if a method is unknown or named twice, besides what `run` raises.
    """
    names = list(methods)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods={','.join(names)}: name at least one, and each once")
    configs = {name: config.of_method(name) for name in names}
    data = load_data(config.data)
    experiments = {name: prepare(each, data) for name, each in configs.items()}
    folders = {name: None if out is None else Path(out) / name for name in names}
    if out is not None:
        _claim(Path(out), {"config": config.to_dict(), "methods": names}, resume)
        for name, each in configs.items():
            _claim(Path(out) / name, each.to_dict(), resume)
    with Bar(progress) as bar:
        comparison = Comparison(
            {name: _run(each, experiments[name], folders[name], resume, bar) for name, each in configs.items()}
        )
    if out is not None and hosts.leads():
        comparison.save(out, replace=True)
    return comparison


def resume(out: str | Path, *, progress: bool = False) -> Result | Comparison:
    """Continues what was begun in `out`: a run, or a comparison.

    Raises:
      FileNotFoundError: if nothing was.
    """
    begun = hosts.shared(lambda: _begun(Path(out)))
    if "methods" in begun and "config" in begun:
        return compare_methods(from_config_dict(begun["config"]), begun["methods"], out, resume=True, progress=progress)
    return run(from_config_dict(begun), out, resume=True, progress=progress)


def _begun(out: Path) -> dict[str, Any]:
    path = out / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{out} holds no run to resume: config.json is missing")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): start the run again") from error


def compare(
    task: Task, algorithms: Mapping[str, Algorithm], data: FederatedData, *, progress: bool = False, **options: Any
) -> Comparison:
    """Runs algorithms on the same data.

    Args:
      task: the model, for predictions.
      algorithms: name -> algorithm; `local_only` is what the others are compared with.
      data: the federation.
      progress: a live bar on the standard error.
      **options: of `engine.simulate`, such as `rounds`, `eval_every`, `seed`, `cohort`.
    """
    with Bar(progress) as bar:
        return Comparison(
            {
                name: engine.simulate(
                    task, algorithm, data, method=name, progress=_watch(bar, name, options["rounds"]), **options
                )
                for name, algorithm in algorithms.items()
            }
        )


def _run(config: Config, experiment: Experiment, out: str | Path | None, resume: bool, bar: Bar) -> Result:
    if out is not None and resume and hosts.shared((Path(out) / "summary.json").is_file):
        return hosts.shared(lambda: Result.load(out))
    recipe, name = experiment.recipe, config.algorithm.name
    result = engine.simulate(
        experiment.task,
        recipe.make,
        experiment.data,
        seed=config.run.seed,
        hyper=recipe.hyper,
        method=name,
        checkpoint=None if out is None else Path(out) / "checkpoint",
        resume=resume,
        progress=_watch(bar, name, config.run.rounds, config.run.metric),
        store=config.run.store,
        **experiment.options(config.run),
    ).configured(config.to_dict())
    if out is not None and hosts.leads():
        result.save(out, replace=True)
    return result


def _claim(out: Path, content: dict[str, Any], resume: bool) -> None:
    """Makes `out` the folder of the run that `content` describes."""
    if not hosts.leads():
        return
    path = out / "config.json"
    content = json.loads(json.dumps(content))
    if not resume:
        results.vacant(out)
    elif path.is_file() and json.loads(path.read_text()) != content:
        raise FileExistsError(f"{out} holds a run with another configuration: choose another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise PermissionError(f"cannot write to {out}: {error.strerror}; choose another folder") from error


def _watch(bar: Bar, name: str, rounds: int, metric: str | None = None) -> Callable[[int, dict[str, np.ndarray]], None]:
    line = bar.line(name, "round", rounds)

    def show(done: int, measured: dict[str, np.ndarray]) -> None:
        compared = scores.choose(metric, scores.names(measured))
        line(done, compared.say(metrics.mean(measured[f"personal/test/{compared.name}"])))

    return show


def _measured(task: Task, data: FederatedData) -> list[str]:
    """Names of the scores of a task."""
    rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), data.examples)
    key = jax.random.key(0)
    return list(jax.eval_shape(lambda x, y: task.measure(task.predict(task.init(key), x), y), rows.x, rows.y))


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


def _section(cls: type, values: Any, where: str) -> Any:
    """A dataclass from a dictionary, checked by its type hints."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}={values!r}: it must be a section")
    hints = typing.get_type_hints(cls)
    if cls is Choice:
        if not isinstance(values.get("name"), str):
            raise ValueError(f"{where} lacks a name: set {where}.name")
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return Choice(str(options.pop("name")), options)
    check_names(values, [f.name for f in fields(cls)], where)
    made = {}
    for name, value in values.items():
        inner = next((kind for kind in (hints[name], *typing.get_args(hints[name])) if is_dataclass(kind)), None)
        path = f"{where}.{name}"
        section = inner is not None and not (value is None and type(None) in typing.get_args(hints[name]))
        made[name] = _section(inner, value, path) if section else check_value(value, hints[name], path)  # pyright: ignore
    try:
        return cls(**made)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check(config: Config) -> None:
    """That every choice exists and takes its options."""
    check_names([config.data.partition.name], PARTITIONS, "config.data.partition.name")
    check_options(PARTITIONS[config.data.partition.name], config.data.partition.options, "config.data.partition")
    check_names([config.model.name], models.MODELS, "config.model.name")
    check_options(models.MODELS[config.model.name], config.model.options, "config.model", skip=2)
    for name in (config.algorithm.name, *config.methods):
        method(name)
    if config.data.name in _SYNTHETIC:
        check_options(_SYNTHETIC[config.data.name], config.data.options, "config.data.options")
    elif config.data.options:
        raise ValueError(f"config.data.options are for synthetic data, not for {config.data.name!r}: leave them out")


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values by their dotted names."""
    flat = {}
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
        flat |= inner
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return {"name": value.name} | _plain(value.options)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
