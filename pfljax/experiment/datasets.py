"""`pfljax data list | show | prepare | describe`: which data sets are known, which are here, and what is in them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from pfljax import checks
from pfljax.data import Dataset, load
from pfljax.data.known import KNOWN
from pfljax.data.readers.archives import write_npz
from pfljax.data.sources import located, prepared
from pfljax.experiment import describing

_BAR = "▏▎▍▌▋▊▉█"
_WIDTH, _MOST = 30, 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pfljax data`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all that are known by name, and which are here")
    show = actions.add_parser("show", help="all about one: its copies, licence, source, and what is in it, drawn")
    prepare = actions.add_parser("prepare", help="read a copy once, and keep it where it is found by name")
    describing.add_arguments(actions.add_parser("describe", help="how far clients differ, and what to start with"))
    for added in (show, prepare):
        added.add_argument("name", metavar="NAME", help="of a data set; see pfljax data list")
        added.add_argument("--size", type=int, metavar="N", help="height and width that images are brought to")
    show.add_argument("--path", metavar="PATH", help="a copy that is not in the usual places")
    prepare.add_argument("--from", dest="path", metavar="FOLDER", required=True, help="where the copy is")


def from_command_line(options: argparse.Namespace) -> None:
    """Does what `add_arguments` read."""
    if options.action == "list":
        Console().print(listed())
        return
    checks.choice(options.name, KNOWN, "NAME")
    if options.action == "show":
        print("\n".join(page(options.name)))
        place = options.path or located(options.name)
        if place is not None or KNOWN[options.name].make is not None:
            print("\n".join(drawn(load(options.name, path=options.path, size=options.size))))
        return
    dataset = load(options.name, path=options.path, size=options.size)
    root = Path(os.environ.get("PFLJAX_DATA") or prepared())
    print(f"{len(dataset):,} examples of {options.name} in {write_npz(root / f'{options.name}.npz', dataset)}")


def listed() -> Table:
    """All names, and where each is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("what it is", "task", "clients", "found"):
        table.add_column(column, overflow="fold")
    for name, known in KNOWN.items():
        place = known.copy.partition(":")[0] if known.make is not None else located(name)
        table.add_row(name, known.about, known.task, known.clients or "-", str(place or "-"))
    return table


def page(name: str) -> Iterator[str]:
    """What is known of a data set, in lines."""
    known = KNOWN[name]
    place = located(name) if known.make is None else "here"
    lines = {"task": known.task, "example": known.shape, "clients": known.clients or "by a partitioner"}
    lines |= {"a copy": known.copy, "source": known.url, "licence": known.licence, "cite": known.cite}
    lines |= {"found": str(place or f"nowhere: pfljax data prepare {name} --from FOLDER")}
    yield f"{name}: {known.about}"
    yield from (f"  {key:<8} {value}" for key, value in lines.items())


def drawn(dataset: Dataset) -> Iterator[str]:
    """What a data set holds, in lines: examples, clients by size, classes by number, with bars."""
    tested = "" if dataset.test is None else f", and {len(dataset.test):,} for tests"
    yield f"  {len(dataset):,} examples{tested}"
    if dataset.groups is not None:
        names, sizes = np.unique(dataset.groups, return_counts=True)
        order = np.argsort(-sizes, kind="stable")
        half = f"half of them of {np.median(sizes):,.0f} or more"
        yield f"  {len(names):,} clients of {sizes.min():,} to {sizes.max():,} examples, {half}"
        yield from _bars({str(names[at]): int(sizes[at]) for at in order})
    if dataset.num_classes is not None:
        names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
        counts = np.bincount(dataset.y[dataset.y != dataset.ignore].ravel(), minlength=len(names))
        yield f"  {len(names)} classes"
        yield from _bars(dict(zip(names, counts.tolist(), strict=True)))
    else:
        yield f"  targets from {dataset.y.min():g} to {dataset.y.max():g}, mean {dataset.y.mean():g}"


def _bars(counts: Mapping[str, int]) -> Iterator[str]:
    """A bar for each name; of many, the first ones."""
    most = max(*counts.values(), 1)
    for name, count in list(counts.items())[:_MOST]:
        eighths = round(count / most * _WIDTH * 8)
        bar = _BAR[-1] * (eighths // 8) + (_BAR[eighths % 8 - 1] if eighths % 8 else "")
        yield f"    {name[:24]:<24} {count:>9,} {bar}"
    if len(counts) > _MOST:
        yield f"    and {len(counts) - _MOST:,} more"
