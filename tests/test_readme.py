"""The README is true: its program runs, its table is the table of methods."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pfljax import cli

README = (Path(__file__).parent.parent / "README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_the_ten_lines_run():
    names: dict = {}
    exec(PROGRAMS[0], names)
    study, data = names["study"], names["data"]
    assert list(study) == names["methods"]
    assert "fedavg_finetuned" in repr(study)
    best = study["ditto"].clients("personal", "test")[7]
    logits, own = (
        names["model"].predict(data.examples.x),
        slice(data.test.start[7], data.test.start[7] + data.test.size[7]),
    )
    assert (logits.argmax(-1) == data.examples.y)[own].mean() == pytest.approx(best)


@pytest.mark.slow
def test_the_fifteen_lines_run():
    names: dict = {}
    exec(PROGRAMS[1], names)
    columns = ["method", "seed", "round", "client", "name", "model", "split", "metric", "value"]
    assert list(names["frame"]) == columns
    last = {name: result.summary()["personal"]["mean"] for name, result in names["comparison"].items()}
    assert last["ditto"] > last["fedavg"]  # Dirichlet(0.1) rewards personalization


def test_the_models_of_a_run_are_deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(PROGRAMS[3], names)
    assert names["outputs"].shape == (3, 10)
    assert sorted(path.name for path in Path("deployed/7").iterdir()) == ["model.json", "params", "predict.bin"]


def test_the_program_from_a_table_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    subject = np.repeat(["anna", "ben", "cem", "dora", "eva", "fritz"], 40)
    speed = draw.normal(500, 100, 240)
    moves = (speed > 500) ^ (subject == "anna")  # who walks backwards
    rows = pd.DataFrame({"subject": subject, "speed": speed, "activity": np.where(moves, "walks", "sits")})
    rows.to_csv("windows.csv", index=False)
    rows[rows.subject == "anna"].to_csv("new.csv", index=False)
    names: dict = {}
    exec(next(program for program in PROGRAMS if "from_frame" in program), names)
    assert np.mean(names["activities"] == rows.activity[rows.subject == "anna"]) > 0.8
    assert json.loads(Path("deployed/anna/model.json").read_text())["classes"] == ["sits", "walks"]


def test_the_table_of_methods_is_the_one_of_the_command_line(capsys: pytest.CaptureFixture[str]):
    table = re.search(r"<!-- methods:.*?-->\n(.*?)<!-- end of methods -->", README, re.DOTALL)
    assert table
    assert cli.main(["methods", "--markdown"]) == 0
    assert table[1] == capsys.readouterr().out
