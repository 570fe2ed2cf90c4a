"""Experiments: a configuration of plain values becomes data, a model, a method and a result."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from pfljax import data as data_layer
from pfljax import engine, files, hosts, models, results, sampling, tasks
from pfljax.algorithms import method
from pfljax.checkpoint import differences
from pfljax.data import FederatedData, partition, synthetic
from pfljax.recipe import Recipe, ServerConfig, SolverConfig, build, check_names, check_options, check_value, traced
from pfljax.results import Comparison, Result, Select
from pfljax.sampling import Sampler
from pfljax.types import Algorithm, Task

PARTITIONS: dict[str, Callable[..., partition.Partitioner]] = {
    make.__name__: make
    for make in (
        partition.classes_per_client,
        partition.dirichlet,
        partition.dirichlet_client,
        partition.iid,
        partition.log_normal,
        partition.natural,
        partition.power_law,
        partition.shards,
    )
}
"""Name -> partitioner, as `data.partition.name` means it."""

# What may change when a run is continued.
_FREE = ("rounds", "eval_every", "executor", "store", "select")

# Says, sealed, what a folder was begun as, should `config.json` be lost.
_COPY = Path("checkpoint") / "begun.json"

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
      path, source, download: see `data.load`.
      options: arguments of a synthetic data set.
      partition: a partitioner of `PARTITIONS` with its arguments.
      test, validation, unseen, seed, min_size: see `data.federate`.
    """

    name: str = "digits"
    path: str | None = None
    source: Literal["auto", "files", "tfds"] = "auto"
    download: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    partition: Choice = Choice("dirichlet", {"clients": 20, "alpha": 0.1})
    test: float | Literal["mirror", "pooled"] = 0.25
    validation: float = 0.0
    unseen: float = 0.0
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
    """

    rounds: int = 20
    eval_every: int = 1
    seed: int = 0
    executor: Literal["auto", "vmap", "sequential"] | int = "auto"
    store: Literal["auto", "device", "host"] = "auto"
    precision: Literal["default", "float32", "tf32", "bfloat16"] = "default"
    onboard_rounds: int = 5
    select: Select = "last"

    def __post_init__(self) -> None:
        for name in ("rounds", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: it must be at least 1")


@dataclass(frozen=True)
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
    if data.num_classes is None:
        raise ValueError(f"{data.name} has real-valued targets; configurations describe classification")
    shape = tuple(np.shape(data.examples.x)[1:])
    model = models.by_name(config.model.name, shape, data.num_classes, **config.model.options)
    model = models.compute_in(model, config.run.precision)
    task = tasks.classification(model)
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
        dataset = data_layer.load(config.name, path=config.path, source=config.source, download=config.download)
    dealt = PARTITIONS[config.partition.name](**config.partition.options)
    return data_layer.federate(
        dataset,
        dealt,
        test=config.test,
        validation=config.validation,
        unseen=config.unseen,
        seed=config.seed,
        min_size=config.min_size,
    )


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
      resume: continue the run in `out`, bit for bit as if it had not stopped. The configuration may ask for more rounds
        than it did, and for other ways to compute and report (`eval_every`, `executor`, `store`, `select`).
      progress: a live bar on the standard error.
      data: the federation, if it is at hand already.

    Raises:
      FileExistsError: if `out` holds another run.
      BlockingIOError: if another process uses `out`; the message says which.
      PermissionError, OSError: if a file cannot be written.
      ValueError, FileNotFoundError: if the configuration cannot be met, or asks for fewer rounds than are done.
      engine.Diverged: if a model is no longer finite.
    """
    experiment = prepare(config, data)
    with _claimed(out, _Begun(config), resume), _bar(progress) as bar:
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
    whole = _Begun(config, names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_claimed(out, whole, resume))
        for name, each in configs.items():
            stack.enter_context(_claimed(folders[name], _Begun(each), resume))
        bar = stack.enter_context(_bar(progress))
        comparison = Comparison(
            {name: _run(each, experiments[name], folders[name], resume, bar) for name, each in configs.items()}
        )
        if out is not None and hosts.leads():
            comparison.save(out, replace=True)
            files.write_json(Path(out) / "config.json", whole.plain())
    return comparison


def resume(out: str | Path, *, rounds: int | None = None, progress: bool = False) -> Result | Comparison:
    """Continues what was begun in `out`: a run, or a comparison.

    Args:
      out: its folder.
      rounds: how many in all, more than it was begun with; its first rounds are kept. As it was begun if None.
      progress: a live bar on the standard error.

    Raises:
      FileNotFoundError: if nothing was.
      ValueError: if what is left does not say what was, or more than `rounds` are done; besides what `run` raises.
    """
    begun = hosts.shared(lambda: _begun(files.named(out)))
    config = begun.config
    if rounds is not None:
        config = replace(config, run=replace(config.run, rounds=rounds))
    if begun.methods is not None:
        return compare_methods(config, begun.methods, out, resume=True, progress=progress)
    return run(config, out, resume=True, progress=progress)


