"""Runs and comparisons of methods and models by name, on a federation at hand.

Sections and their checks are those of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import linen as nn

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.engine.callbacks import Heard
from pfljax.experiment import runs, studies
from pfljax.experiment.changes import check_effect
from pfljax.experiment.config import Config, RunConfig, from_config_dict
from pfljax.experiment.studies import Tune
from pfljax.learning import schedules
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from pfljax.types import Model, State

_OF_RUN = [name for name in checks.hints(RunConfig) if name != "select"]
_SECTIONS = [name for name in checks.hints(Config) if name not in ("data", "model", "algorithm", "methods", "run")]

Network = str | Mapping[str, Any] | nn.Module | Model
"""A name of `models.MODELS`, alone or in `{"name": ..., argument: value}`; a Flax module; or a `Model`.

Where clients are of several kinds, a network of each: `{"small": ..., "large": ...}`. A client's trait `kind`, counted
from 0, says which is its own.
"""


@checks.by_hints()
def simulate(
    data: FederatedData,
    model: Network,
    method: str | Mapping[str, Any],
    *,
    out: str | Path | None = None,
    resume: bool = False,
    start: State | None = None,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    **sections: Any,
) -> Result:
    """One run of a method by name.

    Args:
      data: the federation.
      model: such as `"mlp"`, `{"name": "mlp", "hidden": (64,)}`, a Flax module alone, or a `Model`; made for the data.
      method: such as `"ditto"`, or `{"name": "ditto", "lam": 0.1}`.
      out, resume, start, progress, callbacks: see `experiment.run`.
      **sections: fields of `experiment.RunConfig` (`rounds`, `eval_every`, `seed`, ...), and the sections that a
        configuration has for solvers, server and cohort as dictionaries: `local={"lr": 0.1}`. A number that is traced
        may be a schedule.

    Raises:
      ValueError: if there is no such name, a value cannot be meant, or it changes nothing; besides what `run` raises.
    """
    named = {"name": method} if isinstance(method, str) else dict(method)
    config, given = _described("simulate", model, named, {}, sections)
    check_effect(config, [config.algorithm.name], given)
    of_run: dict[str, Any] = {"progress": progress, "callbacks": callbacks, "data": data, "model": _own(model)}
    return runs.run(config, out, resume=resume, start=start, **of_run)


@checks.by_hints()
def compare(
    data: FederatedData,
    model: Network,
    methods: Sequence[str] | Mapping[str, Mapping[str, Any]],
    *,
    seeds: Sequence[checks.Seed] | None = None,
    tune: Tune | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    **sections: Any,
) -> Comparison:
    """Methods by name on the same data, with the same model.

    Args:
      data: the federation.
      model: see `simulate`.
      methods: their names, or each with its options, as in `{"ditto": {"lam": 0.1}, "fedavg": {}}`; `local_only` is
        what the others are compared with.
      seeds: such as `range(3)`: tables have means and intervals over them.
      tune: values of which the best on validation examples is taken, as in `{"ditto": {"lam": [0.1, 1.0]}}`; fields of
        sections with their names, `"local.lr"`.
      out, resume, progress, callbacks: see `experiment.compare_methods`.
      **sections: see `simulate`.

    Raises:
      ValueError: see `simulate`.
    """
    names, options = runs.distinct(methods), methods if isinstance(methods, Mapping) else {}
    config, given = _described("compare", model, {"name": names[0]}, options, sections)
    check_effect(config, names, given)
    of_run: dict[str, Any] = {"progress": progress, "callbacks": callbacks, "data": data, "model": _own(model)}
    return studies.compare_methods(config, names, out, seeds=seeds, tune=tune, resume=resume, **of_run)


def _described(
    caller: str, model: Network, algorithm: Mapping[str, Any], methods: Mapping[str, Any], sections: Mapping[str, Any]
) -> tuple[Config, list[str]]:
    """The configuration, and the dotted names of what was given."""
    checks.names(sections, (*_OF_RUN, *_SECTIONS), caller)
    network = {"name": model} if isinstance(model, str) else None
    if isinstance(model, Mapping) and "name" in model:
        network = model
    of_run = {name: value for name, value in sections.items() if name in _OF_RUN}
    values = {name: value for name, value in sections.items() if name not in _OF_RUN}
    given = [*values, *(f"run.{name}" for name in of_run)]
    for section, fields in values.items():
        given += [f"{section}.{name}" for name in fields] if isinstance(fields, Mapping) else []
    values |= {"algorithm": algorithm, "methods": methods, "run": of_run}
    return from_config_dict({"data": None, "model": network} | _plain(values)), given


def _own(model: Network) -> Network | None:
    """What no configuration describes."""
    return None if isinstance(model, str) or (isinstance(model, Mapping) and "name" in model) else model


def _plain(value: Any) -> Any:
    """Schedules as a configuration describes them."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return schedules.plain(value) if callable(value) else value
