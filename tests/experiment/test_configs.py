"""Configurations: the files in configs/ are valid, and mistakes are found before anything is loaded."""

from __future__ import annotations

import ast
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import demo
from pfljax import algorithms, cli, data, engine, experiment, models
from pfljax.algorithms import METHODS
from pfljax.experiment.config import Config, from_config_dict
from pfljax.experiment.recipe import SolverConfig
from pfljax.learning import local, plans, tasks

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_are_claims(path: Path) -> None:
    """A file says how to run it, and is valid for every method that it names."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "pfljax " in text
    assert f"--config=configs/{path.name}" in text
    config = cli.read_config(str(path))
    assert from_config_dict(config.to_dict()) == config


AT_HAND = [path for path in FILES if "mnist" not in path.stem and "heart" not in path.stem]


@pytest.mark.parametrize("path", AT_HAND, ids=lambda path: path.stem)
def test_every_method_can_be_prepared(path: Path) -> None:
    """Data, model and method fit together; only norm layers and examples or groups of a kind may be missing."""
    missing = {"norm layers": "the model has none", "groups": r"set data\.clusters=2"}
    missing |= {"validation examples": r"no client has any: set data\.validation=0\.2"}
    config = cli.read_config(str(path))
    data = experiment.load_data(config.data)
    assert config.data is not None
    shown = data.with_public(data.examples.x[:9]) if data.public is None else data
    have = {"validation examples": config.data.validation, "groups": config.data.clusters}
    have |= {"norm layers": (config.model.options if config.model else {}).get("norm") == "layer"}
    for name in METHODS:
        needs = {missing[need] for need in METHODS[name].needs if need in missing and not have[need]}
        lacks = "public data" in METHODS[name].needs and data.public is None
        public = {r"has none: set data\.public=0\.1"} if lacks else set()
        if needs | public:
            with pytest.raises(ValueError, match="|".join(needs | public)):
                experiment.prepare(config.of_method(name), data)
        if not needs:
            assert experiment.prepare(config.of_method(name), shown).recipe.hyper


def test_arguments_of_files() -> None:
    """What follows the colon reaches `get_config`."""
    config = cli.read_config(f"{ROOT / 'configs' / 'synthetic.py'}:2.0")
    assert config.data is not None
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
    assert config.model is not None
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
    solver = local.descent(optax.sgd(0.1), plans.epochs(1, 64))
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


def test_regression(tmp_path: Path) -> None:
    """Real-valued targets are met by least squares, with as many outputs as there are targets."""
    for name, y in {"one": np.arange(40.0), "two": np.ones((40, 2))}.items():
        np.savez(tmp_path / f"{name}.npz", x=np.ones((40, 3), np.float32), y=y.astype(np.float32))
        values = {
            "data": {"name": name, "path": str(tmp_path / f"{name}.npz"), "partition": {"name": "iid", "clients": 4}}
        }
        values |= {"model": {"name": "logistic"}, "run": {"rounds": 1, "metric": "squared_error"}}
        task: Any = experiment.prepare(from_config_dict(values)).task
        outputs = task.predict(task.init(jax.random.key(0)), jnp.ones((5, 3)))
        assert outputs.shape == (5, y[:1].size)
        assert [metric.name for metric in task.metrics] == ["loss", "squared_error"]
        with pytest.raises(ValueError, match="metric='accuracy': choose 'loss', 'squared_error'"):
            experiment.prepare(from_config_dict(values | {"run": {"metric": "accuracy"}}))


def test_classes_are_needed(tmp_path: Path) -> None:
    """Methods that count or store classes refuse real targets before anything is compiled."""
    np.savez(tmp_path / "real.npz", x=np.ones((40, 3), np.float32), y=np.arange(40, dtype=np.float32))
    data = {"name": "real", "path": str(tmp_path / "real.npz"), "partition": {"name": "iid", "clients": 4}}
    needy = [name for name, row in METHODS.items() if "class labels" in row.needs]
    assert needy
    for name in needy:
        with pytest.raises(ValueError, match=f"{name} needs one class for each example, and labels are float32"):
            experiment.prepare(from_config_dict({"data": data, "algorithm": {"name": name}}))


def test_groups_of_a_configuration() -> None:
    """Made when the data are dealt, so that methods are compared on the same; a method knows how many there are."""
    config = from_config_dict({"data": {"clusters": 3}, "algorithm": {"name": "context_clustered"}})
    dealt = experiment.load_data(config.data)
    assert set(dealt.traits["group"].tolist()) == {0, 1, 2}
    prepared = experiment.prepare(config, dealt)
    server = prepared.recipe.make(**prepared.recipe.hyper).init_server(jax.random.key(0), 20)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(server.own.params)} == {3}
    experiment.check_effect(config, ["fedavg", "context_clustered"])


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
        ({"data": {"test": "miror"}}, "it must be a number .* or 'mirror' or .* 'given'; did you mean 'mirror'"),
        ({"algorithm": {"name": "dito"}}, "did you mean 'ditto'"),
        ({"methods": {"dito": {}}}, "did you mean 'ditto'"),
        ({"methods": {"ditto": 5}}, "config.methods.ditto=5: it must be a dictionary"),
        ({"methods": {"ditto": {"lam": -1}}}, "config.methods.ditto.lam=-1: it must be a number of at least 0"),
        ({"algorithm": "ditto"}, "set config.algorithm.name='ditto'"),
        ({"algorithm": {"name": "apfl", "alpha": 1.5}}, "config.algorithm.alpha=1.5: it must be a number from 0 to 1"),
        ({"algorithm": {"name": "ifca", "clusters": 0}}, "config.algorithm.clusters=0: it must be a whole number"),
        ({"algorithm": {"name": "fedper", "personal": -1}}, "config.algorithm.personal=-1: it must be a whole number"),
        ({"algorithm": {"name": "fedavg", "lam": 1.0}}, "config.algorithm.lam is no option of fedavg: 'lam' is an opt"),
        ({"algorithm": {"name": "fedavg", "lma": 1.0}}, "did you mean 'lam'.* is an option of .*ditto"),
        ({"data": {"name": "nope"}}, "config.data.name='nope': choose 'digits'"),
        ({"data": {"name": "synthetic", "path": "x"}}, "config.data.path='x' is for files"),
        ({"data": {"seed": -1}}, "config.data.seed=-1"),
        ({"data": {"partition": {"name": "iid", "clients": 0}}}, "config.data.partition.clients=0"),
        ({"model": {"name": "mlp", "hidden": (0,)}}, "config.model.hidden=0"),
        ({"model": {"name": "char_lstm", "hiden": 3}}, "did you mean 'hidden'"),
        ({"local": {"lr": math.nan}}, "config.local.lr=nan: it must be a finite number of at least 0"),
        ({"local": {"momentum": 3}}, "config.local.momentum=3"),
        ({"local": {"plan": "steps", "epochs": 1}}, "config.local.epochs=1 is for plan='epochs', not 'steps'"),
        ({"tune": {"plan": "steps", "drop_last": False}}, "config.tune.drop_last=False is for plan='epochs'"),
        ({"server": {"optimizer": "adam", "momentum": 0.9}}, "config.server.momentum=0.9 is for optimizer='sgd'"),
        ({"cohort": {"size": 10}}, "config.cohort.size=10 is for sampling='uniform' or"),
        ({"cohort": {"sampling": "uniform", "size": -3}}, "config.cohort.size=-3"),
        ({"cohort": {"dropouts": 7.0}}, "config.cohort.dropouts=7.0: it must be a number from 0 to 1"),
        ({"run": {"seed": 2**70}}, "config.run.seed=1180591620717411303424"),
        ({"run": {"executor": True}}, "config.run.executor=True"),
        ({"run": {"onboard_rounds": -1}}, "config.run.onboard_rounds=-1"),
        ({"run": {"select": "best_validation"}}, "set data.validation=0.2"),
        (3, "config=3: it must be a dictionary"),
    ],
)
def test_mistakes(values: dict[str, Any], message: str) -> None:
    """Each is one sentence with the place, the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        from_config_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"server": {"lr": 0.5}, "algorithm": {"name": "scaffold"}}, "config.server has no effect on scaffold"),
        ({"local": {"lr": 0.5}, "algorithm": {"name": "scaffold"}}, "config.local.lr=0.5 .* set algorithm.lr"),
        ({"local": {"solver": "proximal_descent"}, "algorithm": {"name": "apfl"}}, "config.local.solver='proximal_"),
        ({"tune": {}}, "config.tune has no effect on fedavg: it is for fedavg_finetuned, "),
        ({"cohort": {"dropouts": 0.3}, "algorithm": {"name": "centralized"}}, "config.cohort.dropouts=0.3 has no eff"),
        ({"run": {"onboard_rounds": 3}}, "config.run.onboard_rounds=3 is for unseen clients"),
        ({"data": {"clusters": 2}}, "config.data.clusters=2 has no effect on fedavg: it is for methods of groups"),
    ],
)
def test_what_changes_nothing_is_refused(values: dict[str, Any], message: str) -> None:
    """Before data are loaded; a configuration of several methods has sections for others than the one that is run."""
    config = from_config_dict(values)
    with pytest.raises(ValueError, match=message):
        experiment.run(config)
    with pytest.raises(ValueError, match=message):
        experiment.compare_methods(config, [config.algorithm.name])
    experiment.check_effect(dataclasses.replace(config, methods={"ditto": {}}), [config.algorithm.name])


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_reads_has_an_effect(name: str) -> None:
    """The numbers of sections that are traced are those of the fields that are not idle."""
    solver = {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.1}
    sections = dict.fromkeys(("local", "tune", "head_local", "personal_local"), solver)
    config = from_config_dict({"algorithm": {"name": name}, "server": {"momentum": 0.5}, **sections})
    numbers = {f"{section}.{key}" for section in sections for key in solver} | {"server.lr", "server.momentum"}
    assert numbers - set(config.idle([name])) == {key for key in experiment.hyperparameters(config) if "." in key}


