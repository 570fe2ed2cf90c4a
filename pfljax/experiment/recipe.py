"""Recipes: a method by name, with its ingredients made from plain values.

The parameters of a method's factory are its ingredients; each is made by its name. Every float among them, and every
learning rate of a solver, is a traced hyperparameter: one compiled program serves all their values.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import optax

from pfljax import checks, masks
from pfljax.algorithms import METHODS, POOLED, method
from pfljax.checks import When
from pfljax.data import FederatedData
from pfljax.experiment.wrapping import WrappersConfig, numbers, wrapped
from pfljax.federation.server import ServerOptimizer, fedopt
from pfljax.federation.wrappers import persistent
from pfljax.learning import losses, schedules
from pfljax.learning.local import descent, proximal_descent
from pfljax.learning.memory import Memory
from pfljax.learning.plans import epochs, full_batch, steps
from pfljax.learning.schedules import Schedule
from pfljax.types import (
    Algorithm,
    Array,
    ClientData,
    LocalSolver,
    LossFn,
    Mask,
    Model,
    Params,
    Plan,
    Task,
)

OptimizerName = Literal["sgd", "adam", "adamw", "adagrad", "rmsprop", "yogi"]

_SECTIONS = ("task", "model", "local", "tune", "head_local", "personal_local", "optimizer", "plan", "server")

PLAIN: dict[str, Any] = {
    "adapt": checks.Count,
    "personal": checks.Size | str | tuple[str, ...],
    "head": checks.Size | str | tuple[str, ...],
    "norms": Literal["all", "stats"],
    **dict.fromkeys(("tuned", "own", "compared"), Literal["everything", "head", "body"]),
}
"""What a configuration says for ingredients that are no numbers."""


_Rate = checks.NotNegative | dict[str, Any]
_Momentum = checks.Part | dict[str, Any]
"""A number, or what describes a schedule of such numbers over the rounds, see `schedules.read`."""


@checks.spelled()
@dataclass(frozen=True)
class SolverConfig:
    """A local solver: an optimizer and which minibatches it sees.

    A traced number may be a schedule over the rounds, such as `{"schedule": "cosine", "from": 0.1, "to": 0.001}`.

    Args:
      optimizer: its name in optax.
      lr: learning rate, traced.
      decay: what the learning rate is multiplied by from round to round, traced; 1 leaves it as it is.
      momentum: of `sgd`, traced; 0 leaves it out.
      weight_decay: traced; 0 leaves it out. Decoupled in `adamw`, part of the gradient elsewhere.
      plan: `epochs` passes over the client's examples, so many `steps`, or `full_batch`: `steps` steps on all examples.
      epochs: number of passes.
      steps: number of steps.
      batch_size: examples of a minibatch.
      drop_last: leave out the short last minibatch of an epoch.
      persistent: go on with the optimizer state of the client's last round, see `wrappers.persistent`.
      solver: `proximal_descent` solves proximal problems (FedProx, Ditto, FedAMP) stably at any strength, with plain
        SGD; other problems are descended.
    """

    optimizer: OptimizerName = "sgd"
    lr: _Rate = 0.05
    decay: checks.Positive = 1.0
    momentum: Annotated[_Momentum, When("optimizer", ("sgd",))] = 0.0
    weight_decay: _Rate = 0.0
    plan: Literal["epochs", "steps", "full_batch"] = "epochs"
    epochs: Annotated[checks.Count, When("plan", ("epochs",))] = 1
    steps: Annotated[checks.Count, When("plan", ("steps", "full_batch"))] = 10
    batch_size: checks.Count = 10
    drop_last: Annotated[bool, When("plan", ("epochs",))] = False
    solver: Literal["descent", "proximal_descent"] = "descent"
    persistent: Annotated[bool, When("solver", ("descent",))] = False

    def __post_init__(self) -> None:
        checks.fields(self)
        _rates(self, "", 1)
        plain = self.optimizer == "sgd" and self.momentum == self.weight_decay == 0
        if self.solver == "proximal_descent" and not plain:
            raise ValueError("solver='proximal_descent' needs optimizer='sgd' without momentum and weight decay")


@checks.spelled()
@dataclass(frozen=True)
class ServerConfig:
    """The server optimizer of methods that take one; the default is plain averaging.

    A traced number may be a schedule over the rounds, as in `SolverConfig`.

    Args:
      optimizer: its name in optax.
      lr: learning rate, traced.
      momentum: of `sgd`, traced; 0 leaves it out.
    """

    optimizer: OptimizerName = "sgd"
    lr: _Rate = 1.0
    momentum: Annotated[_Momentum, When("optimizer", ("sgd",))] = 0.0

    def __post_init__(self) -> None:
        checks.fields(self)
        _rates(self, "", 1)


class Recipe(NamedTuple):
    """A method, ready to simulate."""

    make: Callable[..., Algorithm]  # (**hyper) -> algorithm
    hyper: dict[str, Any]  # `lam`, `local.lr`, `server.lr`, ...: all traced
    plan: Plan  # of the local steps, to count them


def build(
    name: str,
    task: Task,
    model: Model,
    *,
    options: Mapping[str, Any] | None = None,
    local: SolverConfig | None = None,
    tune: SolverConfig | None = None,
    head_local: SolverConfig | None = None,
    personal_local: SolverConfig | None = None,
    server: ServerConfig | None = None,
    wrappers: WrappersConfig | None = None,
    capacity: int = 0,
    inputs: int = 0,
    clients: int = 0,
    groups: int = 1,
    rounds: int = 1,
    data: FederatedData | None = None,
) -> Recipe:
    """The method `name` from plain values.

    Args:
      name: of the table of methods.
      task: the model and its loss.
      model: the network, whose blocks and norm layers the masks mean.
      options: values for parameters of the factory. Numbers, strings and flags are given as they are; of ingredients,
        `personal` and `head` are a number of top blocks (1) or paths, `norms` is `"all"` or `"stats"`, `tuned`, `own`
        and `compared` are `"everything"`, `"head"` or `"body"`, `adapt` is a number of steps (1),
        `capacity` a number of examples (all), `groups` one of groups (all).
      local: solver of a client's round; also the minibatches and optimizer of methods that bring their own solver.
      tune, head_local, personal_local: solvers of those names; as `local` if None.
      server: server optimizer.
      wrappers: what becomes of uploads; training on pooled data has none.
      capacity: examples of the largest client, for `plan="full_batch"` and methods that store examples.
      inputs: numbers of an example.
      clients: of the population, of whom wrappers let some attack.
      groups: that clients are in, see `data.num_groups`.
      rounds: of the run, which schedules last unless they say otherwise.
      data: the federation that trains, for the shapes of optimizer states that persist.

    Raises:
      ValueError: if the method or an option is unknown, a value is none of the choices, or the model lacks what the
        method needs.
    """
    row, options = method(name), dict(options or {})
    pooled = row.prepare is POOLED
    parameters = _parameters(name)
    hyper = traced(
        name,
        options=options,
        local=local,
        tune=tune,
        head_local=head_local,
        personal_local=personal_local,
        server=server,
        wrappers=wrappers,
        rounds=rounds,
    )
    local = SolverConfig() if local is None else local
    solvers = _solvers(local, tune, head_local, personal_local)
    lasting = [key for key, read in sections_of(name).items() if "persistent" in read and solvers[key].persistent]
    lasts = data if lasting else None
    if lasting and data is None:
        raise ValueError(f"{lasting[0]}.persistent=True needs the federation that trains: give build(data=...)")
    if "norm layers" in row.needs and not model.norms:
        raise ValueError(f"{name} keeps normalisation layers, and the model has none: use one with, such as resnet8")
    if "features" in row.needs and model.features is None:
        raise ValueError(f"{name} reads features, and the model has none: it must end with a block, see from_linen")

    made: dict[str, Callable[[Any], Any]] = {
        "task": lambda _: task,
        "model": lambda _: model,
        "capacity": lambda examples: examples,
        "groups": lambda number: number,
        "inputs": lambda number: number,
        "plan": lambda _: _plan(local, capacity),
        "adapt": lambda count: steps(count, local.batch_size),
        "personal": lambda blocks: _top(model, blocks),
        "head": lambda blocks: _top(model, blocks),
        "norms": lambda which: masks.norms(model, affine=which == "all"),
        **dict.fromkeys(("tuned", "own", "compared"), lambda which: _part(model, which)),
    }
    preset = {"task": None, "model": None, "capacity": capacity, "groups": groups, "plan": None, "inputs": inputs}
    preset |= {"adapt": 1, "personal": 1, "head": 1, "norms": "all"}
    fixed: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if key in made:
            if key in options or key in preset:
                fixed[key] = made[key](options.get(key, preset.get(key)))
        elif key not in (*hyper, *solvers, "optimizer", "server"):
            if key not in options and parameter.default is parameter.empty:
                raise ValueError(
                    f"{name} needs {key!r}, which no configuration can give: build it with pfl.algorithms.{name}(...)"
                )
            fixed[key] = options.get(key, parameter.default)

    def of(values: Mapping[str, Any], memory: Memory | None) -> Algorithm:
        ingredients: dict[str, Any] = {key: values[key] for key in parameters if key in hyper}
        for key in parameters:
            if key in solvers:
                ingredients[key] = _solver(solvers[key], values, key, capacity, memory)
            elif key == "optimizer":
                ingredients[key] = _optimizer(local, values, "local")
            elif key == "server":
                ingredients[key] = _server(server or ServerConfig(), values)
        return row.factory(**fixed, **ingredients)

    def make(**values: Any) -> Algorithm:
        checks.names(values, hyper, name)
        values = {**hyper, **values}
        algorithm = of(values, None) if lasts is None else persistent(partial(of, values), lasts)
        return algorithm if pooled else wrapped(algorithm, wrappers or WrappersConfig(), values, clients)

    return Recipe(make, hyper, _plan(local, capacity))


def traced(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    local: SolverConfig | None = None,
    tune: SolverConfig | None = None,
    head_local: SolverConfig | None = None,
    personal_local: SolverConfig | None = None,
    server: ServerConfig | None = None,
    wrappers: WrappersConfig | None = None,
    rounds: int = 1,
) -> dict[str, Any]:
    """The hyperparameters that one program of `build` serves, with their values; arguments as there.

    Raises:
      ValueError: if the method or an option is unknown, or a value is no number.
    """
    options, hints = check_options(name, options or {}), method(name).hints()
    local = SolverConfig() if local is None else local
    solvers = _solvers(local, tune, head_local, personal_local)
    hyper: dict[str, float | Schedule] = {}
    for key, parameter in _parameters(name).items():
        if key in solvers:
            hyper |= _rates(solvers[key], key, rounds)
        elif key == "optimizer":
            hyper |= _rates(local, "local", rounds)
        elif key == "server":
            hyper |= _rates(server or ServerConfig(), "server", rounds)
        elif _is_float(hints[key]) and (key in options or parameter.default is not parameter.empty):
            value = options.get(key, parameter.default)
            hyper |= {} if value is None else {key: schedules.number(value, hints[key], f"algorithm.{key}", rounds)}
    pooled = method(name).prepare is POOLED
    return hyper if pooled or wrappers is None else hyper | numbers(wrappers, rounds)


def check_options(name: str, options: Mapping[str, Any], where: str = "algorithm") -> dict[str, Any]:
    """The options of a method as its factory and the ingredients have them; the model may refuse more.

    Raises:
      ValueError: if the method does not take one, or a value has another type or is out of range.
    """
    hints, known = method(name).hints(), options_of(name)
    for key in options:
        if key not in known:
            raise ValueError(_unknown(key, name, known, where))
    checked = {}
    for key, given in options.items():
        scheduled = isinstance(given, Mapping) and _is_float(hints[key])
        if scheduled:
            schedules.read(given, hints[key], f"{where}.{key}", 1)
        checked[key] = dict(given) if scheduled else checks.value(given, PLAIN.get(key, hints[key]), f"{where}.{key}")
    return checked


def _unknown(key: str, name: str, known: Sequence[str], where: str) -> str:
    """Why a method does not take an option, and which do."""
    elsewhere: dict[str, list[str]] = {}
    for other in METHODS:
        for option in options_of(other):
            elsewhere.setdefault(option, []).append(other)
    if key in checks.hints(WrappersConfig):
        return f"{where}.{key} is no option of {name}, but a wrapper of any method: set wrappers.{key}"
    close = None if checks.near(key, known) else checks.near(key, elsewhere)
    if close is None:
        return f"{where}.{key} is no option of {name}: {checks.nearest(key, known)}"
    meant = "" if close == key else f"did you mean {close!r}? "
    takers = ", ".join(elsewhere[close])
    return f"{where}.{key} is no option of {name}: {meant}{close!r} is an option of {takers}; set {where}.name"


def options_of(name: str) -> list[str]:
    """The parameters of a method's factory that are no section of their own."""
    return [key for key in _parameters(name) if key not in _SECTIONS]


