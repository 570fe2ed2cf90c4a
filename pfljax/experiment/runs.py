"""Runs and comparisons: from a configuration or from algorithms to results."""

from __future__ import annotations

import contextlib
import functools
import logging
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flax import linen as nn

from pfljax import checks, engine
from pfljax.algorithms import METHODS
from pfljax.data import FederatedData
from pfljax.engine import hosts
from pfljax.engine.callbacks import Heard
from pfljax.engine.course import Diverged
from pfljax.engine.site import Build
from pfljax.experiment import folder
from pfljax.experiment.build import Experiment, load_data, prepare
from pfljax.experiment.callbacks import Line
from pfljax.experiment.changes import check_effect
from pfljax.experiment.config import Config
from pfljax.experiment.folder import Begun
from pfljax.experiment.progress import Bar
from pfljax.results.comparison import Comparison
from pfljax.results.deployed import Models
from pfljax.results.result import Result
from pfljax.types import Model, State, Task


@checks.by_hints()
def run(
    config: Config,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    data: FederatedData | None = None,
    model: nn.Module | Model | Mapping[str, Any] | None = None,
    start: State | None = None,
) -> Result:
    """One run.

    Args:
      config: the configuration.
      out: a folder for `config.json`, `summary.json`, `clients.npz` and checkpoints, or None.
      resume: continue the run in `out`, bit for bit as if it had not stopped. The configuration may ask for more rounds
        than it did, and for other ways to compute and report (`eval_every`, `executor`, `store`, `select`).
      progress: a live bar on the standard error.
      callbacks: what hears of the run, see `engine.simulate`.
      data: the federation, if it is at hand already.
      model: the model of a configuration with `model=None`; by names for clients of several kinds.
      start: a state that the run goes on from, see `engine.simulate`.

    Raises:
      FileExistsError: if `out` holds another run.
      BlockingIOError: if another process uses `out`; the message says which.
      PermissionError, OSError: if a file cannot be written.
      ValueError, FileNotFoundError: if the configuration cannot be met, or asks for fewer rounds than are done.
      Diverged: if a model is no longer finite; `out` and the error's `result` have the evaluations before.
    """
    if not resume:
        check_effect(config, [config.algorithm.name])
    experiment = prepare(config, data, model)
    with folder.claimed(out, Begun(config), resume), Bar(progress) as bar:
        return _run(config, experiment, out, resume, [*callbacks, Line.of(bar, config.run.metric)], start)


@checks.by_hints()
def compare_methods(
    config: Config,
    methods: Sequence[str],
    out: str | Path | None = None,
    *,
    resume: bool = False,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    data: FederatedData | None = None,
    model: nn.Module | Model | Mapping[str, Any] | None = None,
) -> Comparison:
    """Several methods on the same data, each in its own folder below `out`. See `run`.

    Raises:
      ValueError: if a method is unknown or named twice, besides what `run` raises.
    """
    names = distinct(methods)
    configs = {name: config.of_method(name) for name in names}
    if not resume:
        check_effect(config, names)
    data = load_data(config.data) if data is None else data
    experiments = {name: prepare(each, data, model) for name, each in configs.items()}
    folders = {name: None if out is None else Path(out) / name for name in names}
    whole = Begun(config, names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(folder.claimed(out, whole, resume))
        for name, each in configs.items():
            stack.enter_context(folder.claimed(folders[name], Begun(each), resume))
        heard = [*callbacks, Line.of(stack.enter_context(Bar(progress)), config.run.metric)]
        comparison = _compared(
            {
                name: functools.partial(_run, each, experiments[name], folders[name], resume, heard)
                for name, each in configs.items()
            }
        )
        folder.keep(out, comparison, whole)
    return comparison


def distinct(methods: Iterable[str]) -> list[str]:
    """The names of methods, as they are given.

    Raises:
      ValueError: if there is none, or one is unknown or named twice.
    """
    names = list(methods)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods={','.join(names)}: name at least one, and each once")
    for name in names:
        checks.choice(name, METHODS, "methods")
    return names


@checks.by_hints(rest=engine.simulate)
def compare(
    task: Task | Sequence[Task],
    algorithms: Mapping[str, Build],
    data: FederatedData,
    *,
    rounds: checks.Count,
    checkpoint: str | Path | None = None,
    progress: bool = False,
    callbacks: Sequence[Heard] = (),
    **options: Any,
) -> Comparison:
    """Runs algorithms on the same data. One that diverges stands with its evaluations before, if it has any.

    Args:
      task: the model, for predictions; one for each kind of clients where they are of several (`federation.kinds`).
      algorithms: name -> algorithm; `local_only` is what the others are compared with.
      data: the federation.
      rounds: how many in total.
      checkpoint: a folder for checkpoints, with one for each name below it, or None.
      progress: a live bar on the standard error.
      callbacks: what hears of the runs, see `engine.simulate`.
      **options: of `engine.simulate`, such as `eval_every`, `seed`, `cohort`.
    """
    with Bar(progress) as bar:
        runs, heard = {}, [*callbacks, Line.of(bar)]
        for name, algorithm in algorithms.items():
            own = {"method": name, "rounds": rounds, "callbacks": heard}
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


def _run(
    config: Config,
    experiment: Experiment,
    out: str | Path | None,
    resume: bool,
    callbacks: Sequence[Heard],
    start: State | None = None,
) -> Result:
    if out is not None and resume and config.model is not None:
        finished = hosts.shared(lambda: folder.finished(Path(out), config.run.rounds))
        if finished is not None:
            if finished.fingerprint != experiment.data.fingerprint:
                raise ValueError(f"{out} holds a run on other data: give those, or choose another folder")

            return at_hand(finished, lambda: _simulated(config, experiment, out, resume=True))
    try:
        result = _simulated(config, experiment, out, resume, callbacks, start)
    except Diverged as error:
        if error.result is not None:
            error.result = _kept(error.result, config, out)
        raise
    return _kept(result, config, out)


def at_hand(result: Result, again: Callable[[], Result]) -> Result:
    """`result` with the models and the state of the same run, which is made `again` when they are asked for."""
    made = functools.cache(again)
    models = Models(result.names, lambda: typing.cast(Models, made().models).ready())
    return replace(result, models=models, ended=lambda: typing.cast(State, made().state))


def _simulated(
    config: Config,
    experiment: Experiment,
    out: str | Path | None,
    resume: bool,
    callbacks: Sequence[Heard] = (),
    start: State | None = None,
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
        identity=None if config.model is None else Begun(config).fixed(),
        start=start,
        callbacks=callbacks,
        store=config.run.store,
        **experiment.options(config.run),
    )


def _kept(result: Result, config: Config, out: str | Path | None) -> Result:
    """The result with its configuration, in its folder."""
    result = result.configured(config.to_dict())
    if out is not None and hosts.leads():
        result.save(out, replace=True)
    return result
