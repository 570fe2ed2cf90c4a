"""A command of pfljax in a process of its own, and where its time goes.

    python stopwatch.py FILE COMMAND...

Runs `pfljax COMMAND...` and writes what it took to FILE, as JSON: `seconds` of each part, in which

- `trace` are functions traced and lowered, in any thread;
- `xla` are programs compiled, or read from the cache;
- `run` is all else after the import of pfljax: data, rounds, evaluations, tables;

`cpu_seconds` of the whole process, its import included; and the number of `methods` that it compared. In the command
`{table}` stands for the methods of the table that any network can train. Runs with the pfljax of any checkout.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

_LACKING = {"norm layers", "public data", "validation examples", "groups"}
"""What the command of a benchmark may have none of."""

Span = tuple[float, float]

_KINDS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "trace",
    "/jax/core/compile/backend_compile_duration": "xla",
}


def covered(spans: Iterable[Span]) -> float:
    """Length of the union of intervals.

    >>> covered([(0.0, 2.0), (5.0, 6.0), (1.0, 3.0), (1.5, 1.75)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def parts(spans: dict[str, list[Span]], seconds: float) -> dict[str, float]:
    """`seconds` divided: what XLA does counts as `xla` whatever else goes on in other threads.

    >>> parts({"trace": [(0.0, 4.0)], "xla": [(3.0, 5.0)]}, 10.0)
    {'trace': 3.0, 'xla': 2.0, 'run': 5.0}
    """
    xla, both = covered(spans["xla"]), covered([*spans["xla"], *spans["trace"]])
    return {"trace": both - xla, "xla": xla, "run": seconds - both}


def main() -> int:
    """Runs the command."""
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    from jax import monitoring

    spans: dict[str, list[Span]] = {"trace": [], "xla": []}

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event in _KINDS:
            end = time.perf_counter()
            spans[_KINDS[event]].append((end - duration_secs, end))

    monitoring.register_event_duration_secs_listener(listen)
    from pfljax import cli
    from pfljax.algorithms import METHODS

    table = [name for name, method in METHODS.items() if not _LACKING & set(method.needs)]
    command = [word.replace("{table}", ",".join(table)) for word in sys.argv[2:]]
    methods = [word.removeprefix("--methods=").split(",") for word in command if word.startswith("--methods=")]
    start = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        status = cli.main(command)
    found = {
        "seconds": parts(spans, time.perf_counter() - start),
        "cpu_seconds": time.process_time(),
        "methods": sum(map(len, methods)),
    }
    Path(sys.argv[1]).write_text(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
