"""What hears of a run: callbacks get copies at its evaluations, and cannot change or end it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pfljax.engine import hosts
from pfljax.engine.course import Log
from pfljax.results.result import Result
from pfljax.results.scores import Scores

_log = logging.getLogger(__name__)


class About(NamedTuple):
    """A run that begins."""

    method: str
    seed: int
    rounds: int  # in all
    hyper: Mapping[str, Any]  # numbers, and what describes schedules
    names: Sequence[str]  # of the clients, unseen ones last


class Callback:
    """What hears of a run; a subclass has those of the methods that it needs. A function is called as `evaluated` is.

    The arrays are read-only copies in host memory. One object may hear of several runs, one after the other.
    """

    def begin(self, about: About) -> None:
        """Before the first round, and before anything is compiled."""

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """After an evaluation.

        Args:
          round: rounds done.
          scores: `(model, split, metric)` -> [clients].
          log: of the rounds since the evaluation before: `ids`, `replied`, `work`, `heard`, `finite` [rounds, M],
            `server_finite` [rounds].
        """

    def end(self, result: Result | None) -> None:
        """After the last round, also of a run that diverged, whose result is None if it has no evaluation."""


Heard = Callback | Callable[[int, Scores, Log], None]
"""A callback, or a function `(round, scores, log)`."""


class _Function(Callback):
    """A function that is called at evaluations."""

    def __init__(self, function: Callable[[int, Scores, Log], None]):
        self._function = function

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        self._function(round, scores, log)


class Listeners:
    """The callbacks of a run; one that fails says so once and is left out. Of several processes one calls."""

    def __init__(self, callbacks: Sequence[Heard]):
        self._named = [
            (getattr(each, "__name__", type(each).__name__), each if isinstance(each, Callback) else _Function(each))
            for each in (callbacks if hosts.leads() else ())
        ]

    def begin(self, about: About) -> None:
        """Tells that a run begins."""
        self._tell(lambda callback: callback.begin(about))

    def evaluated(self, round: int, scores: Scores, log: Log) -> None:
        """Tells of an evaluation."""
        self._tell(lambda callback: callback.evaluated(round, _copies(scores), _copies(log)))

    def end(self, result: Result | None) -> None:
        """Tells that a run is over."""

        def copied() -> Result | None:
            if result is None:
                return None
            parts = {name: _copies(getattr(result, name)) for name in ("scores", "sizes", "log")}
            return replace(result, rounds=_copy(result.rounds), **parts)

        self._tell(lambda callback: callback.end(copied()))

    def _tell(self, news: Callable[[Callback], None]) -> None:
        for name, callback in list(self._named):
            try:
                news(callback)
            except Exception as error:  # whatever a user's own code raises
                self._named.remove((name, callback))
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                _log.warning("the callback %s failed (%s): the run goes on without it", name, reason)


def _copies(arrays: Mapping[Any, Any]) -> Any:
    return {name: _copy(array) for name, array in arrays.items()}


def _copy(array: Any) -> np.ndarray:
    """An array of its own that cannot be written."""
    copied = np.array(array)
    copied.flags.writeable = False
    return copied
