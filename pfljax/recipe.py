"""Recipes: a method by name, with its ingredients made from plain values.

The parameters of a method's factory are its ingredients; each is made by its name. Every float among them, and every
learning rate of a solver, is a traced hyperparameter: one compiled program serves all their values.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import optax

from pfljax import losses, masks, reduce
from pfljax.algorithms import method
from pfljax.local import descent, epochs, full_batch, proximal_descent, steps
from pfljax.server import ServerOptimizer, fedopt
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
    Reduce,
    Task,
)

OptimizerName = Literal["sgd", "adam", "adamw", "adagrad", "rmsprop", "yogi"]


@dataclass(frozen=True)
class SolverConfig:
    """A local solver: an optimizer and which minibatches it sees.

    Args:
      optimizer: its name in optax.
      lr: learning rate, traced.
      momentum: of `sgd`, traced; 0 leaves it out.
      weight_decay: traced; 0 leaves it out. Decoupled in `adamw`, part of the gradient elsewhere.
      plan: `epochs` passes over the client's examples, so many `steps`, or `full_batch`: `steps` steps on all examples.
      epochs: number of passes.
      steps: number of steps.
      batch_size: examples of a minibatch.
      drop_last: leave out the short last minibatch of an epoch.
      solver: `proximal_descent` solves proximal problems (FedProx, Ditto, FedAMP) stably at any strength, with plain
        SGD; other problems are descended.
    """

    optimizer: OptimizerName = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    plan: Literal["epochs", "steps", "full_batch"] = "epochs"
    epochs: int = 1
    steps: int = 10
    batch_size: int = 10
    drop_last: bool = False
    solver: Literal["descent", "proximal_descent"] = "descent"

    def __post_init__(self) -> None:
        _check_optimizer(self.optimizer, self.lr, self.momentum)
        plain = self.optimizer == "sgd" and self.momentum == self.weight_decay == 0
        if self.solver == "proximal_descent" and not plain:
            raise ValueError("solver='proximal_descent' needs optimizer='sgd' without momentum and weight decay")


@dataclass(frozen=True)
class ServerConfig:
    """The server optimizer of methods that take one; the default is plain averaging.

    Args:
      optimizer: its name in optax.
      lr: learning rate, traced.
      momentum: of `sgd`, traced; 0 leaves it out.
    """

    optimizer: OptimizerName = "sgd"
    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check_optimizer(self.optimizer, self.lr, self.momentum)


class Recipe(NamedTuple):
    """A method, ready to simulate."""

    make: Callable[..., Algorithm]  # (**hyper) -> algorithm
    hyper: dict[str, float]  # `lam`, `local.lr`, `server.lr`, ...: all traced
    plan: Plan  # of the local steps, to count them
    pooled: bool  # trains on `FederatedData.pooled()`


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
    capacity: int = 0,
) -> Recipe:
    """The method `name` from plain values.

    Args:
      name: of the table of methods.
      task: the model and its loss.
      model: the network, whose blocks and norm layers the masks mean.
      options: values for parameters of the factory. Numbers, strings and flags are given as they are; of ingredients,
        `personal` and `head` are a number of top blocks (1) or paths, `norms` is `"all"` or `"stats"`, `tuned` is
        `"everything"`, `"head"` or `"body"`, `reduce` is `"mean"` or `"uniform"`, `adapt` is a number of steps (1).
      local: solver of a client's round; also the minibatches and optimizer of methods that bring their own solver.
      tune, head_local, personal_local: solvers of those names; as `local` if None.
      server: server optimizer.
      capacity: examples of the largest client, for `plan="full_batch"`.

    Raises:
      ValueError: if the method or an option is unknown, a value is none of the choices, or the model lacks what the
        method needs.
    """
    row, options = method(name), dict(options or {})
    parameters = inspect.signature(row.factory).parameters
    hyper = traced(
        name,
        options=options,
        local=local,
        tune=tune,
        head_local=head_local,
        personal_local=personal_local,
        server=server,
    )
    local = SolverConfig() if local is None else local
    solvers = _solvers(local, tune, head_local, personal_local)
    if "norm layers" in row.needs and not model.norms:
        raise ValueError(f"{name} keeps normalisation layers, and the model has none: use one with, such as resnet8")

    made: dict[str, Callable[[Any], Any]] = {
        "task": lambda _: task,
        "plan": lambda _: _plan(local, capacity),
        "adapt": lambda count: _adapt(count, local.batch_size),
        "personal": lambda blocks: _top(model, blocks),
        "head": lambda blocks: _top(model, blocks),
        "norms": lambda which: masks.norms(model, affine=_chosen(which, ("all", "stats"), "norms") == "all"),
        "tuned": lambda which: _tuned(model, which),
        "reduce": _reduce,
    }
    preset = {"task": None, "plan": None, "adapt": 1, "personal": 1, "head": 1, "norms": "all"}
    hints = typing.get_type_hints(row.factory)
    fixed: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if key in made:
            if key in options or key in preset:
                fixed[key] = made[key](options.get(key, preset.get(key)))
        elif key not in (*hyper, *solvers, "optimizer", "server"):
            if key not in options and parameter.default is parameter.empty:
                raise ValueError(
                    f"{name} needs {key!r}, which no configuration can give: build it with pfljax.{name}(...)"
                )
            fixed[key] = check_value(options.get(key, parameter.default), hints[key], f"algorithm.{key}")

    def make(**values: Array | float) -> Algorithm:
        check_names(values, hyper, f"hyperparameters of {name}")
        values = {**hyper, **values}
        ingredients: dict[str, Any] = {key: values[key] for key in parameters if key in hyper}
        for key in parameters:
            if key in solvers:
                ingredients[key] = _solver(solvers[key], values, key, capacity)
            elif key == "optimizer":
                ingredients[key] = _optimizer(local, values, "local")
            elif key == "server":
                ingredients[key] = _server(server or ServerConfig(), values)
        return row.factory(**fixed, **ingredients)

    return Recipe(make, hyper, _plan(local, capacity), "pooled data" in row.needs)


def traced(
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    local: SolverConfig | None = None,
    tune: SolverConfig | None = None,
    head_local: SolverConfig | None = None,
    personal_local: SolverConfig | None = None,
    server: ServerConfig | None = None,
) -> dict[str, float]:
    """The hyperparameters that one program of `build` serves, with their values; arguments as there.

    Raises:
      ValueError: if the method or an option is unknown, or a value is no number.
    """
    row, options = method(name), dict(options or {})
    hints = typing.get_type_hints(row.factory)
    parameters = inspect.signature(row.factory).parameters
    local = SolverConfig() if local is None else local
    solvers = _solvers(local, tune, head_local, personal_local)
    sections = {*solvers, "server", "optimizer", "task", "plan"}
    check_names(options, [key for key in parameters if key not in sections], f"algorithm ({name})")
    hyper: dict[str, float] = {}
    for key, parameter in parameters.items():
        if key in solvers:
            hyper |= _rates(solvers[key], key)
        elif key == "optimizer":
            hyper |= _rates(local, "local")
        elif key == "server":
            hyper |= _rates(server or ServerConfig(), "server")
        elif _is_float(hints[key]) and (key in options or parameter.default is not parameter.empty):
            value = check_value(options.get(key, parameter.default), hints[key], f"algorithm.{key}")
            hyper |= {} if value is None else {key: value}
    return hyper


def check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuses names that are not known.

    Raises:
      ValueError: with the nearest known name.
    """
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
            raise ValueError(f"unknown {name!r} in {where}: {hint}")