def sections_of(name: str) -> dict[str, set[str]]:
    """The sections of a configuration that a method reads, with their fields."""
    solver, plan = set(checks.hints(SolverConfig)), {"plan", "epochs", "steps", "batch_size", "drop_last"}
    reads = {
        "local": {"local": solver},
        "plan": {"local": plan},
        "optimizer": {"local": solver - plan - {"solver", "persistent"}},
        "adapt": {"local": {"batch_size"}},
        "server": {"server": set(checks.hints(ServerConfig))},
        "tune": {"tune": solver - {"persistent"}},
        **{section: {section: solver} for section in ("head_local", "personal_local")},
    }
    read: dict[str, set[str]] = {}
    for key in _parameters(name):
        for section, fields in reads.get(key, {}).items():
            read[section] = read.get(section, set()) | fields
    return read


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(method(name).factory).parameters


def _is_float(hint: Any) -> bool:
    return hint is float or (typing.get_origin(hint) is not tuple and any(map(_is_float, typing.get_args(hint))))


def _solvers(local: SolverConfig, *others: SolverConfig | None) -> dict[str, SolverConfig]:
    """Every solver that a method may ask for; those left out are as `local`."""
    names = ("tune", "head_local", "personal_local")
    return {"local": local} | {name: other or local for name, other in zip(names, others, strict=True)}


