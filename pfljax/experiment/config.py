"""Configurations: sections of plain values that check themselves, with nothing loaded."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict

from pfljax import checks, models
from pfljax.algorithms import METHODS, POOLED, method
from pfljax.checks import When
from pfljax.data import drift, partition, shifts, synthetic
from pfljax.data.federated import Unseen
from pfljax.data.scaling import Standardize
from pfljax.data.sources import NAMES
from pfljax.data.table import from_frame
from pfljax.engine.blocks import Executor
from pfljax.engine.residence import Store
from pfljax.experiment.recipe import (
    ServerConfig,
    SolverConfig,
    check_options,
    options_of,
    sections_of,
)
from pfljax.experiment.wrapping import WrappersConfig
from pfljax.learning.metrics import CLASSIFICATION, MULTILABEL, ORDINAL, REGRESSION
from pfljax.results import scores
from pfljax.results.result import Select

PARTITIONS = partition.PARTITIONS
"""Name -> partitioner, as `data.partition.name` means it."""


SOLVERS = ("local", "tune", "head_local", "personal_local")


SOLVED = (*SOLVERS, "server")
"""Sections that only some methods read."""


SYNTHETIC = {make.__name__: make for make in (synthetic.synthetic, synthetic.synthetic_v2)}


@checks.spelled()
@dataclass(frozen=True)
class Choice:
    """One of several by name, with values for its arguments; in a dictionary `{"name": ..., argument: value, ...}`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.fields(self)


OF_FILES = ("path", "source", "download", "groups", "units", "times", "client", "target")
"""Fields of `DataConfig` that say where and how data are read."""


@checks.spelled()
@dataclass(frozen=True)
class DriftConfig:
    """How clients drift: concepts that follow each other, see `data.drifting`.

    Args:
      kind: in the k-th concept, counted from 0, class c is called `(c + k) mod C` (`labels`), images are turned by k
        quarters (`rotation`), or the training examples, in time, are the k-th part of them (`time`; see `data.in_time`,
        whose share of validation is `data.validation`).
      changes: rounds, counted from 0, in which the next concept begins, or begins to come in.
      gradual: rounds over which a new one comes in.
      recurring: the last change is back to the first concept, and then all comes again.
      share: of the clients that drift.
      spread: rounds by which a client may be late, at random.
    """

    kind: Literal["labels", "rotation", "time"] = "labels"
    changes: tuple[checks.Count, ...] = (10,)
    gradual: checks.Size = 0
    recurring: bool = False
    share: checks.Share = 1.0
    spread: checks.Size = 0

    def __post_init__(self) -> None:
        checks.fields(self)
        drift.begins(self.changes, self.concepts, gradual=self.gradual, recurring=self.recurring)

    @property
    def concepts(self) -> int:
        """How many there are."""
        return len(self.changes) + (not self.recurring)


