"""Comparisons over seeds, of hyperparameters that are chosen on validation examples: one program for each method."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flax import linen as nn

from pfljax import checks, files
from pfljax.data import FederatedData
from pfljax.engine import hosts
from pfljax.engine.callbacks import Heard
from pfljax.experiment import folder, runs
from pfljax.experiment.build import load_data
from pfljax.experiment.config import Config
from pfljax.experiment.folder import Begun
from pfljax.experiment.sweeps import spaces
from pfljax.experiment.sweeps.ensembles import Ensembles
from pfljax.experiment.sweeps.outcomes import Sweep
from pfljax.experiment.sweeps.runner import sweep
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from pfljax.types import Model

Tune = Mapping[str, Mapping[str, Any]]
"""Method -> its numbers and their values: options by name (`lam`), other fields with their section (`local.lr`)."""


@checks.by_hints()
def compare_methods(
    config: Config,
    methods: Sequence[str],
    out: str | Path | None = None,
    *,
    seeds: Sequence[checks.Seed] | None = None,
    tune: Tune | None = None,
    resume: bool = False,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    data: FederatedData | None = None,
    model: nn.Module | Model | Mapping[str, Any] | None = None,
) -> Comparison:
    """Several methods on the same data, see `runs.compare_methods`; over `seeds`, and with numbers that are chosen.

    The points of a method, its settings times the seeds, are a sweep below `out`. The setting with the best mean over
    seeds on validation examples is the method's; test examples have no say.

    Args:
      config, methods, out, resume, progress, data, model: see `runs.compare_methods`.
      seeds: values of `run.seed`; that of the configuration alone if None.
      tune: see `Tune`.
      callbacks: of runs one by one, without seeds and tune.

    Raises:
      ValueError: if there is nothing to choose by, or no point of a method can be run; besides what `run` raises.
    """
    if seeds is None and not tune:
        given: dict[str, Any] = {"resume": resume, "progress": progress, "callbacks": callbacks}
        return runs.compare_methods(config, methods, out, data=data, model=model, **given)
    names, wanted = runs.distinct(methods), spaces.plain(dict(tune or {}))
    checks.names(wanted, names, "tune")
    if callbacks:
        raise ValueError("callbacks hear of runs one by one: leave out seeds and tune, or callbacks")
    data = load_data(config.data) if data is None else data
    if wanted and not data.sizes("validation").any():
        raise ValueError("tune chooses on validation examples, and no client has any: set validation=0.15 of the data")
    numbers = [config.run.seed] if seeds is None else list(seeds)
    begun, programs = Begun(config, names, numbers, wanted), Ensembles(data=data, model=model)
    with folder.claimed(out, begun, resume):
        swept = {
            name: sweep(
                config.of_method(name),
                spaces.grid(_fields(wanted.get(name, {})) | {"run.seed": numbers}),
                None if out is None else Path(out) / name / "trials",
                resume=resume,
                ensembles=programs,
                progress=progress,
            )
            for name in names
        }
        comparison = _chosen(swept, wanted, data, model)
        folder.keep(out, comparison, begun)
    return comparison


def resume(out: str | Path, *, rounds: int | None = None, progress: bool = False) -> Result | Comparison:
    """Continues what was begun in `out`: a run, or a comparison.

    Args:
      out: its folder.
      rounds: how many in all, more than it was begun with; its first rounds are kept. As it was begun if None, and
        always of a comparison over seeds.
      progress: a live bar on the standard error.

    Raises:
      FileNotFoundError: if nothing was.
      ValueError: if what is left does not say what was, or more than `rounds` are done; besides what `run` raises.
    """
    begun = hosts.shared(lambda: folder.begun_as(files.named(out)))
    config = begun.config
    if rounds is not None:
        if begun.seeds is not None:
            raise ValueError(f"rounds={rounds}: {out} compares over seeds, whose rounds stay as they are: leave it out")
        config = replace(config, run=replace(config.run, rounds=rounds))
    if begun.methods is None:
        return runs.run(config, out, resume=True, progress=progress)
    points = {"seeds": begun.seeds, "tune": begun.tune}
    return compare_methods(config, begun.methods, out, **points, resume=True, progress=progress)


def _fields(tuned: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that are tuned, by their dotted names."""
    return {key if "." in key else f"algorithm.{key}": values for key, values in tuned.items()}


def _chosen(
    swept: Mapping[str, Sweep], tune: Tune, data: FederatedData, model: nn.Module | Model | Mapping[str, Any] | None
) -> Comparison:
    """Of each method the runs of its best setting; a method without any is left out."""
    ended, chosen = {}, {}
    for name, points in swept.items():
        outcomes = {**points.diverged, **points.results}
        if not outcomes:
            reason = next(iter(points.outcomes.values())).reason
            logging.getLogger(__name__).warning("%s is left out, it has no evaluation: %s", name, reason)
            continue
        standing = points.best() if tune.get(name) and points.results else points.standings()[0]
        configs = {point.id: point.config for point in points.points}
        ended[name] = [
            runs.at_hand(outcomes[id], functools.partial(runs.run, configs[id], data=data, model=model))
            for id in standing.ids
            if id in outcomes
        ]
        chosen[name] = {key: value for key, value in standing.setting.items() if key != "run.seed"}
    return Comparison(ended, chosen)
