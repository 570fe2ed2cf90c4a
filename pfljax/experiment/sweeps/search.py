"""Optuna proposes points, a batch of them is one program."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfljax.experiment.config import Config, from_config_dict
from pfljax.experiment.sweeps.ensembles import Ensembles
from pfljax.experiment.sweeps.points import lay_out, plain_values
from pfljax.experiment.sweeps.runner import sweep
from pfljax.experiment.sweeps.spaces import Range, Setting
from pfljax.results import scores
from pfljax.results.scores import Yardstick
from pfljax.results.statistics import estimate

if TYPE_CHECKING:
    import optuna


# Choices that compile anew and stay compiled from batch to batch.
_GROUPS = 4


def optimize(
    config: Config | Mapping[str, Any],
    study: optuna.Study,
    space: Mapping[str, Range | Iterable[Any]],
    trials: int,
    *,
    out: str | Path | None = None,
    batch: int = 8,
    seeds: Iterable[int] | None = None,
    at_once: int | None = None,
) -> optuna.Study:
    """Asks a study for points, runs them batch by batch, tells it how they fared. All batches are one program.

    A trial's value is the mean over seeds of what the clients score on validation examples by `run.metric`, at the
    evaluation that `run.select` reports. A trial of which a seed diverged or failed has failed.

    Args:
      config: what the points share.
      study: of Optuna, with the direction `"maximize"`, or `"minimize"` where less of the metric is better; keep it in
        a database to go on later or from several processes.
      space: field -> a range of `spaces`, or a list of values.
      trials: how many to run.
      out: a folder for the ledger of all points, see `sweep`, one for each process; kept in memory if None.
      batch: trials that are asked for at a time, without knowing of each other.
      seeds: values of `run.seed` that each trial is run with; as the configuration has it if None.
      at_once: see `sweep`.

    Returns:
      The study.

    Raises:
      ImportError: if Optuna is not installed.
      ValueError: if the study goes the wrong way, counts are below 1, or no client has validation examples.
    """
    try:
        from optuna.trial import TrialState
    except ImportError as error:
        raise ImportError("the search needs Optuna: pip install 'pfljax[search]'") from error
    if trials < 1 or batch < 1:
        raise ValueError(f"trials={trials}, batch={batch}: both must be at least 1")
    values, ensembles = plain_values(config), Ensembles(groups=_GROUPS)
    checked = from_config_dict(values)
    _check(study, scores.read(checked.run.metric or "accuracy"))
    if checked.data is None or not checked.data.validation:
        raise ValueError("a search needs validation examples: set data.validation=0.2")
    repeats: list[Setting] = [{}] if seeds is None else [{"run.seed": seed} for seed in seeds]
    for first in range(0, trials, batch):
        asked = [study.ask() for _ in range(min(batch, trials - first))]
        try:
            settings = [_suggest(trial, space) for trial in asked]
            points = [[{**setting, **repeat} for repeat in repeats] for setting in settings]
            space_of_batch = list(itertools.chain(*points))
            resume = out is not None
            swept = sweep(values, space_of_batch, out, resume=resume, at_once=at_once, ensembles=ensembles)
            _check(study, swept.compared())
        except BaseException:
            for trial in asked:
                study.tell(trial, state=TrialState.FAIL)
            raise
        for trial, members in zip(asked, points, strict=True):
            ended = [swept.outcomes[point.id] for point in lay_out(values, members)]
            if any(outcome.status != "done" for outcome in ended):
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, estimate(outcome.validation for outcome in ended).mean)
    return study


def _check(study: optuna.Study, metric: Yardstick) -> None:
    wanted = "minimize" if metric.lower_is_better else "maximize"
    if study.direction.name.lower() != wanted:
        raise ValueError(
            f"the study {study.direction.name.lower()}s, but {metric.name} is to be {wanted}d: "
            f"create_study(direction={wanted!r}), or set run.metric"
        )


def _suggest(trial: optuna.Trial, space: Mapping[str, Range | Iterable[Any]]) -> Setting:
    setting = {}
    for name, values in space.items():
        if not isinstance(values, Range):
            labels = {item if isinstance(item, bool | int | float | str | None) else str(item): item for item in values}
            setting[name] = labels[trial.suggest_categorical(name, list(labels))]
        elif values.whole:
            setting[name] = trial.suggest_int(name, int(values.low), int(values.high))
        else:
            setting[name] = trial.suggest_float(name, values.low, values.high, log=values.log)
    return setting
