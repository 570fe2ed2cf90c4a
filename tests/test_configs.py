"""Configurations: the files in configs/ are valid, and mistakes are found before anything is loaded."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from typing import Any

import optax
import pytest

from experiments import demo
from pfljax import algorithms, cli, data, engine, experiment, local, models, tasks
from pfljax.algorithms import METHODS
from pfljax.experiment import Config, from_config_dict

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_claims(path: Path) -> None:
    """A file says how to run it, and is valid for every method that it names."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "pfljax " in text
    assert f"--config=configs/{path.name}" in text
    config = cli.read_config(str(path))
    assert from_config_dict(config.to_dict()) == config


@pytest.mark.parametrize("path", [path for path in FILES if "mnist" not in path.stem], ids=lambda path: path.stem)
def test_every_method_can_be_prepared(path: Path) -> None:
    """Data, model and method fit together; only norm layers may be missing."""
    config = cli.read_config(str(path))
    data = experiment.load_data(config.data)
    for name in METHODS:
        if "norm layers" in METHODS[name].needs:
            with pytest.raises(ValueError, match="the model has none"):
                experiment.prepare(config.of_method(name), data)
        else:
            assert experiment.prepare(config.of_method(name), data).recipe.hyper


def test_arguments_of_files() -> None:
    """What follows the colon reaches `get_config`."""
    config = cli.read_config(f"{ROOT / 'configs' / 'synthetic.py'}:2.0")
    assert config.data.options["tau"] == 2.0


def test_defaults_are_the_quickstart() -> None:
    """Without a file the digits are run, on the same data and model."""
    quickstart = cli.read_config(str(ROOT / "configs" / "digits_quickstart.py"))
    assert (Config().data, Config().model, Config().local) == (quickstart.data, quickstart.model, quickstart.local)


def test_overrides() -> None:
    """Numbers, tuples, words, flags and new options, on top of a file."""
    path = str(ROOT / "configs" / "digits_quickstart.py")
    texts = ["run.rounds=7", "model.hidden=(8,4)", "algorithm.name=fedper", "algorithm.init=common", "cohort.size=3"]
    texts += [
        "cohort.sampling=uniform",
        "cohort.stragglers=0.5",
        "cohort.partial=false",
        "local.lr=1",
        "data.path=None",
        "personal_local.lr=0.5",
    ]
    config = cli.read_config(path, [f"--config.{text}" for text in texts])
    assert config.run.rounds == 7
    assert config.model.options["hidden"] == (8, 4)
    assert config.algorithm == experiment.Choice("fedper", {"init": "common"})
    assert (config.cohort.size, config.cohort.sampling, config.cohort.partial) == (3, "uniform", False)
    assert config.local.lr == 1.0
    assert config.tune == dataclasses.replace(config.local, epochs=5), "a section inherits from local"
    assert config.personal_local == dataclasses.replace(config.local, lr=0.5)


def test_compare_is_simulate_for_each() -> None:
    """The same scores as one run after the other, in the order given."""
    dealt = data.federate(data.load("digits"), data.partition.iid(3), seed=0)
    task = tasks.classification(models.logistic((8, 8, 1), 10))
    solver = local.descent(optax.sgd(0.1), local.epochs(1, 64))
    made = {"local_only": algorithms.local_only(task, solver), "mine": algorithms.fedavg(task, solver)}
    comparison = experiment.compare(task, made, dealt, rounds=2, eval_every=2, seed=1)
    alone = engine.simulate(task, made["mine"], dealt, rounds=2, eval_every=2, seed=1)
    assert list(comparison) == ["local_only", "mine"]
    assert comparison["mine"].clients().tolist() == alone.clients().tolist()


def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It writes a table and a figure, over those of an earlier demo."""
    monkeypatch.setattr(demo, "METHODS", ("local_only",))
    (tmp_path / "summary.json").write_text("{}")
    demo.demo(tmp_path)
    assert "local_only" in capsys.readouterr().out
    assert (tmp_path / "comparison.png").stat().st_size > 10_000
    assert (tmp_path / "local_only" / "clients.npz").exists()


def test_options_of_methods() -> None:
    """`methods` holds wherever a method is run, `algorithm` comes before it."""
    values = {"algorithm": {"name": "ditto", "lam": 2.0}, "methods": {"ditto": {"lam": 1.0}, "fedprox": {"mu": 0.3}}}
    config = from_config_dict(values)
    data = experiment.load_data(config.data)
    assert experiment.prepare(config, data).recipe.hyper["lam"] == 2.0
    assert experiment.prepare(config.of_method("fedprox"), data).recipe.hyper["mu"] == 0.3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dat": {}}, "config takes no 'dat': did you mean 'data'"),
        ({"run": {"round": 3}}, "did you mean 'rounds'"),
        ({"run": {"rounds": 1.5}}, "must be a whole number"),
        ({"run": {"rounds": 0}}, "a whole number of at least 1"),
        ({"run": {"executor": "vmpa"}}, "must be 'auto' or"),
        ({"run": 3}, "must be a section"),
        ({"local": {"lr": "fast"}}, "config.local.lr='fast': it must be a number"),
        ({"local": {"optimizer": "agd"}}, "did you mean"),
        ({"model": {"name": "mpl"}}, "did you mean 'mlp'"),
        ({"model": {"name": "mlp", "hiden": (3,)}}, "did you mean 'hidden'"),
        ({"data": {"partition": {"name": "dirichlet", "clients": 20}}}, "lacks 'alpha'"),
        ({"data": {"partition": {"name": "dirchlet", "clients": 20}}}, "did you mean 'dirichlet'"),
        ({"data": {"partition": {"clients": 20}}}, "lacks a name"),
        ({"data": {"options": {"tau": 1.0}}}, "are for synthetic data"),
        ({"data": {"test": "miror"}}, "it must be a number .* or 'mirror' or 'pooled'; did you mean 'mirror'"),
        ({"algorithm": {"name": "dito"}}, "did you mean 'ditto'"),
        ({"methods": {"dito": {}}}, "did you mean 'ditto'"),
    ],
)
def test_mistakes(values: dict[str, Any], message: str) -> None:
    """Each is one sentence with the place, the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        from_config_dict(values)