def _rates(config: SolverConfig | ServerConfig, section: str, rounds: int) -> dict[str, float | Schedule]:
    """The traced numbers of a section; what is 0 and would be left out is no hyperparameter."""
    rates = {"lr": (_decaying(config), checks.NotNegative)}
    for name, hint in {"momentum": checks.Part, "weight_decay": checks.NotNegative}.items():
        if value := getattr(config, name, 0.0):
            rates[name] = value, hint
    prefix = section and f"{section}."
    return {
        prefix + name: schedules.number(value, hint, prefix + name, rounds) for name, (value, hint) in rates.items()
    }


def _decaying(config: SolverConfig | ServerConfig) -> float | dict[str, Any]:
    """The learning rate, falling from round to round where a solver says so."""
    decay = getattr(config, "decay", 1.0)
    if decay == 1:
        return config.lr
    if isinstance(config.lr, dict):
        raise ValueError(f"decay={decay} is for a number as lr, which is a schedule here: leave one of them out")
    return {"schedule": "exponential", "from": config.lr, "decay": decay}


def _optimizer(
    config: SolverConfig | ServerConfig, values: Mapping[str, Array | float], section: str
) -> optax.GradientTransformation:
    lr = values[f"{section}.lr"]
    decay = values.get(f"{section}.weight_decay")
    if config.optimizer == "adamw":
        return optax.adamw(lr, weight_decay=0.0 if decay is None else decay)  # pyright: ignore[reportArgumentType]
    if config.optimizer == "sgd":
        made = optax.sgd(lr, values.get(f"{section}.momentum"))  # pyright: ignore[reportArgumentType]
    else:
        made = getattr(optax, config.optimizer)(lr)
    return made if decay is None else optax.chain(optax.add_decayed_weights(decay), made)


