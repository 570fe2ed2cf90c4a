"""Programs: functions that are compiled once each, with the time that it takes and the memory that they need."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax.stages import Compiled

from pfljax.engine import memory
from pfljax.engine.memory import Shortage
from pfljax.engine.mesh import Device
from pfljax.types import Tree

_log = logging.getLogger(__name__)


class Programs:
    """Compiled functions by name; a name is compiled for the shapes of its first call.

    Args:
      devices: those of this process that run them, whose memory they must fit.
      shrink: called where a program does not fit: makes what the functions do smaller, or raises.
    """

    def __init__(self, devices: Sequence[Device], shrink: Callable[[Shortage], None]):
        self.seconds = 0.0
        self._devices = devices
        self._shrink = shrink
        self._compiled: dict[Hashable, Compiled] = {}

    def call(
        self, name: Hashable, function: Callable[..., Tree], *args: Tree, donate: tuple[int, ...] = (), out: Any = None
    ) -> Tree:
        """`function(*args)`, compiled.

        Args:
          name: of the program.
          function: pure, traced once for each name.
          *args: its arguments.
          donate: places of the arguments whose memory the results may take.
          out: shardings of the results.
        """
        if name not in self._compiled:
            start = time.perf_counter()
            _log.info("compiling %s ...", name)
            self._compiled[name] = self._fitting(function, args, donate, out)
            seconds = time.perf_counter() - start
            self.seconds += seconds
            _log.info("compiled %s in %.1f s", name, seconds)
        return self._compiled[name](*args)

    def _fitting(self, function: Callable[..., Tree], args: tuple, donate: tuple[int, ...], out: Any) -> Compiled:
        while True:
            anew = functools.partial(function)  # jax would remember the trace of `function` itself
            compiled = jax.jit(anew, donate_argnums=donate, out_shardings=out).lower(*args).compile()
            if (lacking := memory.shortage(compiled, self._devices)) is None:
                return compiled
            self._shrink(lacking)
