"""One contender in a process of its own: answers requests, one JSON object a line, until told to stop.

    python worker.py MODULE [SOURCE]

`MODULE` is the path of a Python file, with its neighbours where its folder is a package, or the dotted name of an
installed module. It defines

- `prepare(workload, examples, source) -> round`: sets everything up and returns a function that runs ONE complete round
  and comes back when it is finished; raises `NotImplementedError(reason)` for a workload without a counterpart. The
  round may have an attribute `compile_seconds`, and takes a number of rounds if it has `counts = True`;
- `about() -> dict`: versions of what ran;
- perhaps `details(workload) -> dict`.

`workload` is `Workload.to_dict()`, `examples()` the arrays of `examples.py`.

| request | reply |
|---|---|
| `{"do": "prepare", "workload": {...}}` | `first_round_seconds`, `compile_seconds` (may be null), `about` |
| `{"do": "rounds", "count": n}` | `seconds` of all n |
| `{"do": "memory"}` | `peak_bytes` |
| `{"do": "details"}` | what `details` says |
| `{"do": "stop"}` | none |

A failure is `{"error": reason, "unsupported": bool}`. What a library prints goes to the standard error.
Imports the standard library only, and `examples.py` beside it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
PACKAGE = "pfljax_contenders"


def load(name: str) -> ModuleType:
    """The module `name`: a Python file, which may import its neighbours in a package, or installed."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    path = Path(name)
    if not (path.parent / "__init__.py").exists():
        return _from_file("pfljax_contender", path)
    if PACKAGE not in sys.modules:
        _from_file(PACKAGE, path.parent / "__init__.py")
    return importlib.import_module(f"{PACKAGE}.{path.stem}")


def _from_file(name: str, path: Path) -> ModuleType:
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_bytes() -> int:
    """The most memory that this process, or its accelerator, has held."""
    jax = sys.modules.get("jax")
    if jax is not None:
        stats = [device.memory_stats() or {} for device in jax.local_devices() if device.platform != "cpu"]
        if held := sum(each.get("peak_bytes_in_use", 0) for each in stats):
            return held
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the process that started this one
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Contender:
    """What the requests do."""

    def __init__(self, name: str, source: str | None) -> None:
        self.name, self.source = name, source
        self.module: Any = None
        self.workload: dict[str, Any] = {}
        self.round: Callable[..., None] = lambda: None

    def prepare(self, workload: dict[str, Any]) -> dict[str, Any]:
        """Sets everything up and runs the first round."""
        self.workload = workload
        self.module = load(self.name)
        examples = partial(_from_file("pfljax_examples", HERE / "examples.py").arrays, workload)
        self.round = self.module.prepare(workload, examples, self.source)
        start = time.perf_counter()
        self.round()
        return {
            "first_round_seconds": time.perf_counter() - start,
            "compile_seconds": getattr(self.round, "compile_seconds", None),
            "about": self.module.about(),
        }

    def rounds(self, count: int) -> dict[str, Any]:
        """Runs so many rounds."""
        start = time.perf_counter()
        if getattr(self.round, "counts", False):
            self.round(count)
        else:
            for _ in range(count):
                self.round()
        return {"seconds": time.perf_counter() - start}

    def memory(self) -> dict[str, Any]:
        """The peak so far."""
        return {"peak_bytes": peak_bytes()}

    def details(self) -> dict[str, Any]:
        """More that the module knows of the workload."""
        details = getattr(self.module, "details", None)
        return details(self.workload) if details else {}


def main() -> None:
    """Answers requests from the standard input."""
    replies, requests = os.fdopen(os.dup(1), "w"), os.fdopen(os.dup(0))
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != HERE]
    contender = Contender(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
    for line in requests:
        request = json.loads(line)
        do = request.pop("do")
        if do == "stop":
            break
        try:
            reply = getattr(contender, do)(**request)
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            unsupported = isinstance(error, NotImplementedError)
            kind = "" if unsupported else f"{type(error).__name__}: "
            reply = {"error": f"{kind}{error}", "unsupported": unsupported}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
