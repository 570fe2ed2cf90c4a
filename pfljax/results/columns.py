"""Columns of tables: how statistics are named and written, and which way they are better."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from pfljax.results import scores
from pfljax.results.scores import Yardstick
from pfljax.results.statistics import Estimate
from pfljax.results.tables import Table, bold

SHOWN = ("mean", "std", "worst", "bottom_decile")
"""Statistics that a table shows if none are asked for."""

OVER_SEEDS = ("mean", "bottom_decile")
"""Those of a table with intervals over seeds, which has room for fewer."""


class Column(NamedTuple):
    """How a statistic is written, and which way it is better: 1 higher, -1 lower, 0 neither."""

    name: str
    title: str
    form: Callable[[float], str]
    sign: int

    def spell(self, value: Estimate | float | None) -> str:
        """A value in a table; of several seeds the mean and, of scores, half its interval."""
        if not isinstance(value, Estimate):
            return "-" if value is None else self.form(value)
        if not value.count:
            return "-"
        alone = math.isnan(value.margin) or not self.sign
        return self.form(value.mean) + ("" if alone else f" ± {self.form(value.margin)}")


def column(name: str, metric: Yardstick) -> Column:
    """The column of a statistic of `metric`, or of a cost."""
    title = {
        "bottom_decile": "worst 10%",
        "top_decile": "best 10%",
        "better_off": ">alone",
        "better_than_global": ">server",
        "sent": "MB sent",
        "ari": "ARI",
    }
    kinds: dict[str, tuple[Callable[[float], str], int]] = {
        "clients": ("{:g}".format, 0),
        "round": ("{:g}".format, 0),
        "rounds": ("{:g}".format, 0),
        "sent": ("{:,.1f}".format, 0),
        "seconds": ("{:,.1f}".format, 0),
        "std": (metric.spell, -1),
        "gini": (scores.number, -1),
        "jain": (scores.number, 1),
        "uniformity": (scores.number, 1),
        "entropy": (scores.number, 1),
        "cosine": (scores.number, 1),
        "variance": (scores.number, -1),
        "participation_gap": (metric.spell, -1),
        "loss": (scores.number, -1),
        "better_off": ("{:.0%}".format, 1),
        "better_than_global": ("{:.0%}".format, 1),
        "tied": ("{:.0%}".format, 0),
        "clusters": ("{:g}".format, 0),
        "moved": ("{:.0%}".format, 0),
        "ari": (scores.number, 1),
    }
    return Column(name, title.get(name, name.replace("_", " ")), *kinds.get(name, (metric.spell, metric.sign)))


def tabulated(
    title: str,
    kind: str,
    rows: Mapping[str, Mapping[str, Any]],
    columns: Sequence[Column],
    caption: str | None = None,
) -> Table:
    """A row of statistics for each name; the best of several is bold."""
    table = Table(title, caption)
    table.add_names(kind)
    tops = [best([_level(row.get(column.name)) for row in rows.values()], column.sign) for column in columns]
    for column in columns:
        table.add_numbers(column.title)
    for name, row in rows.items():
        values = [row.get(column.name) for column in columns]
        pairs = zip(columns, values, tops, strict=True)
        texts = ((column.spell(value), _level(value) == top) for column, value, top in pairs)
        table.add(name, *(cell(text, top and len(rows) > 1) for text, top in texts))
    return table


def _level(value: Estimate | float | None) -> float | None:
    return value.mean if isinstance(value, Estimate) else value


def cell(text: str, stands_out: bool) -> Text:
    """A cell of a table, bold if it stands out."""
    return bold(text) if stands_out and text != "-" else Text(text)


def best(values: Sequence[float | None], sign: int) -> float | None:
    """The best of those that are there; None if there is none, or nothing is best."""
    present = [value for value in values if value is not None and not math.isnan(value)]
    return max(present, key=lambda value: sign * value, default=None) if sign else None
