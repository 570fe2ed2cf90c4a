"""Experiments: a configuration of plain values becomes data, a model, a method and a result."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import json
import logging
import math
import os
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from ml_collections import ConfigDict

from pfljax import checks, engine, files, models
from pfljax import data as data_layer
from pfljax.algorithms import METHODS, method
from pfljax.checks import When
from pfljax.data import FederatedData, partition, synthetic
from pfljax.data.sources import NAMES
from pfljax.engine import hosts
from pfljax.engine.checkpoint import differences
from pfljax.engine.course import Diverged
from pfljax.engine.executors import Executor
from pfljax.engine.simulation import Build, Store, check_rounds
from pfljax.experiment.progress import Bar
from pfljax.experiment.recipe import (
    Recipe,
    ServerConfig,
    SolverConfig,
    build,
    check_options,
    options_of,
    sections_of,
    traced,
)
from pfljax.federation import sampling
from pfljax.federation.sampling import Sampler
from pfljax.learning import tasks
from pfljax.results import scores, statistics
from pfljax.results.deployed import Deploy, Models
from pfljax.results.result import Comparison, Result, Select, vacant
from pfljax.types import Task

PARTITIONS = partition.PARTITIONS
"""Name -> partitioner, as `data.partition.name` means it."""

_SOLVERS = ("local", "tune", "head_local", "personal_local")
SOLVED = (*_SOLVERS, "server")
"""Sections that only some methods read."""
# What may change when a run is continued.
_FREE = ("rounds", "eval_every", "patience", "executor", "store", "select")

# Says, sealed, what a folder was begun as, should `config.json` be lost.
_COPY = Path("checkpoint") / "begun.json"

_SYNTHETIC = {make.__name__: make for make in (synthetic.synthetic, synthetic.synthetic_v2)}


@checks.spelled()
@dataclass(frozen=True)
class Choice:
    """One of several by name, with values for its arguments; in a dictionary `{"name": ..., argument: value, ...}`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.fields(self)


