"""Scores of clients: what they are of, what clients are compared by, how that is written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pfljax import checks

_SMALLER = {"loss", "losses", "error", "errors", "mse", "rmse", "mae", "mape", "nll", "entropy", "crossentropy"}
_SMALLER |= {"perplexity", "ppl", "divergence", "kl", "distance", "deviance", "brier", "ece", "cer", "wer", "regret"}


class Score(NamedTuple):
    """What a score is of. Its text, `model/split/metric`, is its name in files."""

    model: str  # personal, global, unseen_personal, unseen_global
    split: str  # validation, test
    metric: str

    @classmethod
    def read(cls, text: str | tuple[str, str, str]) -> Score:
        """What `str` made of a score, or its three parts.

        >>> Score.read("personal/test/accuracy")
        Score(model='personal', split='test', metric='accuracy')
        """
        return cls(*text.split("/", 2)) if isinstance(text, str) else cls(*text)

    @property
    def is_unseen(self) -> bool:
        """Whether it is of clients that never trained."""
        return self.model.startswith(_UNSEEN)

    def of_unseen(self) -> Score:
        """The same score of clients that never trained."""
        return self._replace(model=_UNSEEN + self.model)

    def __str__(self) -> str:
        return "/".join(self)


_UNSEEN = "unseen_"

Scores = dict[Any, np.ndarray]
"""Arrays by `Score`, or by its three parts: `scores["personal", "test", "accuracy"]`."""


class Yardstick(NamedTuple):
    """What clients are compared by: a metric's name, and whether less of it is better."""

    name: str
    lower_is_better: bool

    @property
    def sign(self) -> int:
        """`sign * score` is better where it is higher."""
        return -1 if self.lower_is_better else 1

    @property
    def in_percent(self) -> bool:
        """Whether it is a share that is written in percent: an accuracy."""
        return self.name.lower().split("_")[-1] == "accuracy"

    @property
    def scale(self) -> int:
        """What a score is multiplied by where it is written."""
        return 100 if self.in_percent else 1

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, %" if self.in_percent else self.name

    def spell(self, score: float | None) -> str:
        """A score as tables have it; `-` for NaN and None."""
        if score is None or math.isnan(score):
            return "-"
        return f"{100 * score:.1f}" if self.in_percent else number(score)

    def say(self, score: float | None) -> str:
        """Name, score and unit."""
        return f"{self.name} {self.spell(score)}{' %' * self.in_percent}"

    def __str__(self) -> str:
        """The text that `read` takes for it."""
        return self.name if self == read(self.name) else f"{'-' if self.lower_is_better else '+'}{self.name}"


def read(text: str) -> Yardstick:
    """A yardstick from text: a metric's name, with `-` before it where less is better and the name does not say so.

    Less is better of names that have `loss`, `error`, `mae`, `perplexity` or the like among their words, and more of
    all others; the other way round if the first word is `neg` or `negative`. `+` and `-` overrule that.

    >>> [read(text).lower_is_better for text in ("f1", "squared_error", "-bits", "+loss", "neg_log_likelihood")]
    [False, True, True, False, True]
    """
    if text[:1] in ("+", "-"):
        return Yardstick(text[1:], text[0] == "-")
    words = text.lower().split("_")
    return Yardstick(text, (words[0] in ("neg", "negative")) != bool(_SMALLER.intersection(words)))


def choose(asked: str | None, measured: Sequence[str]) -> Yardstick:
    """The metric that is asked for; if None, the accuracy where it was measured, else the loss, else the first.

    Args:
      asked: as `read` takes it.
      measured: names of what was measured; anything may be asked for if that is nothing.

    Raises:
      ValueError: if it was not measured, with the nearest name.
    """
    if asked is None:
        return read(next(iter([*(name for name in ("accuracy", "loss") if name in measured), *measured, "accuracy"])))
    metric = read(checks.value(asked, str, "metric"))
    if measured:
        checks.choice(metric.name, measured, "metric")
    return metric


def names(scores: Iterable[Score]) -> list[str]:
    """The metrics of scores, each once."""
    return list(dict.fromkeys(score.metric for score in scores))


def number(value: float) -> str:
    """A number of any size in at most nine characters.

    >>> [number(value) for value in (0.12345, 12.5, 158109.3, 4.2e11, 2e-7)]
    ['0.123', '12.500', '158,109', '4.20e+11', '2.00e-07']
    """
    size = abs(value)
    if size >= 1e7 or 0 < size < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3f}"