@checks.spelled()
@dataclass(frozen=True)
class ShiftConfig:
    """How clients differ in what they see, or in what they call it, see `data.shifted`.

    Args:
      kind: of the heterogeneity.
      levels: of it: one for each group of clients, or those of the first and the last client, of a `ramp`.
      spread: who has which level.
    """

    kind: str = "rotation"
    levels: tuple[float, ...] = (0, 90, 180, 270)
    spread: shifts.Spread = "turns"

    def __post_init__(self) -> None:
        checks.fields(self)
        shifts.checked(self.kind, self.levels)


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
      times: the array, or column, that orders the examples of a client.
      client: the column of a table that says whose a row is; the partition is then natural, unless it is set.
      target: the column of a table that is learned.
      options: arguments of a synthetic data set, what else `data.from_frame` takes of a table, or the `size` of images.
      partition: a partitioner of `PARTITIONS` with its arguments.
      test: share of each client's examples that test, or what is done with the official test set; see `data.federate`.
      validation: share of the others that validate.
      unseen: share of the clients that never train, or how many.
      public: share of the examples that everybody sees and nobody holds.
      stratify: each class in proportion in every split.
      chronological: the last examples of a client validate and test.
      standardize: numbers on one scale, by the training examples of all clients or each client's own; tables are
        `pooled` if None.
      seed: of partition, unseen clients and splits.
      min_size: fewest examples of a client.
      clusters: groups of clients with like shares of the classes, see `data.grouped`; None: there are no groups.
      featurized: each example has the context of its client beside it, its group if there are `clusters`; see
        `data.featurized`.
      shift: of inputs or labels, client by client; None: none.
      drift: how examples change with the rounds; None: they do not.
    """

    name: str = "digits"
    path: str | None = None
    source: Literal["auto", "files", "tfds"] = "auto"
    download: bool = False
    groups: str | None = None
    units: str | None = None
    times: str | None = None
    client: str | None = None
    target: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    partition: Choice = Choice("dirichlet", {"clients": 20, "alpha": 0.1})
    test: checks.Part | Literal["mirror", "pooled", "given"] = 0.25
    validation: checks.Part = 0.0
    unseen: Unseen = 0.0
    public: checks.Part = 0.0
    stratify: bool = False
    chronological: bool = False
    standardize: Standardize | None = None
    seed: checks.Seed = 0
    min_size: checks.Size = 1
    clusters: checks.Count | None = None
    featurized: bool = False
    shift: ShiftConfig | None = None
    drift: DriftConfig | None = None

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.featurized and self.clusters is None:
            raise ValueError("featurized=True: nothing is known of the clients; set clusters=2, or leave it out")
        if self.drift is not None and self.drift.kind == "time" and not self.chronological:
            raise ValueError("drift.kind='time' needs examples in time: set chronological=True, or another kind")
        if self.client is not None and self.partition == DataConfig.partition:
            object.__setattr__(self, "partition", Choice("natural"))
        dealt = self.partition
        checks.choice(dealt.name, PARTITIONS, "partition.name")
        options = checks.arguments(PARTITIONS[dealt.name], dealt.options, "partition")
        with checks.within("partition"):
            PARTITIONS[dealt.name](**options)
        if self.name in SYNTHETIC:
            checks.arguments(SYNTHETIC[self.name], self.options, "options")
        elif self.target is not None:
            checks.arguments(from_frame, {"target": self.target} | self.options, "options", skip=1)
        elif self.options.keys() - {"size"}:
            raise ValueError(f"options={self.options} are for synthetic data, not for {self.name!r}: leave them out")
        elif self.path is None and self.source != "tfds":
            checks.choice(self.name, dict.fromkeys((*NAMES, *SYNTHETIC)), "name")
        made = self.name in SYNTHETIC or (self.name == "digits" and self.path is None)
        for name in OF_FILES:
            if made and getattr(self, name) != getattr(DataConfig, name):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is for files, and {self.name!r} is made: leave it out"
                )


_CLASSES = ("auto", "classification")


@checks.spelled()
@dataclass(frozen=True)
class TaskConfig:
    """What is learned.

    Args:
      name: by what the labels are (`auto`: classification of classes, regression of other numbers), or labels that hold
        or not, each on its own (`multilabel`), or classes in order (`ordinal`).
      label_smoothing: share of the target that is dealt to all classes alike.
      ignore: a label that marks what does not count.
      balanced: classes count alike in training, by `weights` of their losses or by the balanced `softmax`.
    """

    name: Literal["auto", "classification", "regression", "multilabel", "ordinal"] = "auto"
    label_smoothing: Annotated[checks.Share, When("name", _CLASSES)] = 0.0
    ignore: Annotated[int | None, When("name", _CLASSES)] = None
    balanced: Annotated[Literal["weights", "softmax"] | None, When("name", _CLASSES)] = None

    def __post_init__(self) -> None:
        checks.fields(self)


@checks.spelled()
@dataclass(frozen=True)
class CohortConfig:
    """Who takes part in a round.

    Args:
      sampling: everybody (`full`), `size` clients `uniform` or `weighted` by examples, each with `rate` (`poisson`), or
        those of high loss among some (`power_of_choice`).
      size: clients of a round; slots of `poisson`.
      candidates: among whom `power_of_choice` chooses.
      rate: chance of each client, of `poisson`.
      dropouts: chance that a sampled client does not reply.
      stragglers: chance that one is slow and does a part of its steps.
      partial: the server takes the work of slow clients.
    """

    sampling: Literal["full", "uniform", "weighted", "poisson", "power_of_choice"] = "full"
    size: Annotated[checks.Count, When("sampling", ("uniform", "weighted", "poisson", "power_of_choice"))] = 10
    candidates: Annotated[checks.Count, When("sampling", ("power_of_choice",))] = 20
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
      metrics: what is measured besides the loss, `accuracy,auc` or a list of names in `learning.metrics`; accuracy, or
        the squared error, if None.
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
    metrics: str | tuple[str, ...] | None = None
    metric: str | None = None

    def __post_init__(self) -> None:
        checks.fields(self)
        if isinstance(self.metrics, str):
            object.__setattr__(self, "metrics", tuple(self.metrics.split(",")))
        for name in self.metrics or ():
            checks.choice(name, dict.fromkeys((*CLASSIFICATION, *REGRESSION, *MULTILABEL, *ORDINAL)), "metrics")
        if self.metrics is not None and self.metric is not None:
            scores.choose(self.metric, [*self.metrics, "loss"])


@checks.spelled()
@dataclass(frozen=True, repr=False)
class Config:
    """A whole experiment.

    Args:
      data: examples and clients; None if a program gives the federation.
      model: a model of `models.MODELS` with its arguments; None if a program gives one of its own.
      kinds: instead of `model`, where clients are of several kinds: a section like it for each, by names. Client n has
        the network of place n modulo their number, unless the clients' trait `kind` says which.
      task: what is learned.
      algorithm: a method with its options, see `recipe.build`.
      methods: method -> options that it has wherever it is run; `algorithm` comes before them.
      local: solver of a client's round.
      tune, head_local, personal_local: solvers of those names where a method has them; as `local` if None. In a
        dictionary, what such a section leaves out is as in `local`.
      server: server optimizer of methods that take one.
      wrappers: what becomes of every upload, and how uploads are reduced.
      cohort: who takes part.
      run: how long.
    """

    data: DataConfig | None = DataConfig()
    model: Choice | None = Choice("mlp", {"hidden": (100,)})
    kinds: dict[str, Any] = field(default_factory=dict)
    task: TaskConfig = TaskConfig()
    algorithm: Choice = Choice("fedavg")
    methods: dict[str, Any] = field(default_factory=dict)
    local: SolverConfig = field(default_factory=SolverConfig)
    tune: SolverConfig | None = None
    head_local: SolverConfig | None = None
    personal_local: SolverConfig | None = None
    server: ServerConfig = field(default_factory=ServerConfig)
    wrappers: WrappersConfig = field(default_factory=WrappersConfig)
    cohort: CohortConfig = CohortConfig()
    run: RunConfig = RunConfig()

    def __repr__(self) -> str:
        """What differs from the defaults, as the command line has it."""
        mine, usual = _flat(self.to_dict()), _flat(Config().to_dict())
        return f"Config({', '.join(f'{name}={value!r}' for name, value in mine.items() if usual.get(name) != value)})"

    def __post_init__(self) -> None:
        checks.fields(self)
        if self.model is not None:
            _check_model(self.model, "model")
        if len(self.kinds) == 1:
            raise ValueError(f"kinds={self.kinds}: name a network for each of several kinds, or set model")
        for kind, given in self.kinds.items():
            _check_model(_section(Choice, given, f"kinds.{kind}"), f"kinds.{kind}")
        checks.choice(self.algorithm.name, METHODS, "algorithm.name")
        check_options(self.algorithm.name, self.algorithm.options)
        checks.names(self.methods, METHODS, "methods")
        for name, options in self.methods.items():
            check_options(name, checks.value(options, dict, f"methods.{name}"), f"methods.{name}")
        if self.data is None:
            return
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
        for section in (*SOLVED, "wrappers", "cohort"):
            if (config := getattr(self, section)) is not None:
                idle = checks.idle(type(config), vars(config))
                reasons |= {f"{section}.{name}": reason for name, reason in idle.items()}
        if all(method(name).prepare is POOLED for name in methods):
            reason = f"has no effect on {who}, which trains on all data in every round: leave it out"
            for section, fields_of in {"cohort": CohortConfig, "wrappers": WrappersConfig}.items():
                reasons |= {f"{section}.{name}": reason for name in checks.hints(fields_of)}
        if self.kinds:
            reasons["model"] = f"has no effect: the networks are those of kinds, {', '.join(self.kinds)}; leave it out"
        clusters = None if self.data is None or self.data.featurized else self.data.clusters
        if clusters is not None and not any("groups" in method(name).needs for name in methods):
            reasons["data.clusters"] = f"has no effect on {who}: it is for methods of groups, such as context_clustered"
        if self.data is not None and not self.data.unseen:
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
    for name in SOLVERS[1:]:
        if isinstance(values.get(name), Mapping) and isinstance(local, Mapping):
            inherited = {**local, **values[name]}
            left = checks.idle(SolverConfig, inherited).keys() - values[name].keys()
            values[name] = {key: value for key, value in inherited.items() if key not in left}
    return _section(Config, values, "config")


def _check_model(model: Choice, where: str) -> None:
    checks.choice(model.name, models.MODELS, f"{where}.name")
    checks.arguments(models.MODELS[model.name], model.options, where, skip=2)
    if made := [name for name, given in model.options.items() if callable(given)]:
        raise ValueError(
            f"{where}.{made[0]} is a function, which no configuration holds: give a Model, made by "
            f"pfl.models.{model.name}(..., {made[0]}=...)"
        )


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
