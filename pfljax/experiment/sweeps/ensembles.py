"""Programs of a sweep: one for each group of points, kept while more points of it may come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flax import linen as nn

from pfljax.data import FederatedData
from pfljax.engine import ensemble
from pfljax.engine.course import Diverged
from pfljax.engine.ensemble import Ensemble
from pfljax.experiment.build import load_data, prepare
from pfljax.experiment.config import DataConfig
from pfljax.experiment.sweeps.points import Point, by_group, hyper_point
from pfljax.results.result import Result
from pfljax.types import Model


def _configured(outcome: Result | Diverged, point: Point) -> Result | Diverged:
    """The outcome, whose result has the configuration of its point."""
    config = point.config.to_dict()
    if isinstance(outcome, Result):
        return outcome.configured(config)
    outcome.result = outcome.result and outcome.result.configured(config)
    return outcome


class Ensembles:
    """The programs of the groups of points that ran last, with their data on the devices.

    Args:
      groups: how many are kept. A kept group compiles nothing when more of its points come.
      data: the federation of all points, if it is at hand already.
      model: see `experiment.prepare`.

    Raises:
      ValueError: if `groups` is below 1.
    """

    def __init__(
        self,
        groups: int = 1,
        data: FederatedData | None = None,
        model: nn.Module | Model | Mapping[str, Any] | None = None,
    ):
        if groups < 1:
            raise ValueError(f"groups={groups}: it must be at least 1")
        self._groups, self._data, self._model = groups, data, model
        self._kept: OrderedDict[tuple[str, int | None], Ensemble] = OrderedDict()
        self._loaded: tuple[DataConfig | None, FederatedData] | None = None

    def run(self, points: Sequence[Point], at_once: int | None = None) -> Iterator[tuple[Point, Result | Exception]]:
        """The runs of all points, group by group, as they end; see `ensemble.Ensemble`.

        An error ends the group in which it happens, and is what its other points yield.
        """
        for members in by_group(points):
            waiting = dict(enumerate(members))
            try:
                served = self._of(members[0], at_once)
                for place, outcome in served.run([hyper_point(point) for point in members]):
                    yield (point := waiting.pop(place)), _configured(outcome, point)
            except Exception as error:
                yield from ((point, error) for point in waiting.values())

    def _of(self, point: Point, at_once: int | None) -> Ensemble:
        key = point.group, at_once
        if key not in self._kept:
            while len(self._kept) >= self._groups:
                self._kept.popitem(last=False)
            self._kept[key] = self._made(point, at_once)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _made(self, point: Point, at_once: int | None) -> Ensemble:
        config = point.config
        prepared = prepare(config, self._federation(config.data), self._model)
        if config.run.select == "best_validation" and not prepared.data.sizes("validation").any():
            raise ValueError("run.select='best_validation': no client has validation examples; set data.validation=0.2")
        if config.run.store == "host":
            raise ValueError("run.store='host': the clients of many runs live on the devices; leave it at 'auto'")
        return ensemble.Ensemble(
            prepared.task,
            prepared.recipe.make,
            prepared.data,
            method=config.algorithm.name,
            at_once=at_once,
            **prepared.options(config.run),
        )

    def _federation(self, config: DataConfig | None) -> FederatedData:
        """That of all points, or the one that was loaded last if it is of this configuration."""
        if self._data is not None:
            return self._data
        if self._loaded is None or self._loaded[0] != config:
            self._loaded = config, load_data(config)
        return self._loaded[1]
