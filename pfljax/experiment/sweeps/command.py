"""`pfljax sweep`."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from pfljax.experiment.sweeps import points, runner, spaces
from pfljax.experiment.sweeps.outcomes import Select, Sweep, spell_counts

_EXAMPLES = """\
VALUES are a list (0.01,0.1), whole numbers from FIRST to END - 1 (0:5) or, with --random, a range: uniform(LOW, HIGH),
loguniform(LOW, HIGH), integers(LOW, HIGH). Values of run.seed are never drawn: each draw is run with all of them.

  pfljax sweep --over local.lr=0.01,0.1 --over run.seed=0:5 --config.data.validation=0.2 --out=runs/swept
  pfljax sweep --random=32 --over 'local.lr=loguniform(0.001, 1)' --over run.seed=0:5 --out=runs/drawn --shard=0/4
  pfljax sweep status runs/drawn    counts and table, also while it runs
  pfljax sweep best runs/drawn      the best setting by validation, as arguments of pfljax run
  pfljax sweep merge runs/drawn     the ledgers of all shards in one
  pfljax resume runs/drawn          runs what is left

override what all points share: --config.run.rounds=100"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `from_command_line`, besides those of a configured run."""
    parser.epilog = _EXAMPLES
    add = parser.add_argument
    add("action", nargs="?", choices=("status", "best", "merge"), help="look at DIR and run nothing")
    add("folder", nargs="?", metavar="DIR", help="the sweep to look at")
    add("--over", action="append", default=[], metavar="NAME=VALUES", help="a field and its values; may be repeated")
    add("--random", type=int, metavar="COUNT", help="draw so many settings; all combinations if left out")
    add("--draw-seed", type=int, default=0, metavar="SEED", help="of the draws (0)")
    add("--shard", type=_shard, metavar="I/N", help="run part I of N, from 0 to N - 1; all parts share one --out")
    add("--at-once", type=int, metavar="COUNT", help="points of one program call; a measured choice if left out")
    add("--resume", action="store_true", help="go on in --out, with more points if there are")
    add("--select", choices=("best_validation", "best_test"), help="which examples choose the best (validation)")


def from_command_line(
    options: argparse.Namespace, config: Callable[[], tuple[Mapping[str, Any], Mapping[str, Any]]]
) -> None:
    """Runs the sweep, or the look at one, that the arguments ask for, and prints it.

    Args:
      options: what was parsed.
      config: reads the configuration, and which of its fields were set here.

    Raises:
      ValueError: if the arguments do not fit together.
    """
    if options.action is not None:
        if options.folder is None or options.over or options.out is not None:
            raise ValueError(f"write pfljax sweep {options.action} DIR, without --over and --out")
        {"status": _status, "best": _best, "merge": _merge}[options.action](options.folder, options.select)
        return
    over = dict(map(spaces.parse, options.over))
    if not over:
        raise ValueError("there is nothing to sweep over: give --over NAME=VALUES, such as --over local.lr=0.01,0.1")
    if options.random is None:
        space = spaces.grid(over)
    else:
        seeds = over.pop("run.seed", None)
        space = spaces.random(options.random, over, seed=options.draw_seed, seeds=seeds)
    values, changes = config()
    points.check_effect(points.lay_out(values, space), changes)
    swept = runner.sweep(
        values,
        space,
        options.out,
        shard=options.shard,
        resume=options.resume,
        at_once=options.at_once,
        progress=not options.quiet,
    )
    print_sweep(swept, options.select)


def print_sweep(swept: Sweep, select: Select | None = None) -> None:
    """The table, and why points are not done."""
    console = Console()
    console.print(swept.table(select))
    for point in swept.points:
        outcome = swept.outcomes.get(point.id)
        if outcome is not None and outcome.status != "done":
            console.print(f"{spaces.spell(point.setting)}: {outcome.reason}", highlight=False, soft_wrap=True)


def _status(folder: str, select: Select | None) -> None:
    print_sweep(runner.load(folder), select)


def _best(folder: str, select: Select | None) -> None:
    best = runner.load(folder).best(select or "best_validation")
    print(shlex.join(f"--config.{name}={value}" for name, value in best.setting.items()))


def _merge(folder: str, select: Select | None) -> None:
    del select
    conflicts = runner.merge(folder)
    print(f"{spell_counts(runner.load(folder).counts)}; all that has ended is in {folder}/ledger.sqlite")
    if conflicts:
        print(f"ended differently in two ledgers, the first is kept: {', '.join(conflicts)}", file=sys.stderr)


def _shard(text: str) -> tuple[int, int]:
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r}: write I/N, such as 0/4")
    index, _, count = text.partition("/")
    return int(index), int(count)