class _Begun(typing.NamedTuple):
    """What a folder was begun as."""

    config: Config
    methods: list[str] | None = None  # of a comparison

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        config = self.config.to_dict()
        return config if self.methods is None else {"config": config, "methods": self.methods}

    def fixed(self) -> dict[str, Any]:
        """What stays as it is when the run is continued."""
        config = json.loads(json.dumps(self.config.to_dict()))
        config["run"] = {name: value for name, value in config["run"].items() if name not in _FREE}
        return {"config": config, "methods": self.methods}


def _begun(out: Path) -> _Begun:
    """What `out` was begun as, by the sealed copy beside the checkpoints, or else by `config.json`.

    Raises:
      FileNotFoundError: if there is neither.
      ValueError: if none is sound.
    """
    lost: Exception = FileNotFoundError(f"{out} holds no run to resume: config.json is missing")
    for path in (out / _COPY, out / "config.json"):
        if not os.path.isfile(path):
            continue
        try:
            return _parsed(files.read_json(path, "nothing else says what was begun: delete the folder and start again"))
        except (ValueError, TypeError) as error:
            lost = error if str(path) in str(error) else ValueError(f"{path}: {error}")
    raise lost


def _parsed(content: dict[str, Any]) -> _Begun:
    if content.keys() == {"config", "methods"}:
        return _Begun(from_config_dict(content["config"]), list(content["methods"]))
    return _Begun(from_config_dict(content))


def _done(out: Path) -> int:
    """Rounds after which there is a checkpoint, of a run or of any method of a comparison."""
    kept = (*out.glob("checkpoint/*"), *out.glob("*/checkpoint/*"))
    return max((int(path.name) for path in kept if path.name.isdigit()), default=0)


def compare(
    task: Task,
    algorithms: Mapping[str, Algorithm],
    data: FederatedData,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Runs algorithms on the same data.

    Args:
      task: the model, for predictions.
      algorithms: name -> algorithm; `local_only` is what the others are compared with.
      data: the federation.
      checkpoint: a folder for checkpoints, with one for each name below it, or None.
      progress: a live bar on the standard error.
      **options: of `engine.simulate`, such as `rounds`, `eval_every`, `seed`, `cohort`.
    """
    with _bar(progress) as bar:
        return Comparison(
            {
                name: engine.simulate(
                    task,
                    algorithm,
                    data,
                    method=name,
                    checkpoint=None if checkpoint is None else Path(checkpoint) / name,
                    progress=_watch(bar, name, options["rounds"]),
                    **options,
                )
                for name, algorithm in algorithms.items()
            }
        )


def _run(config: Config, experiment: Experiment, out: str | Path | None, resume: bool, bar: Progress) -> Result:
    if out is not None and resume:
        finished = hosts.shared(lambda: _finished(Path(out), config.run.rounds))
        if finished is not None:
            return finished
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
        identity=_Begun(config).fixed(),
        progress=_watch(bar, name, config.run.rounds),
        store=config.run.store,
        **experiment.options(config.run),
    ).configured(config.to_dict())
    if out is not None and hosts.leads():
        result.save(out, replace=True)
    return result


def _finished(out: Path, rounds: int) -> Result | None:
    """The result in `out`, if it is whole and has all `rounds`."""
    try:
        result = Result.load(out)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.getLogger(__name__).warning("%s; it is made again from the checkpoints", error)
        return None
    done = int(result.rounds[-1])
    engine.check_rounds(rounds, done, out)
    return result if done == rounds else None


@contextlib.contextmanager
def _claimed(out: str | Path | None, begun: _Begun, resume: bool) -> Iterator[None]:
    """Makes `out` the folder of a run, and keeps other processes out of it."""
    if out is None and resume:
        raise ValueError("resume=True without a folder: give the one of the run, out=...")
    if out is None or not hosts.leads():
        yield
        return
    out = files.named(out)
    with files.held(out):
        if not resume:
            results.vacant(out)
        elif changes := differences(_before(out, begun).fixed(), begun.fixed()):
            raise FileExistsError(f"{out} holds a run with another configuration ({changes}): choose another folder")
        engine.check_rounds(begun.config.run.rounds, _done(out), out)
        if not os.path.exists(out / "summary.json"):
            files.write_json(out / "config.json", begun.plain())
        files.write_json(out / _COPY, files.sealed(begun.plain()))
        yield


def _before(out: Path, begun: _Begun) -> _Begun:
    """What `out` was begun as; `begun` if nothing says so."""
    try:
        return _begun(out)
    except (FileNotFoundError, ValueError):
        return begun


def _bar(visible: bool) -> Progress:
    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not (visible and hosts.leads()),
    )


def _watch(bar: Progress, name: str, rounds: int) -> Callable[[int, dict[str, np.ndarray]], None]:
    line = bar.add_task(f"{name:<18}", total=rounds, state="compiling ...")

    def show(done: int, scores: dict[str, np.ndarray]) -> None:
        state = f"round {done}/{rounds}"
        if "personal/test/accuracy" in scores:
            state += f"  accuracy {100 * np.nanmean(scores['personal/test/accuracy']):.1f}%"
        bar.update(line, completed=done, state=state)

    return show


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


def _plain(value: Any) -> Any:
    if isinstance(value, Choice):
        return {"name": value.name} | _plain(value.options)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
