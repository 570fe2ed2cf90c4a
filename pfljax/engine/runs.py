"""Whole runs: rounds and evaluations from the first to the last, checkpoints beside them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec

import jax
import numpy as np

from pfljax import checks, files
from pfljax.data import FederatedData
from pfljax.engine import hosts
from pfljax.engine.callbacks import About, Heard, Listeners
from pfljax.engine.checkpoint import Checkpoints, placed
from pfljax.engine.course import Diverged, Log, follow
from pfljax.engine.simulation import Simulation
from pfljax.engine.site import Build, Hyper
from pfljax.learning import schedules
from pfljax.results.deployed import Deploy, Models
from pfljax.results.result import Result, versions
from pfljax.results.scores import Scores
from pfljax.types import Plan, State, Task

P = ParamSpec("P")

# Another version of these writes the same program in other words.
_TRACERS = ("pfljax", "jax")


def check_length(data: FederatedData, rounds: int, eval_every: int, patience: int | None) -> None:
    """Refuses a run that cannot begin or end.

    Raises:
      ValueError: for counts below 1, or patience without validation examples.
    """
    checks.each(checks.Count, rounds=rounds, eval_every=eval_every)
    checks.each(checks.Count | None, patience=patience)
    if patience is not None and not data.sizes("validation").any():
        raise ValueError(
            f"patience={patience}: no client has validation examples; ask for some when the data are dealt, as "
            "validation=0.2 does"
        )


def _alone(run: Callable[P, Result]) -> Callable[P, Result]:
    """Keeps other processes out of the folder of the checkpoints."""

    @functools.wraps(run)
    def held(*args: P.args, **options: P.kwargs) -> Result:
        checkpoint: Any = options.get("checkpoint")
        with contextlib.nullcontext() if checkpoint is None or not hosts.leads() else files.held(checkpoint):
            return run(*args, **options)

    return held


@checks.by_hints(rest=Simulation)
@_alone
def simulate(
    task: Task | Sequence[Task],
    build: Build,
    data: FederatedData,
    *,
    rounds: checks.Count,
    eval_every: checks.Count = 1,
    patience: checks.Count | None = None,
    seed: checks.Seed = 0,
    hyper: Mapping[str, Hyper] | None = None,
    method: str = "",
    plan: Plan | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    start: State | None = None,
    callbacks: Sequence[Heard] = (),
    **options: Any,
) -> Result:
    """A whole run: rounds, an evaluation after every `eval_every` of them and at the end, checkpoints beside those.

    Args:
      task: the model, for predictions; one for each kind of clients where they are of several (`federation.kinds`).
      build: an algorithm, or a function `(**hyper) -> Algorithm`.
      data: the federation.
      rounds: how many in total, those of `start` among them.
      eval_every: rounds between two evaluations.
      patience: end after so many evaluations in a row that are no better on validation examples, None: do all rounds.
      seed: of initial models, cohorts and minibatches.
      hyper: hyperparameters for `build`: numbers, or functions of the round (see `schedules`).
      method: name for the result.
      plan: the local minibatches, to count local steps.
      checkpoint: a folder for checkpoints, or None.
      resume: continue from the newest checkpoint, bit for bit as if never interrupted; `rounds` may have grown.
      identity: plain values by which the run is told from others, besides data, method, seed and `hyper`; the program
        if None.
      start: a state of the same method, model and federation, such as `result.state`, that the run goes on from.
      callbacks: what hears of the run, each a `Callback` or a function `(round, scores, log)` called at evaluations.
      **options: of `Simulation`.

    Returns:
      Scores [evaluation, client], traffic and times of the rounds that were done here, the models and the state.

    Raises:
      Diverged: if a model is no longer finite; the message names the round and the clients, `result` the evaluations
        before, and the last checkpoint is from before.
      ValueError: if an argument is not what it should be or would have no effect, for a checkpoint of another run or of
        more rounds.
      FileExistsError: if the folder holds checkpoints and `resume` is false.
      BlockingIOError: if another process uses the folder.
    """
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the folder to go on from: give checkpoint=...")
    hyper = hyper or {}
    check_length(data, rounds, eval_every, patience)
    plain, listeners = {name: schedules.plain(value) for name, value in hyper.items()}, Listeners(callbacks)
    listeners.begin(About(method, seed, rounds, plain, data.names))
    simulation = Simulation(task, build, data, **options)
    course = simulation.course(rounds, eval_every, patience, method=method, seed=seed, hyper=hyper, plan=plan)
    key = jax.random.key(seed)
    state = simulation.init(key, **hyper)
    if start is not None:
        state = placed([np.asarray(leaf) for leaf in jax.tree.leaves(start)], state, "start")
        course.first = int(state.round)
        if course.first >= rounds:
            raise ValueError(f"rounds={rounds} are all there shall be, and start has done {course.first}: ask for more")
    checkpoints = None
    if checkpoint is not None:
        told = {"method": method, "seed": seed, "hyper": plain, "start": _digest(start)}
        if identity is None:
            traced_by = " and ".join(f"{name} {version}" for name, version in versions().items() if name in _TRACERS)
            identity = {f"the algorithm, as traced by {traced_by},": simulation.program(**hyper)}
        checkpoints = Checkpoints(checkpoint, told | {"data": data.fingerprint} | dict(identity))
        if done := checkpoints.rounds():
            if not resume:
                raise FileExistsError(f"{checkpoint} holds checkpoints: resume the run, or choose another folder")
            check_rounds(rounds, done[-1], checkpoint)
            state, course.record = checkpoints.restore(state)
    log: Log = {}
    scores: Scores = {}

    def step(count: int) -> list[tuple[Log, Scores]]:
        nonlocal state, log, scores
        state, log = simulation.advance(state, key, count, min(eval_every, rounds), **hyper)
        scores = simulation.evaluate(state, key, **hyper)
        return [(log, scores)]

    def reported() -> None:
        if course.diverged:
            return
        if checkpoints is not None:
            checkpoints.save(state, course.record)
        listeners.evaluated(course.done, scores, log)

    follow([course], step, lambda: simulation.compile_seconds, reported)
    try:
        result = course.end()
    except Diverged as error:
        listeners.end(error.result)
        raise
    kept = None if hosts.together() else jax.tree.map(_read_only, state)

    def again() -> Deploy:
        if kept is None:
            raise ValueError("several processes hold these clients: give the folder to pfljax.resume in a single one")
        return Simulation(task, build, data, **options).deploy(kept, key, **hyper)

    result = dataclasses.replace(result, models=Models(data.names, again), ended=kept and (lambda: kept))
    listeners.end(result)
    return result


def _read_only(leaf: Any) -> np.ndarray:
    view = np.asarray(leaf).view()
    view.flags.writeable = False
    return view


def _digest(state: State | None) -> str | None:
    """What tells a state from others."""
    if state is None:
        return None
    return files.digest({str(number): np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state))})


def check_rounds(rounds: int, done: int, where: str | Path) -> None:
    """Raises `ValueError` if a run in folder `where` has done more rounds than it shall have."""
    if done > rounds:
        raise ValueError(f"rounds={rounds}: the run in {where} has done {done}; ask for at least {done}")
