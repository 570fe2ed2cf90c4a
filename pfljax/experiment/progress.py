"""How far a run is, on the standard error: a live bar in a terminal, plain lines in a log or a bare notebook."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from pfljax.engine import hosts

_FIRST = "compiling ..."


class Bar:
    """A context with a line for everything that runs; where nothing can move, ten plain lines for each.

    Args:
      visible: whether to show anything; only the first of several processes does.
    """

    def __init__(self, visible: bool):
        self._console, moving = Console(stderr=True), importlib.util.find_spec("ipywidgets") is not None
        if not self._console.is_jupyter:
            moving = self._console.is_terminal and not self._console.is_dumb_terminal
        elif not moving:
            self._console = Console(stderr=True, force_jupyter=False)
        visible = visible and hosts.leads()
        self._plain = visible and not moving
        self._live = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}", markup=False, table_column=Column(overflow="fold")),
            TimeElapsedColumn(),
            console=self._console,
            disable=not (visible and moving),
        )

    def __enter__(self) -> Bar:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        for task in self._live.tasks:
            if task.fields["state"] == _FIRST:
                self._live.update(task.id, state=_counted(task.fields["unit"], int(task.completed), task.total))
        if not self._live.disable:  # rich before 14.1 ends one that was never shown with an empty line
            self._live.stop()

    def line(self, name: str, unit: str, total: int, done: int = 0) -> Callable[[int, str], None]:
        """A new line.

        Args:
          name: of what runs.
          unit, total, done: how many rounds or points there are, and are done already.

        Returns:
          `show(done, news)`, to be called whenever more is done.
        """
        task, reached = self._live.add_task(name, total=total, completed=done, unit=unit, state=_FIRST), done

        def show(done: int, news: str) -> None:
            nonlocal reached
            state = "  ".join(filter(None, [_counted(unit, done, total), news]))
            self._live.update(task, completed=done, state=state)
            if self._plain and 10 * done // total > 10 * reached // total:
                self._console.print(f"{name}  {state}", markup=False, highlight=False, soft_wrap=True)
            reached = done

        return show


def _counted(unit: str, done: int, total: float | None) -> str:
    return f"{unit} {done}/{total:g}"