@checks.spelled()
@dataclass(frozen=True)
class DataConfig:
    """Which examples, and who holds them.

    Args:
      name: a data set for `data.load`, or `synthetic` / `synthetic_v2`.
      path: a file or folder instead of the usual places.
      source: where it is looked for.
      download: let TFDS download what is found nowhere.
      groups: the array or feature that names the natural client, see `data.load`.
      units: the array that names what stays together in a split.
      times: the array that orders the examples of a client.
      options: arguments of a synthetic data set.
      partition: a partitioner of `PARTITIONS` with its arguments.
      test: share of each client's examples that test, or what is done with the official test set; see `data.federate`.
      validation: share of the others that validate.
      unseen: share of the clients that never train.
      stratify: each class in proportion in every split.
      chronological: the last examples of a client validate and test.
      seed: of partition, unseen clients and splits.
      min_size: fewest examples of a client.
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
    test: checks.Part | Literal["mirror", "pooled"] = 0.25
    validation: checks.Part = 0.0
    unseen: checks.Part = 0.0
    stratify: bool = False
    chronological: bool = False
    seed: checks.Seed = 0
    min_size: checks.Size = 1

    def __post_init__(self) -> None:
        checks.fields(self)
        dealt = self.partition
        checks.choice(dealt.name, PARTITIONS, "partition.name")
        options = checks.arguments(PARTITIONS[dealt.name], dealt.options, "partition")
        with checks.within("partition"):
            PARTITIONS[dealt.name](**options)
        if self.name in _SYNTHETIC:
            checks.arguments(_SYNTHETIC[self.name], self.options, "options")
        elif self.options:
            raise ValueError(f"options={self.options} are for synthetic data, not for {self.name!r}: leave them out")
        elif self.path is None and self.source != "tfds":
            checks.choice(self.name, dict.fromkeys((*NAMES, *_SYNTHETIC)), "name")
        made = self.name in _SYNTHETIC or (self.name == "digits" and self.path is None)
        for name in ("path", "source", "download", "groups", "units", "times"):
            if made and getattr(self, name) != getattr(DataConfig, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for files, and {self.name!r} is made: leave it out"
                )


@checks.spelled()
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
    size: Annotated[checks.Count, When("sampling", ("uniform", "weighted", "poisson"))] = 10
    rate: Annotated[checks.Share, When("sampling", ("poisson",))] = 0.5
    dropouts: checks.Share = 0.0
    stragglers: checks.Share = 0.0
    partial: Annotated[bool, When("stragglers")] = True

    def __post_init__(self) -> None:
        checks.fields(self)


@checks.spelled()
@dataclass(frozen=True)
class RunConfig:
    """How long, how often, and how.

    Args:
      rounds: rounds in all.
      eval_every: rounds between two evaluations, each with a checkpoint where results are kept.
      patience: evaluations in a row no better on validation examples that end the run; None: all rounds are done.
      seed: of initial models, cohorts and minibatches.
      executor: `auto`, `vmap`, `sequential` or a block size; see `engine.Simulation`.
      store: the clients' states on the `device`, in `host` memory, or `auto`; see `engine.Simulation`.
      precision: that the model computes in, see `models.compute_in`.
      onboard_rounds: rounds of onboarding for unseen clients.
      select: which evaluation tables report.
      metric: what clients are compared by, see `scores.read`; accuracy or loss if None.
    """

    rounds: checks.Count = 20
    eval_every: checks.Count = 1
    patience: checks.Count | None = None
    seed: checks.Seed = 0
    executor: Executor = "auto"
    store: Store = "auto"
    precision: models.Precision = "default"
    onboard_rounds: checks.Size = 5
    select: Select = "last"
    metric: str | None = None

    def __post_init__(self) -> None:
        checks.fields(self)


@checks.spelled()
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

    def __post_init__(self) -> None:
        checks.fields(self)
        checks.choice(self.model.name, models.MODELS, "model.name")
        checks.arguments(models.MODELS[self.model.name], self.model.options, "model", skip=2)
        checks.choice(self.algorithm.name, METHODS, "algorithm.name")
        check_options(self.algorithm.name, self.algorithm.options)
        checks.names(self.methods, METHODS, "methods")
        for name, options in self.methods.items():
            check_options(name, checks.value(options, dict, f"methods.{name}"), f"methods.{name}")
        split = self.run.select.removeprefix("best_")
        if split != "last" and getattr(self.data, split) == 0:
            raise ValueError(f"run.select={self.run.select!r}: nobody has {split} examples; set data.{split}=0.2")
        if self.run.patience is not None and not self.data.validation:
            raise ValueError(
                f"run.patience={self.run.patience}: nobody has validation examples; set data.validation=0.2"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `from_config_dict` reads them."""
        return _plain(self)

    def of_method(self, name: str) -> Config:
        """The same experiment with another method and its options of `methods`."""
        return self if name == self.algorithm.name else replace(self, algorithm=Choice(name))

    def idle(self, methods: Iterable[str]) -> dict[str, str]:
        """Fields that change nothing in runs of these methods, by dotted names, each with the reason."""
        methods = list(methods)
        who, reasons = ", ".join(methods), {}
        for section in SOLVED:
            read = set().union(*(sections_of(name).get(section, ()) for name in methods))
            takers = [name for name in METHODS if section in sections_of(name)]
            remedy = "leave it out" if section == "local" else f"it is for {', '.join(takers)}"
            reasons |= {} if read else {section: f"has no effect on {who}: {remedy}"}
            for name in checks.hints(ServerConfig if section == "server" else SolverConfig).keys() - read:
                own = f"server_{name}" if section == "server" else name
                named = any(own in options_of(method) for method in methods)
                instead = f"set algorithm.{own}" if named else remedy
                reasons[f"{section}.{name}"] = f"has no effect on {who}: {instead}"
        for section in (*SOLVED, "cohort"):
            if (config := getattr(self, section)) is not None:
                idle = checks.idle(type(config), vars(config))
                reasons |= {f"{section}.{name}": reason for name, reason in idle.items()}
        if all("pooled data" in method(name).needs for name in methods):
            reason = f"has no effect on {who}, which trains on all data in every round: leave it out"
            reasons |= {f"cohort.{name}": reason for name in checks.hints(CohortConfig)}
        if not self.data.unseen:
            reasons["run.onboard_rounds"] = "is for unseen clients: set data.unseen"
        return reasons

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
    values = values.to_dict() if isinstance(values, ConfigDict) else dict(checks.value(values, dict, "config"))
    local = values.get("local")
    for name in _SOLVERS[1:]:
        if isinstance(values.get(name), Mapping) and isinstance(local, Mapping):
            inherited = {**local, **values[name]}
            left = checks.idle(SolverConfig, inherited).keys() - values[name].keys()
            values[name] = {key: value for key, value in inherited.items() if key not in left}
    return _section(Config, values, "config")


