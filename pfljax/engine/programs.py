"""Programs: functions that are compiled once each, with the time that it takes and the memory that they need."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
from jax.stages import Compiled, Lowered

from pfljax.engine import memory
from pfljax.engine.memory import Shortage
from pfljax.engine.mesh import Device
from pfljax.types import Tree

_log = logging.getLogger(__name__)

Options = dict[str, Any]
"""Of XLA, by name."""

# On a CPU the least that leaves loops fast: half the time of compiling, and no more to run what runs once.
_QUICK: Options = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
# On a CPU convolutions run a tenth faster without.
_CONVOLVING: Options = {"xla_cpu_use_fusion_emitters": False}


def options(lowered: Lowered, quick: bool, devices: Sequence[Device]) -> Options:
    """How XLA compiles a program: from what the program is, so that two runs of it give the same bits.

    What `XLA_FLAGS` says is left as it is, and so is what this JAX does not know.
    """
    if devices[0].platform != "cpu":
        return {}
    wanted = _QUICK if quick else _CONVOLVING if "stablehlo.convolution" in lowered.as_text() else {}
    given = os.environ.get("XLA_FLAGS", "")
    return {name: value for name, value in wanted.items() if name not in given and _known(name, value)}


@functools.cache
def _known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options={name: value})
    except RuntimeError:  # that of XLA
        return False
    return True


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
        self,
        name: Hashable,
        function: Callable[..., Tree],
        *args: Tree,
        donate: tuple[int, ...] = (),
        out: Any = None,
        quick: bool = False,
    ) -> Tree:
        """`function(*args)`, compiled.

        Args:
          name: of the program.
          function: pure, traced once for each name.
          *args: its arguments.
          donate: places of the arguments whose memory the results may take.
          out: shardings of the results.
          quick: compiled in little time rather than to take little time, for what runs once.
        """
        if name not in self._compiled:
            start = time.perf_counter()
            _log.info("compiling %s ...", name)
            self._compiled[name] = self._fitting(function, args, donate, out, quick)
            seconds = time.perf_counter() - start
            self.seconds += seconds
            _log.info("compiled %s in %.1f s", name, seconds)
        return self._compiled[name](*args)

    def _fitting(
        self, function: Callable[..., Tree], args: tuple, donate: tuple[int, ...], out: Any, quick: bool
    ) -> Compiled:
        while True:
            anew = functools.partial(function)  # jax would remember the trace of `function` itself
            lowered = jax.jit(anew, donate_argnums=donate, out_shardings=out).lower(*args)
            compiled = lowered.compile(compiler_options=options(lowered, quick, self._devices))
            if (lacking := memory.shortage(compiled, self._devices)) is None:
                return compiled
            self._shrink(lacking)
