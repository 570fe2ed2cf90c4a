"""The command line: what it writes, that runs resume exactly, that failures are one line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pfljax
from pfljax import cli, experiment
from pfljax.algorithms import FAMILIES, METHODS
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result

ROOT = Path(__file__).parents[1]
SMALL = [
    "--config.data.partition={'name': 'iid', 'clients': 3}", "--quiet",
    "--config.model={'name': 'logistic'}", "--config.run.rounds=4",
    "--config.run.eval_every=2", "--config.local.epochs=1", "--config.local.batch_size=64",
]  # fmt: skip


def test_without_arguments_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0 and the commands."""
    assert cli.main([]) == 0
    assert "doctor" in capsys.readouterr().out


def test_methods(capsys: pytest.CaptureFixture[str]) -> None:
    """Every method, for people and for programs."""
    assert cli.main(["methods"]) == 0
    table = capsys.readouterr().out
    assert cli.main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert sorted(listed) == sorted(METHODS)
    assert all(name in table for name in METHODS)


def test_methods_of_a_family_and_all_about_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Equations, arguments, what goes over the wire, needs, ranges, source."""
    assert cli.main(["methods", "--family=meta-learning", "--json"]) == 0
    assert {"per_fedavg", "reptile"} <= set(json.loads(capsys.readouterr().out)) <= set(METHODS) - {"fedavg", "ditto"}
    assert cli.main(["methods", "ditto"]) == 0
    told = capsys.readouterr().out
    for part in ("v_i ~ argmin f_i(v)", "Args:", "Source: Li et al.", "needs:   client state", "lam 0.01 to 2", "up w"):
        assert part in told
    for slip in (["ditta"], ["--family=meta-lerning"]):
        assert cli.main(["methods", *slip]) == 1
        assert "did you mean" in capsys.readouterr().err


def test_every_family_has_methods() -> None:
    """And every method a family, with a line on when to try it."""
    assert {row.family for row in METHODS.values()} <= set(FAMILIES)


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    """Versions, devices and data."""
    assert cli.main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "jax" in told
    assert "1,797 examples" in told


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Ditto to the end."""
    out = tmp_path_factory.mktemp("runs") / "ditto"
    assert cli.main(["run", *SMALL, "--config.algorithm.name=ditto", "--config.algorithm.lam=0.3", f"--out={out}"]) == 0
    return out


