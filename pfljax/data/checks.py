"""Checks of single values: one sentence with the name, the value and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

NUMBER = (int, float, np.integer, np.floating)


def short(value: Any) -> str:
    """`value` for a message: as it is written if that is short, else its type."""
    text = repr(value) if isinstance(value, (*NUMBER, str, bytes, list, tuple, dict)) or value is None else ""
    return text if 0 < len(text) <= 60 else f"<{type(value).__name__}>"


def whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Refuses what is not a whole number in `least..most`.

    Raises:
      ValueError: naming the value.
    """
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not number or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"in {least}..{most}"
        raise ValueError(f"{name}={short(value)}: it must be a whole number {span}")


def share(name: str, value: Any) -> None:
    """Refuses what is not a share in [0, 1).

    Raises:
      ValueError: naming the value.
    """
    if isinstance(value, bool) or not isinstance(value, NUMBER) or not 0 <= value < 1:
        raise ValueError(f"{name}={short(value)}: it is a share and must lie in [0, 1)")


def seed(value: Any) -> None:
    """Refuses what is no seed.

    Raises:
      ValueError: naming the value.
    """
    whole("seed", value, 0, 2**63 - 1)


def flag(name: str, value: Any) -> None:
    """Refuses what is neither True nor False.

    Raises:
      ValueError: naming the value.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}={short(value)}: it must be True or False")


def nearest(value: Any, known: Iterable[str]) -> str:
    """The advice for a name that does not exist: the nearest that does, or all of them."""
    known = list(known)
    close = get_close_matches(str(value), known, 1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
