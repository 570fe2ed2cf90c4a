"""What a run has cost when it is as good as asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Cost(NamedTuple):
    """Of the first rounds of a run; infinite where it never got there."""

    rounds: float
    sent: float  # bytes up and down
    steps: float  # local steps of all clients
    seconds: float  # without compilation


NEVER = Cost(math.inf, math.inf, math.inf, math.inf)


def spent(log: Mapping[str, np.ndarray], clients: int, rounds: int, whole: Cost, up: int) -> Cost:
    """The cost of the first rounds: bytes and steps are dealt to rounds by the clients that took part in each.

    Args:
      log: of a result; rounds count alike where it does not say who took part.
      clients: N.
      rounds: how many are counted.
      whole: cost of the run.
      up: bytes of it that were sent to the server.

    >>> log = {"ids": np.array([[0, 1], [0, 2]]), "heard": np.array([[True, True], [True, False]])}
    >>> spent(log, 2, 1, Cost(2, 90, 30, 4.0), up=30)
    Cost(rounds=1, sent=60.0, steps=20.0, seconds=2.0)
    """
    ids = log["ids"]
    sampled = (ids < clients).astype(float)
    replied = log["replied"].astype(float) if "replied" in log else sampled
    heard = log["heard"].astype(float) if "heard" in log else replied
    worked = replied * np.where(replied > 0, log["work"], 0) if "work" in log else replied

    def share(counts: np.ndarray) -> float:
        return float(counts[:rounds].sum() / counts.sum()) if counts.sum() else rounds / len(ids)

    sent = share(heard) * up + share(sampled) * (whole.sent - up)
    return Cost(rounds, sent, share(worked) * whole.steps, rounds / len(ids) * whole.seconds)