def test_run_writes(finished: Path) -> None:
    """The configuration, the summary, every client's scores, a figure and checkpoints."""
    names = {"config.json", "summary.json", "clients.npz", "checkpoint", "comparison.png"}
    assert {path.name for path in finished.iterdir()} == names
    result = Result.load(finished)
    assert result.rounds.tolist() == [2, 4]
    assert result.hyper["lam"] == 0.3
    assert result.config["run"]["rounds"] == 4
    steps = sum(-(-size // 64) for size in result.sizes["train"])
    assert result.client_steps == 4 * steps
    assert result.bytes_up == result.bytes_down == 4 * 3 * 4 * (64 * 10 + 10)


def test_resume_is_exact(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run stopped after the first evaluation ends where the whole run ended, to the bit."""
    out = tmp_path / "stopped"
    shutil.copytree(finished, out)
    for name in ("summary.json", "clients.npz"):
        (out / name).unlink()
    shutil.rmtree(out / "checkpoint" / "4")
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    assert "ditto" in capsys.readouterr().out
    whole, resumed = Result.load(finished), Result.load(out)
    assert resumed.rounds.tolist() == [2, 4]
    for name, scores in whole.scores.items():
        np.testing.assert_array_equal(resumed.scores[name], scores)
    assert resumed.bytes_up == whole.bytes_up


def test_another_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 1, and the files stay."""
    before = (finished / "summary.json").read_text()
    assert cli.main(["run", *SMALL, f"--out={finished}"]) == 1
    told = capsys.readouterr().err
    assert "holds another run" in told
    assert told.count("\n") == 1
    assert (finished / "summary.json").read_text() == before


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder for each method, one table; resuming a finished comparison reads it."""
    out = tmp_path / "both"
    assert cli.main(["compare", *SMALL, "--methods=local_only,centralized", f"--out={out}"]) == 0
    first = capsys.readouterr().out
    comparison = Comparison.load(out)
    assert list(comparison) == ["local_only", "centralized"]
    assert comparison["centralized"].bytes_up == 0
    assert len(comparison["centralized"].clients()) == 3
    assert cli.main(["resume", str(out)]) == 0
    assert capsys.readouterr().out == first


def test_table(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table of a folder, as text and for papers, by any metric that was measured."""
    mean = Result.load(finished).summary(metric="loss")["personal"]["mean"]
    assert cli.main(["table", str(finished), "--format=csv", "--metric=loss", "--columns=mean,round"]) == 0
    assert capsys.readouterr().out == f"method,mean,round\nditto,{mean:.3f},4\n"
    assert cli.main(["table", str(finished)]) == 0
    assert "Test accuracy, %, over 3 clients" in capsys.readouterr().out
    assert cli.main(["table", str(finished), "--metric=acuracy"]) == 1
    assert "did you mean 'accuracy'" in capsys.readouterr().err
    assert cli.main(["table", "nowhere"]) == 1
    assert "nowhere holds no comparison" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--config.run.metric=acuracy"], "metric='acuracy': did you mean 'accuracy'"),
        (["run", "--config.algorithm.name=dito"], "did you mean 'ditto'"),
        (["run", "--config.algorithm.name=ditto", "--config.algorithm.lamb=3"], "did you mean 'lam'"),
        (["run", "--config.local.lr"], "write --config.local.lr=VALUE"),
        (["run", "--config=configs/digits_quickstart.py", "--config.data.name.more=3"], "is a value, not a section"),
        (["run", "--config=nowhere.py"], "no configuration file nowhere.py"),
        (["run", "--config=pyproject.toml"], "is not a Python file"),
        (["run", "--config=pfljax/types.py"], "defines no get_config()"),
        (["compare", "--methods=fedavg,fedavg"], "each once"),
        (["compare", "--methods=fedavg,fedavgg"], "did you mean"),
        (["resume", "nowhere"], "holds no run to resume"),
        (["run", "--config.data.name=fashion_mnits"], "did you mean 'fashion_mnist'"),
        (["run", "--config.algorithm.lma=0.5"], "did you mean 'lam'"),
        (["run", "--config.algorithm=ditto"], "set config.algorithm.name='ditto'"),
        (["run", "--config.rum.rounds=3"], "config takes no 'rum': did you mean 'run'"),
        (["run", "--config.run.rounds", "100"], "write --config.run.rounds=VALUE"),
        (["run", "--config.server.lr=1.0", "--config.algorithm.name=scaffold"], "set algorithm.server_lr"),
        (["run", "--config.tune.lr=0.1"], "config.tune.lr=0.1 has no effect on fedavg"),
        (["run", "--config=configs/digits_quickstart.py", "--config.tune.lr=0.1"], "has no effect on ditto"),
        (["run", "--config.methods.ditto.lam=0.1"], "config.methods.ditto.lam is for ditto, which is not run"),
        (["run", "--config=configs"], "configs is a folder"),
        (["run", "--config=configs/synthetic.py:much"], "configs/synthetic.py, line "),
        (["run", "--config=configs/synthetic.py:much"], "ValueError: could not convert string to float: 'much'"),
        (["compare", "--methods=fedavg,apfl", "--config.tune.lr=0.1"], "has no effect on fedavg, apfl"),
        (["sweep", "--over=tune.lr=0.1,0.2"], "tune.lr has no effect on fedavg"),
        (["sweep", "--over=run.seed=0:2", "--config.tune.lr=0.1"], "tune.lr has no effect on fedavg"),
        (["sweep", "--random=2", "--over=local.lr=uniform(a,b)"], "write uniform(LOW, HIGH)"),
        (["config", "--method=dito"], "did you mean 'ditto'"),
    ],
)
def test_failures_are_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback, status 1; nothing is compiled before."""
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert told.startswith("pfljax: ")


def test_unknown_arguments_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    """As argparse has it: status 2."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--rounds=3"])
    assert stop.value.code == 2
    assert "unknown argument '--rounds=3': did you mean --config.run.rounds?" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the package."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"pfljax {pfljax.__version__}\n"


def test_the_help_shows_overrides_that_work(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone, without a file."""
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    assert cli.EXAMPLE in " ".join(capsys.readouterr().out.split())
    config = cli.read_config(None, cli.EXAMPLE.split())
    experiment.check_effect(config, [config.algorithm.name], ["algorithm.name", "algorithm.lam", "run.rounds"])
    assert (config.algorithm.options["lam"], config.run.rounds) == (0.5, 100)


def test_fields_of_a_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them with a type and a meaning, or those of a method; within 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["config", "--json"]) == 0
    listed = {field["name"]: field for field in json.loads(capsys.readouterr().out)}
    assert all(field["type"] and field["meaning"] for field in listed.values())
    defaults = experiment.Config().to_dict()
    assert {name.split(".")[0] for name in listed} == set(defaults)
    for name, field in listed.items():
        section, _, last = name.rpartition(".")
        value: Any = defaults
        for part in filter(None, section.split(".")):
            value = value[part]
        if value is None:  # of a section that is off
            assert listed[section]["default"] is None
        else:
            assert field["default"] == value[last], name
    assert listed["local.batch_size"]["type"] == "whole >= 1"
    assert cli.main(["config", "--method=scaffold"]) == 0
    table = capsys.readouterr().out
    assert "algorithm.server_lr" in table
    assert "local.epochs" in table
    assert "local.lr" not in table
    assert max(map(len, table.splitlines())) <= 80


def test_debug_shows_the_traceback() -> None:
    """The error itself is raised."""
    with pytest.raises(ValueError, match="ditto"):
        cli.main(["run", "--debug", "--config.algorithm.name=dito"])


def test_divergence_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that becomes infinite stops the run with the round and a remedy."""
    assert cli.main(["run", *SMALL, "--config.local.lr=1e38", f"--out={tmp_path / 'wild'}"]) == 1
    assert "no longer finite" in capsys.readouterr().err
    assert not (tmp_path / "wild" / "summary.json").exists()


def test_module_and_script_are_one() -> None:
    """`python -m pfljax` is the command."""
    ran = subprocess.run(
        [sys.executable, "-m", "pfljax", "run", "--config=no.py"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.strip() == "pfljax: there is no configuration file no.py"
