"""What one contender did on one workload, and how others compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "pfljax"


@dataclass(frozen=True)
class Row:
    """One contender on one workload.

    Args:
      workload, contender: their names.
      backend: of JAX on this machine, `cpu` or `gpu`.
      cohort: clients of a round.
      client_steps: local steps of a round.
      flops: of a round's matrix products, None if they cannot be counted.
      params: of the model.
      gemm: FLOP/s of matrix products that were timed in turn with these rounds, the best turn.
      peak: the best FLOP/s of matrix products in the whole run.
      bandwidth: bytes/s of this machine's memory.
      compile_seconds: None where the contender does not tell.
      first_round_seconds: the first round, compilation included; the whole of a sweep or of a start.
      seconds: of a round, one number for each repetition.
      cpu_seconds: of all cores, for a command.
      parts: seconds of a command by what it did: import, trace, xla, run; see `stopwatch`.
      methods: how many a command compared.
      peak_bytes: the most memory that the process, or its accelerator, has held.
      about: versions.
      failed: why there are no times, or None.
      unsupported: the contender has no counterpart.
    """

    workload: str
    contender: str
    backend: str
    cohort: int
    client_steps: float
    flops: float | None = None
    params: int | None = None
    gemm: float | None = None
    peak: float | None = None
    bandwidth: float | None = None
    compile_seconds: float | None = None
    first_round_seconds: float | None = None
    seconds: tuple[float, ...] = ()
    cpu_seconds: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    methods: int | None = None
    peak_bytes: int | None = None
    about: Mapping[str, str] = field(default_factory=dict)
    failed: str | None = None
    unsupported: bool = False

    @property
    def median(self) -> float | None:
        """Seconds of a steady round."""
        return float(np.median(self.seconds)) if self.seconds else None

    @property
    def client_rounds_per_second(self) -> float | None:
        """Rounds of single clients."""
        return self.cohort / self.median if self.median else None

    @property
    def client_steps_per_second(self) -> float | None:
        """Local steps of single clients."""
        return self.client_steps / self.median if self.median else None

    @property
    def gemm_share(self) -> float | None:
        """Speed of the model's matrix products as a share of the machine's peak."""
        return self.flops / self.median / self.peak if self.median and self.flops and self.peak else None

    @property
    def bandwidth_share(self) -> float | None:
        """Bytes that local SGD must move as a share of what the machine moves: 24 for each weight and step.

        Weights are read forward and backward, gradients written and read, weights read and written.
        """
        if not (self.median and self.params and self.bandwidth):
            return None
        return 24 * self.params * self.client_steps / self.median / self.bandwidth

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with what follows from it."""
        derived = ("median", "client_rounds_per_second", "client_steps_per_second", "gemm_share", "bandwidth_share")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Row:
        """The row that `to_dict` was made from."""
        names = {each.name for each in dataclasses.fields(cls)}
        given: dict[str, Any] = {name: value for name, value in stored.items() if name in names}
        given["seconds"] = tuple(given["seconds"])
        return cls(**given)


def find(rows: Sequence[Row], workload: str, contender: str = OURS) -> Row | None:
    """A row, None if it was not run."""
    return next((row for row in rows if (row.workload, row.contender) == (workload, contender)), None)


def ratio(rows: Sequence[Row], row: Row) -> float | None:
    """How many times longer than pfljax this contender takes: a steady round, or the whole where that is all."""
    ours = find(rows, row.workload)
    if ours is None or row.failed or ours.failed:
        return None
    if row.median and ours.median:
        return row.median / ours.median
    if row.seconds or ours.seconds or not row.first_round_seconds or not ours.first_round_seconds:
        return None
    return row.first_round_seconds / ours.first_round_seconds
