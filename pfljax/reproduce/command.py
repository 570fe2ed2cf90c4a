"""`pfljax reproduce`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from pfljax import checks, files
from pfljax.experiment import catalogue
from pfljax.reproduce import flamby
from pfljax.reproduce.claims import Claim, Replica, methods, replicate

CLAIMS: dict[str, Callable[[str | Path | None], Claim]] = {"flamby/heart": flamby.heart}
"""Name of a claim -> what makes it from the path of its data."""

SEEDS = (42, 43, 44, 45, 46)


@checks.by_hints()
def run(
    name: str,
    path: str | Path | None = None,
    *,
    seeds: Sequence[checks.Seed] = SEEDS,
    rows: Sequence[str] | None = None,
) -> Replica:
    """A published table, run here.

    Args:
      name: of `CLAIMS`.
      path: of the data; where `pfl.load` finds them if None.
      seeds: of the runs.
      rows: of the table; all if None.

    Raises:
      ValueError: if there is no such claim or row.
      FileNotFoundError: if the data are not found.
    """
    claim = _claim(name, path)
    for row in rows or ():
        checks.choice(row, claim.rows, "rows")
    return replicate(claim, seeds, rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `from_command_line`."""
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a published table; all are listed if left out")
    add("--data", metavar="PATH", help="folder or file of its data; where pfljax data finds them if left out")
    add("--seeds", type=int, default=len(SEEDS), metavar="N", help=f"how many, from {SEEDS[0]} on ({len(SEEDS)})")
    add("--methods", metavar="A,B,...", help="then these methods in the same protocol: names, families, or all")
    add("--out", metavar="DIR", help="folder for the tables in Markdown")


def from_command_line(options: argparse.Namespace) -> None:
    """Prints a published table beside ours, and methods in its protocol."""
    console = Console(width=max(Console().width, 150))
    if options.name is None:
        console.print("\n".join(f"{name}: {(make.__doc__ or '').splitlines()[0]}" for name, make in CLAIMS.items()))
        return
    checks.each(checks.Count, seeds=options.seeds)
    names = catalogue.named(options.methods or "")
    claim, seeds = _claim(options.name, options.data), range(SEEDS[0], SEEDS[0] + options.seeds)
    tables = {"published": replicate(claim, seeds).table()}
    console.print(tables["published"])
    if names:
        tables["methods"] = methods(claim, names, seeds)
        console.print(tables["methods"])
    for name, table in tables.items() if options.out else ():
        note = f"\n{table.caption}\n" if table.caption else ""
        files.write(files.made(files.named(options.out)) / f"{name}.md", (table.markdown() + note).encode())


def _claim(name: str, path: str | Path | None) -> Claim:
    return CLAIMS[checks.choice(name, CLAIMS, "name")](path)