def check_value(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type hint has it: whole numbers become floats, lists tuples.

    Raises:
      ValueError: if it is of another type or none of the choices.
    """
    origin = typing.get_origin(hint)
    if origin is Literal:
        return _chosen(value, typing.get_args(hint), where)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(hint) if kind is not jax.Array]
        for kind in kinds:
            try:
                return check_value(value, kind, where)
            except ValueError:
                if kind is kinds[-1]:
                    wanted = " or ".join(_spell(kind) for kind in kinds)
                    raise ValueError(f"{where}={value!r}: it must be {wanted}") from None
    if hint is Any:
        return value
    if hint is types.NoneType and value is None:
        return None
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if isinstance(origin, type) and issubclass(tuple, origin) and isinstance(value, list | tuple):
        inner = typing.get_args(hint)
        return tuple(check_value(item, inner[0], where) for item in value) if inner else tuple(value)
    if isinstance(origin, type) and issubclass(dict, origin) and isinstance(value, Mapping):
        return dict(value)
    raise ValueError(f"{where}={value!r}: it must be {_spell(hint)}")


def check_options(
    factory: Callable[..., Any], options: Mapping[str, Any], where: str, *, skip: int = 0
) -> dict[str, Any]:
    """Keyword arguments for `factory` whose names and types fit; its first `skip` parameters are not options.

    Raises:
      ValueError: if a name is unknown, one without a default is missing, or a value is of another type.
    """
    parameters = list(inspect.signature(factory).parameters.values())[skip:]
    hints = typing.get_type_hints(factory)
    check_names(options, [p.name for p in parameters], where)
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ValueError(f"{where} lacks {parameter.name!r}: set {where}.{parameter.name}")
    return {key: check_value(value, hints[key], f"{where}.{key}") for key, value in options.items()}


def _spell(hint: Any) -> str:
    names = {float: "a number", int: "a whole number", bool: "True or False", str: "text", types.NoneType: "None"}
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    return names.get(hint, "a list" if typing.get_origin(hint) else str(hint))


def _chosen(value: Any, choices: Iterable[Any], where: str) -> Any:
    choices = list(choices)
    if value not in choices:
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose {', '.join(map(repr, choices))}"
        raise ValueError(f"{where}={value!r}: {hint}")
    return value


def _is_float(hint: Any) -> bool:
    return hint is float or float in typing.get_args(hint)


def _check_optimizer(optimizer: str, lr: float, momentum: float) -> None:
    if momentum and optimizer != "sgd":
        raise ValueError(f"momentum={momentum} is for optimizer='sgd', not {optimizer!r}: leave it at 0")
    if lr < 0:
        raise ValueError(f"lr={lr}: a learning rate must not be negative")


def _solvers(local: SolverConfig, *others: SolverConfig | None) -> dict[str, SolverConfig]:
    """Every solver that a method may ask for; those left out are as `local`."""
    names = ("tune", "head_local", "personal_local")
    return {"local": local} | {name: other or local for name, other in zip(names, others, strict=True)}


def _rates(config: SolverConfig | ServerConfig, section: str) -> dict[str, float]:
    """The traced floats of a section; what is 0 and would be left out is no hyperparameter."""
    rates = {"lr": config.lr}
    rates |= {key: value for key in ("momentum", "weight_decay") if (value := getattr(config, key, 0.0))}
    return {f"{section}.{key}": float(value) for key, value in rates.items()}


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


def _solver(config: SolverConfig, values: Mapping[str, Array | float], section: str, capacity: int) -> LocalSolver:
    plan = _plan(config, capacity)
    plain = descent(_optimizer(config, values, section), plan)
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


def _adapt(count: Any, batch_size: int) -> Plan:
    return steps(check_value(count, int, "algorithm.adapt"), batch_size)


def _top(model: Model, blocks: int | str | Iterable[str]) -> Mask:
    if isinstance(blocks, int):
        return masks.head(model, blocks)
    return masks.named(*([blocks] if isinstance(blocks, str) else blocks))


def _tuned(model: Model, which: str) -> Mask:
    parts = {"everything": masks.everything, "head": masks.head(model), "body": masks.negate(masks.head(model))}
    return parts[_chosen(which, parts, "algorithm.tuned")]


def _reduce(which: str) -> Reduce:
    kinds = {"mean": reduce.mean, "uniform": reduce.uniform(reduce.mean)}
    return kinds[_chosen(which, kinds, "algorithm.reduce")]
