"""A sweep as SLURM jobs, one for each shard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pfljax.experiment.config import Config
from pfljax.experiment.sweeps.points import lay_out, plain_values
from pfljax.experiment.sweeps.runner import sweep
from pfljax.experiment.sweeps.spaces import Space


def slurm(
    config: Config | Mapping[str, Any],
    space: Space | Mapping[str, Any],
    out: str | Path,
    jobs: int,
    *,
    cluster: str | None = None,
    **options: Any,
) -> list[Any]:
    """Submits a sweep as an array of `jobs` jobs; `load(out)` looks at it, `merge(out)` unites it.

    A job that is killed or requeued goes on where it was. To submit what is left, call it again.

    Args:
      config, space, out: see `sweep`; `out` is on a disk that the jobs share.
      jobs: number of shards.
      cluster: `"slurm"`, `"local"` (processes on this machine), `"debug"` (in this process); found out if None.
      **options: of `submitit.AutoExecutor.update_parameters`, such as `timeout_min`, `slurm_partition`.

    Returns:
      Jobs of submitit; `job.result()` waits for the number of points that are done, diverged and pending.

    Raises:
      ImportError: if submitit is not installed.
      ValueError: if the space cannot be met, or has fewer points than jobs.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("jobs need submitit: pip install 'pfljax[cluster]'") from error
    values, points = plain_values(config), lay_out(config, space)
    if not 1 <= jobs <= len(points):
        raise ValueError(f"jobs={jobs}: the sweep has {len(points)} points, so ask for 1 to {len(points)} jobs")
    settings = [point.setting for point in points]
    executor = submitit.AutoExecutor(folder=Path(out).absolute() / "jobs", cluster=cluster)
    executor.update_parameters(name="pfljax", **options)
    shards = [(index, jobs) for index in range(jobs)]
    return executor.map_array(_Shard(values, settings, str(Path(out).absolute())), shards)


class _Shard:
    """What a job does; it travels to the job pickled, and again when SLURM requeues it."""

    def __init__(self, config: dict[str, Any], space: Space, out: str):
        self._config, self._space, self._out = config, space, out

    def __call__(self, shard: tuple[int, int]) -> dict[str, int]:
        return sweep(self._config, self._space, self._out, shard=shard, resume=True).counts

    def checkpoint(self, shard: tuple[int, int]) -> Any:
        """Asked by submitit when a job runs out of time: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, shard)
