"""Other simulators as contenders: one module each, run by the benchmark's worker in any interpreter with their library.

Nothing here imports pfljax. A module defines

- `prepare(workload, examples, source) -> round`: sets everything up and returns a function that runs ONE complete round
  and comes back when it is finished; raises `NotImplementedError(reason)` for a workload without a counterpart;
- `about() -> dict`: versions of what ran.

`workload` is `pfljax.benchmark.Workload.to_dict()`; `examples()` are the arrays `(x, y)` of each client, the same for
everybody; `source` is the path after `--rival NAME=PATH`, if any.
"""
