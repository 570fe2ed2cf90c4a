"""Tables that print themselves, also as HTML in notebooks, and write themselves for papers and programs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any, Literal

import rich.table
from rich import box
from rich.text import Text

from pfljax.printing import Shown


class Table(Shown, rich.table.Table):
    """A table in the house style. Names fold where the terminal is narrow, numbers are never cut.

    Args:
      title, caption: above and below.

    >>> table = Table()
    >>> table.add_names("method")
    >>> table.add_numbers("mean")
    >>> table.add("fedavg_finetuned", bold("97.1"))
    >>> print(table.markdown())
    | method | mean |
    |---|---:|
    | fedavg_finetuned | **97.1** |
    """

    def __init__(self, title: str | None = None, caption: str | None = None):
        super().__init__(
            title=title and Text(title, "table.title", no_wrap=True, overflow="ignore"),
            caption=caption and Text(caption, "table.caption", no_wrap=True, overflow="ignore"),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )

    def add_names(self, header: str, justify: Literal["left", "right"] = "left") -> None:
        """A column of names, which fold rather than be cut."""
        self.add_column(Text(header), justify=justify, overflow="fold")

    def add_numbers(self, header: str) -> None:
        """A column of numbers, which stay whole."""
        self.add_column(Text(header), justify="right", no_wrap=True)

    def add(self, *cells: str | Text) -> None:
        """A row; texts are shown as they are, brackets too."""
        self.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))

    def latex(self) -> str:
        """A `tabular` with the rules of the package booktabs."""
        header, *rows = self._written(_latex, r"\textbf{{{}}}".format)
        kinds = "".join("r" if column.justify == "right" else "l" for column in self.columns)
        lines = [" & ".join(row) + r" \\" for row in (header, *rows)]
        begin, end = rf"\begin{{tabular}}{{{kinds}}}", r"\end{tabular}"
        note = [f"% {self.title}; needs \\usepackage{{booktabs}}" if self.title else r"% needs \usepackage{booktabs}"]
        return "\n".join([*note, begin, r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule", end, ""])

    def markdown(self) -> str:
        """A table as GitHub and notebooks read it."""
        header, *rows = self._written(_markdown, "**{}**".format)
        rule = ["---:" if column.justify == "right" else "---" for column in self.columns]
        lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
        return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:], ""])

    def csv(self) -> str:
        """Values separated by commas; numbers without the signs of thousands and of percent."""
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerows(self._written(_bare, str))
        return stream.getvalue()

    def _written(self, escape: Callable[[str], str], strong: Callable[[str], str]) -> list[list[str]]:
        """All rows, the header first."""

        def write(cell: Any) -> str:
            text = cell if isinstance(cell, Text) else Text.from_markup(str(cell))
            plain = escape(text.plain.replace("\n", ""))
            return strong(plain) if text.style == "bold" else plain

        columns = [[column.header, *column.cells] for column in self.columns]
        return [[write(cell) for cell in row] for row in zip(*columns, strict=True)]


def bold(text: str) -> Text:
    """A cell that stands out."""
    return Text(text, style="bold")


_LATEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "[": "{[}",  # at the start of a row it would be an argument of the line before
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in text)


def _markdown(text: str) -> str:
    """Underscores inside a word are no emphasis and stay."""
    return re.sub(r"[\\`*|<\[\]~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _bare(text: str) -> str:
    return re.sub("[,%]", "", text) if re.fullmatch(r"[-+\d.,e%± ]+", text) else text
