"""Other simulators as contenders: one module each, run by `worker.py` with any interpreter that has their library.

Nothing here imports pfljax. A module defines

- `prepare(workload, source) -> round`: sets everything up and returns a function that runs ONE complete round and comes
  back when it is finished; raises `NotImplementedError(reason)` for a workload without a counterpart;
- `about() -> dict`: versions of what ran.

`workload` is `pfljax.benchmark.Workload.to_dict()`, `source` the path after `--rival NAME=PATH`, if any.
`data.arrays(workload)` are the examples, the same for everybody.
"""