def _options(factory: Callable[..., Any], skip: int = 0) -> list[str]:
    return list(inspect.signature(factory).parameters)[skip:]


_CHOICES: dict[str, Callable[[str], Iterable[str]]] = {
    "algorithm.name": lambda name: (),
    "model.name": lambda name: _options(models.MODELS[name], 2) if name in models.MODELS else (),
    "data.partition.name": lambda name: _options(PARTITIONS[name]) if name in PARTITIONS else (),
}
"""Fields that choose something -> the options that stay when another one is chosen."""


def overridden(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a configuration with some fields changed, by dotted names.

    What a change makes idle is left behind: options of another method, model or partition, fields of another plan.

    >>> overridden({"algorithm": {"name": "ditto", "lam": 0.1}}, {"algorithm.name": "fedprox", "algorithm.mu": 0.3})
    {'algorithm': {'name': 'fedprox', 'mu': 0.3}}

    Raises:
      ValueError: if there is no such section.
    """
    values, defaults = copy.deepcopy(dict(values)), Config().to_dict()
    for path in sorted(changes, key=lambda path: (path.count("."), not path.endswith(".name"))):
        *sections, last = path.split(".")
        checks.names(sections[:1] or [last], defaults, "config")
        section, default = values, defaults
        for name in sections:
            default = default.get(name)
            default = default if isinstance(default, dict) else {}
            if section.get(name) is None or isinstance(section[name], int | float):
                section[name] = copy.deepcopy(default)
            section = section[name]
            if not isinstance(section, dict):
                raise ValueError(f"{path}: {name!r} is a value, not a section")
        if path in _CHOICES and section.get("name") != changes[path]:
            for option in section.keys() - {*_CHOICES[path](changes[path])}:
                del section[option]
        section[last] = changes[path]
    for name in {path.split(".")[0] for path in changes} & {*SOLVED, "cohort"}:
        for section in _SOLVERS if name == "local" else (name,):
            _drop_idle(values, section, changes)
    return values


def _drop_idle(values: dict[str, Any], section: str, changes: Mapping[str, Any]) -> None:
    cls = {"server": ServerConfig, "cohort": CohortConfig}.get(section, SolverConfig)
    if section in changes or not isinstance(given := values.get(section), dict):
        return
    shared = values.get("local") if cls is SolverConfig else None
    for name in checks.idle(cls, {**(shared or {}), **given}):
        if f"{section}.{name}" not in changes:
            given.pop(name, None)


def check_effect(config: Config, methods: Iterable[str], changes: Iterable[str] | None = None) -> None:
    """Refuses what was set and changes nothing in runs of these methods.

    Args:
      config: the configuration.
      methods: which are run.
      changes: the fields that were set, by dotted names; all that are not as by default if None. A configuration with
        `methods` describes more than one of them, and its sections may be for others.

    Raises:
      ValueError: with the field, its value and what it is for.
    """
    methods = list(methods)
    idle = config.idle(methods)
    if changes is None:
        changes = [] if config.methods else [path for path in idle if _differs(config, path)]
    for path in changes:
        section, _, name = path.partition(".")
        if path in idle:
            raise ValueError(f"config.{path}{f'={_value(config, path)!r}' if name else ''} {idle[path]}")
        if section == "algorithm" and config.algorithm.name not in methods:
            raise ValueError(f"config.{path} is for {config.algorithm.name}, which is not run: set config.methods")
        if section == "methods" and name and name.split(".")[0] not in methods:
            raise ValueError(f"config.{path} is for {name.split('.')[0]}, which is not run: leave it out")


def _value(config: Config, path: str) -> Any:
    section, _, name = path.partition(".")
    return getattr(getattr(config, section), name, None) if name else getattr(config, section)


def _differs(config: Config, path: str) -> bool:
    """Whether a section or a field is not as by default; one of a section that may be left out follows `local`."""
    section, _, name = path.partition(".")
    follows = bool(name) and getattr(Config(), section) is None
    return not follows and _value(config, path) != _value(Config(), path)


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
    task = tasks.regression(model) if data.num_classes is None else tasks.classification(model)
    if config.run.metric is not None:
        scores.choose(config.run.metric, _measured(task, data))
    pooled = "pooled data" in method(config.algorithm.name).needs
    capacity = data.pooled().capacity if pooled else data.capacity
    recipe = build(config.algorithm.name, task, model, capacity=capacity, **_ingredients(config))
    return Experiment(data, task, recipe, _sampler(config.cohort))


def hyperparameters(config: Config) -> dict[str, Any]:
    """The numbers that one compiled program serves, by the names of `Recipe.hyper`; loads and builds nothing.

    Raises:
      ValueError: if the method does not take an option.
    """
    return traced(config.algorithm.name, **_ingredients(config))


def _ingredients(config: Config) -> dict[str, Any]:
    sections = {name: getattr(config, name) for name in SOLVED}
    return {"options": config.resolved().algorithm.options, "rounds": config.run.rounds, **sections}


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


@checks.by_hints()
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
      Diverged: if a model is no longer finite; `out` and the error's `result` have the evaluations before.
    """
    if not resume:
        check_effect(config, [config.algorithm.name])
    experiment = prepare(config, data)
    with _claimed(out, _Begun(config), resume), Bar(progress) as bar:
        return _run(config, experiment, out, resume, bar)


@checks.by_hints()
def compare_methods(
    config: Config,
    methods: Sequence[str],
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
    if not resume:
        check_effect(config, names)
    data = load_data(config.data)
    experiments = {name: prepare(each, data) for name, each in configs.items()}
    folders = {name: None if out is None else Path(out) / name for name in names}
    whole = _Begun(config, names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_claimed(out, whole, resume))
        for name, each in configs.items():
            stack.enter_context(_claimed(folders[name], _Begun(each), resume))
        bar = stack.enter_context(Bar(progress))
        comparison = _compared(
            {
                name: functools.partial(_run, each, experiments[name], folders[name], resume, bar)
                for name, each in configs.items()
            }
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


@checks.by_hints(rest=engine.simulate)
def compare(
    task: Task,
    algorithms: Mapping[str, Build],
    data: FederatedData,
    *,
    rounds: checks.Count,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Comparison:
    """Runs algorithms on the same data. One that diverges stands with its evaluations before, if it has any.

    Args:
      task: the model, for predictions.
      algorithms: name -> algorithm; `local_only` is what the others are compared with.
      data: the federation.
      rounds: how many in total.
      checkpoint: a folder for checkpoints, with one for each name below it, or None.
      progress: a live bar on the standard error.
      **options: of `engine.simulate`, such as `eval_every`, `seed`, `cohort`.
    """
    with Bar(progress) as bar:
        runs = {}
        for name, algorithm in algorithms.items():
            own = {"method": name, "rounds": rounds, "progress": _watch(bar, name, rounds)}
            own["checkpoint"] = None if checkpoint is None else Path(checkpoint) / name
            runs[name] = functools.partial(engine.simulate, task, algorithm, data, **own, **options)
        return _compared(runs)


def _compared(runs: Mapping[str, Callable[[], Result]]) -> Comparison:
    """What came of each run; of one that diverged its evaluations before, if there are any.

    Raises:
      Diverged: if nothing came of any.
    """
    ended, lost = {}, []
    for name, run in runs.items():
        try:
            ended[name] = run()
        except Diverged as error:
            if error.result is not None:
                ended[name] = error.result
                continue
            lost.append(error)
            logging.getLogger(__name__).warning("%s is left out, it has no evaluation: %s", name, error)
    if not ended:
        raise lost[0]
    return Comparison(ended)


def _run(config: Config, experiment: Experiment, out: str | Path | None, resume: bool, bar: Bar) -> Result:
    if out is not None and resume:
        finished = hosts.shared(lambda: _finished(Path(out), config.run.rounds))
        if finished is not None:

            def again() -> Deploy:
                return typing.cast(Models, _simulated(config, experiment, out, resume=True).models).ready()

            return replace(finished, models=Models(finished.names, again))
    name, run = config.algorithm.name, config.run
    try:
        result = _simulated(config, experiment, out, resume, _watch(bar, name, run.rounds, run.metric))
    except Diverged as error:
        if error.result is not None:
            error.result = _kept(error.result, config, out)
        raise
    return _kept(result, config, out)


def _simulated(
    config: Config,
    experiment: Experiment,
    out: str | Path | None,
    resume: bool,
    progress: Callable[[int, dict[str, np.ndarray]], None] | None = None,
) -> Result:
    recipe = experiment.recipe
    return engine.simulate(
        experiment.task,
        recipe.make,
        experiment.data,
        seed=config.run.seed,
        hyper=recipe.hyper,
        method=config.algorithm.name,
        checkpoint=None if out is None else Path(out) / "checkpoint",
        resume=resume,
        identity=_Begun(config).fixed(),
        progress=progress,
        store=config.run.store,
        **experiment.options(config.run),
    )


def _kept(result: Result, config: Config, out: str | Path | None) -> Result:
    """The result with its configuration, in its folder."""
    result = result.configured(config.to_dict())
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
    check_rounds(rounds, done, out)
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
            vacant(out)
        elif changes := differences(_before(out, begun).fixed(), begun.fixed()):
            raise FileExistsError(f"{out} holds a run with another configuration ({changes}): choose another folder")
        check_rounds(begun.config.run.rounds, _done(out), out)
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


def _watch(bar: Bar, name: str, rounds: int, metric: str | None = None) -> Callable[[int, dict[str, np.ndarray]], None]:
    line = bar.line(name, "round", rounds)

    def show(done: int, measured: dict[str, np.ndarray]) -> None:
        compared = scores.choose(metric, scores.names(measured))
        line(done, compared.say(statistics.mean(measured[f"personal/test/{compared.name}"])))

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
    """A dataclass from a dictionary, which checks itself."""
    if not isinstance(values, Mapping):
        remedy = f": set {where}.name={values!r}" if cls is Choice and isinstance(values, str) else ""
        raise ValueError(f"{where}={values!r}: it must be a section{remedy}")
    if cls is Choice:
        if "name" not in values:
            raise ValueError(f"{where} lacks a name: set {where}.name")
        checks.value(values["name"], str, f"{where}.name")
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return Choice(str(options.pop("name")), options)
    hints = checks.hints(cls)
    checks.names(values, hints, where)
    stated = values if len(values) < len(hints) else {}
    for name, reason in checks.idle(cls, values).items():
        if stated.get(name) is not None:
            raise ValueError(f"{where}.{name}={values[name]!r} {reason}")
    made = {}
    for name, value in values.items():
        inner = next((kind for kind in (hints[name], *typing.get_args(hints[name])) if is_dataclass(kind)), None)
        section = inner is not None and not (value is None and type(None) in typing.get_args(hints[name]))
        made[name] = _section(inner, value, f"{where}.{name}") if section else value  # pyright: ignore
    with checks.within(where):
        return cls(**made)


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