def _server(config: ServerConfig, values: Mapping[str, Array | float]) -> ServerOptimizer:
    return fedopt(_optimizer(config, values, "server"))


def _solver(
    config: SolverConfig, values: Mapping[str, Array | float], section: str, capacity: int, memory: Memory | None
) -> LocalSolver:
    plan = _plan(config, capacity)
    plain = descent(_optimizer(config, values, section), plan, memory if config.persistent else None)
    if config.solver == "descent":
        return plain
    proximal = proximal_descent(values[f"{section}.lr"], plan)

    def solve(loss: LossFn, params: Params, data: ClientData, key: Array) -> Params:
        return (proximal if isinstance(loss, losses.Proximal) else plain)(loss, params, data, key)

    return solve


def _plan(config: SolverConfig, capacity: int) -> Plan:
    if config.plan == "full_batch":
        return full_batch(config.steps, capacity)
    if config.plan == "steps":
        return steps(config.steps, config.batch_size)
    return epochs(config.epochs, config.batch_size, drop_last=config.drop_last)


def _top(model: Model, blocks: int | str | Iterable[str]) -> Mask:
    if isinstance(blocks, int):
        return masks.head(model, blocks)
    return masks.named(*([blocks] if isinstance(blocks, str) else blocks))


def _part(model: Model, which: str) -> Mask:
    parts = {"everything": masks.everything, "head": masks.head(model), "body": masks.negate(masks.head(model))}
    return parts[which]