def test_a_comparison_reads_what_one_of_its_methods_reads() -> None:
    config = Config(tune=SolverConfig(epochs=5))
    experiment.check_effect(config, ["fedavg", "fedavg_finetuned"])
    with pytest.raises(ValueError, match="tune has no effect on fedavg, ditto"):
        experiment.check_effect(config, ["fedavg", "ditto"])


@pytest.mark.parametrize(
    ("values", "changes", "expected"),
    [
        ({}, {"local.plan": "steps", "local.steps": 3}, ("local", {"plan": "steps", "steps": 3, "lr": 0.05})),
        ({"local": {"epochs": 5}}, {"local.plan": "steps"}, ("local", {"plan": "steps"})),
        ({"local": {"momentum": 0.9}}, {"local.optimizer": "adam"}, ("local", {"optimizer": "adam"})),
        ({"tune": {"epochs": 5}}, {"local.plan": "steps"}, ("tune", {})),
        ({"algorithm": {"name": "ditto", "lam": 3}}, {"algorithm.name": "apfl"}, ("algorithm", {"name": "apfl"})),
        ({"model": {"name": "mlp", "hidden": [3]}}, {"model.name": "cnn"}, ("model", {"name": "cnn"})),
        ({}, {"algorithm.name": "ditto", "algorithm.lam": 2.0}, ("algorithm", {"name": "ditto", "lam": 2.0})),
        ({"wrappers": {"reduce": "krum", "f": 2}}, {"wrappers.reduce": "median"}, ("wrappers", {"reduce": "median"})),
        ({}, {"wrappers.clip": 2.0, "wrappers.noise": 0.5}, ("wrappers", {"clip": 2.0, "noise": 0.5})),
    ],
)
def test_changes_leave_behind_what_they_make_idle(
    values: dict[str, Any], changes: dict[str, Any], expected: tuple[str, dict[str, Any]]
) -> None:
    """And only that; what is given is not changed."""
    before = json.dumps(values)
    changed = experiment.overridden(values, changes)
    section, content = expected
    assert content.items() <= changed[section].items()
    assert not values.get(section) or changed[section] == content
    assert json.dumps(values) == before
    from_config_dict(changed)


def test_splits_and_keys_of_a_configuration(tmp_path: Path) -> None:
    """Groups, times and the way of splitting reach the data from the command line."""
    people, day = np.repeat(["al", "bo"], 20), np.arange(40)[::-1]
    np.savez(tmp_path / "mine.npz", x=np.arange(40.0)[:, None], y=np.arange(40) % 2, who=people, day=day)
    texts = ["name=mine", f"path={tmp_path / 'mine.npz'}", "groups=who", "times=day"]
    texts += ["stratify=true", "chronological=true"]
    config = cli.read_config(None, [f"--config.data.{text}" for text in texts])
    assert config.data is not None
    dealt = experiment.load_data(dataclasses.replace(config.data, partition=experiment.Choice("natural")))
    assert dealt.names == ("al", "bo")
    assert dealt.label_counts("test").tolist() == [[2, 2], [2, 2]]
    x = np.asarray(dealt.examples.x)[:, 0]
    starts = zip(dealt.test.start, dealt.test.size, strict=True)
    assert [sorted(x[a : a + n].tolist()) for a, n in starts] == [[0, 1, 2, 3], [20, 21, 22, 23]]
