"""The bar: plain lines where nothing can move, and no line that ends with "compiling"."""

from __future__ import annotations

import sys

import pytest

from pfljax.experiment.progress import Bar


def test_a_log_gets_ten_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(True) as bar:
        show = bar.line("ditto", "round", 40)
        for done in range(1, 41):
            show(done, f"accuracy {done}.0 %")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert (lines[0], lines[-1]) == ("ditto  round 4/40  accuracy 4.0 %", "ditto  round 40/40  accuracy 40.0 %")


def test_nothing_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar(False) as bar:
        bar.line("ditto", "round", 1)(1, "")
    assert capsys.readouterr() == ("", "")


def test_a_notebook_without_widgets_gets_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """rich would show nothing there."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Bar(True) as bar:
        bar.line("ditto", "round", 1)(1, "f1 0.500")
    assert capsys.readouterr().err == "ditto  round 1/1  f1 0.500\n"


@pytest.mark.parametrize("done", [0, 3])
def test_a_bar_does_not_end_with_compiling(
    done: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal of 80 columns, where nothing was left to do or the run failed at once; brackets are no markup."""
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    with Bar(True) as bar:
        bar.line("fedavg[x]", "round", 3, done)
    last = capsys.readouterr().err.rstrip().splitlines()[-2]
    assert "fedavg[x]" in last
    assert f"round {done}/3" in last
    assert "compiling" not in last
