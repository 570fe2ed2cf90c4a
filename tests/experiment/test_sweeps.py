"""Sweeps: the same runs as a loop, one program for each group, a ledger that a kill does not hurt."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pfljax import cli, engine, experiment, files
from pfljax.algorithms import METHODS
from pfljax.engine import ensemble
from pfljax.engine.course import Diverged
from pfljax.experiment import sweeps
from pfljax.experiment.config import Config, from_config_dict
from pfljax.experiment.sweeps import Ledger, Point, Sweep, spaces
from pfljax.results.result import Result
from tests.zoo import FIRSTS, slow_but_for

ROOT = Path(__file__).parents[2]
CLIENTS = 3
BASE: dict[str, Any] = {
    "data": {"partition": {"name": "iid", "clients": CLIENTS}, "validation": 0.2},
    "model": {"name": "logistic"},
    "local": {"plan": "full_batch", "steps": 2, "lr": 0.1},
    "run": {"rounds": 3, "eval_every": 2},
}
GRID = {"local.lr": [0.01, 0.1, 0.5], "run.seed": range(2)}


def mean_accuracy(lr: float, seed: int) -> float:
    """What the stand-in for the engine scores: best at lr = 0.1."""
    return 0.9 - 0.1 * (math.log10(lr) + 1) ** 2 + 0.01 * seed


class StandIn:
    """An `ensemble.Ensemble` without a program; a learning rate above 1 diverges."""

    def __init__(self, task: Any, build: Any, data: Any, *, rounds: int, method: str, **options: Any):
        del task, build, options
        self.data, self.rounds, self.method = data, rounds, method

    def run(self, points: Sequence[ensemble.Point]) -> Iterator[tuple[int, Result | Diverged]]:
        data, rounds = self.data, self.rounds
        for place, (seed, hyper) in reversed(list(enumerate(points))):
            lr = hyper["local.lr"]
            if lr > 1:
                yield place, Diverged(f"round 1: lr={lr}")
                continue
            spread = np.array([-0.1, 0.0, 0.1])
            scores = {
                "personal/test/accuracy": np.stack([np.zeros(CLIENTS), mean_accuracy(lr, seed) + spread]),
                "personal/test/loss": np.stack([np.ones(CLIENTS), np.full(CLIENTS, np.nan)]),
                "personal/validation/accuracy": np.full((2, CLIENTS), mean_accuracy(lr, seed) - 0.05),
            }
            yield (
                place,
                Result(
                    method=self.method,
                    hyper=dict(hyper),
                    seed=seed,
                    rounds=np.array([0, rounds]),
                    scores=scores,
                    sizes={split: data.sizes(split) for split in ("train", "validation", "test")},
                    log={"ids": np.tile(np.arange(CLIENTS), (rounds, 1))},
                    seconds=0.5,
                    compile_seconds=0.0,
                    client_steps=0,
                    bytes_up=1,
                    bytes_down=2,
                    fingerprint=data.fingerprint,
                ),
            )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[ensemble.Point]]:
    """The stand-in takes the engine's place and writes down what it was asked for."""
    asked: list[list[ensemble.Point]] = []

    class Asked(StandIn):
        def run(self, points: Sequence[ensemble.Point]) -> Iterator[Any]:
            asked.append(list(points))
            return super().run(points)

    monkeypatch.setattr(ensemble, "Ensemble", Asked)
    return asked


def same(a: Result, b: Result) -> None:
    """Everything but times."""
    for mine, yours in ((a.scores, b.scores), (a.sizes, b.sizes), (a.log, b.log), ({"": a.rounds}, {"": b.rounds})):
        assert mine.keys() == yours.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, yours[name], strict=True)
    for name in ("method", "hyper", "seed", "client_steps", "bytes_up", "bytes_down", "fingerprint"):
        assert getattr(a, name) == getattr(b, name)


def alone(point: Point) -> Result:
    """The loop's run of a point."""
    prepared, run = experiment.prepare(point.config), point.config.run
    return engine.simulate(
        prepared.task,
        prepared.recipe.make,
        prepared.data,
        rounds=run.rounds,
        eval_every=run.eval_every,
        seed=run.seed,
        hyper=prepared.recipe.hyper,
        method=point.config.algorithm.name,
        plan=prepared.recipe.plan,
        train=prepared.train,
        devices=jax.devices()[:1],
    )


# The same runs as a loop


@pytest.fixture(scope="module")
def real(
    tmp_path_factory: pytest.TempPathFactory, optimizing: Callable[[], AbstractContextManager]
) -> tuple[Sweep, Path]:
    """Three learning rates, the last absurd, with two seeds."""
    out = tmp_path_factory.mktemp("sweeps") / "real"
    with optimizing():
        return sweeps.sweep(BASE, {"local.lr": [0.1, 0.5, 1e38], "run.seed": range(2)}, out), out


@pytest.mark.usefixtures("optimized")
def test_points_are_those_of_the_loop(real: tuple[Sweep, Path]) -> None:
    """To the bit, read back from the ledger; the point that diverged harmed none."""
    swept, _ = real
    assert swept.counts == {"done": 4, "diverged": 2, "failed": 0, "pending": 0}
    for point in (swept.points[0], swept.points[3]):
        same(swept.results[point.id], alone(point))
    accuracies = {tuple(result.clients()) for result in swept.results.values()}
    assert len(accuracies) == 4, "learning rates and seeds make a difference"
    for point in swept.points[4:]:
        assert "no longer finite" in str(swept.outcomes[point.id].reason)
        assert point.id not in swept.results


def test_a_ledger_holds_whole_results(real: tuple[Sweep, Path]) -> None:
    """Configuration, seed, costs and scores of each, also from another process's view."""
    swept, out = real
    loaded = sweeps.load(out)
    assert loaded.points == swept.points
    for point in swept.points[:4]:
        result = loaded.results[point.id]
        same(result, swept.results[point.id])
        assert from_config_dict(result.config) == point.config
        assert result.seed == point.setting["run.seed"]
        assert result.hyper == {"local.lr": point.setting["local.lr"], "server.lr": 1.0}
        accuracy = np.mean(result.scores["personal", "validation", "accuracy"][-1].astype(float))
        assert swept.outcomes[point.id].validation == pytest.approx(accuracy, rel=1e-12)


def _method_values(name: str) -> dict[str, Any]:
    model = {"name": "resnet8"} if "norm layers" in METHODS[name].needs else {"name": "mlp", "hidden": (4,)}
    sizes = {"clients": 3, "sizes": (12, 9, 15), "dim": 4, "num_classes": 3}
    data = {"name": "synthetic_v2", "options": sizes, "partition": {"name": "natural"}}
    if model["name"] == "resnet8":
        data = {"partition": {"name": "iid", "clients": 2}}
    data |= {"validation": 0.25} if "validation examples" in METHODS[name].needs else {}
    data |= {"clusters": 2} if "groups" in METHODS[name].needs else {}
    data |= {"public": 0.2} if "public data" in METHODS[name].needs else {}
    algorithm = {"name": name} | dict(METHODS[name].example)
    return {"data": data, "model": model, "algorithm": algorithm, "local": BASE["local"], "run": {"rounds": 2}}


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("name", slow_but_for(("scaffold",), ["centralized", *FIRSTS]))
def test_every_method_is_that_of_the_loop(name: str) -> None:
    """Two points of every traced number of the method: one program, the bits of two runs."""
    values = _method_values(name)
    hyper = experiment.hyperparameters(from_config_dict(values))
    fields = {key if "." in key else f"algorithm.{key}": value for key, value in hyper.items() if key != "tune.lr"}
    space = [{**fields, "run.seed": 0}, {key: 0.9 * value for key, value in fields.items()} | {"run.seed": 1}]
    swept = sweeps.sweep(values, space)
    assert len({point.group for point in swept.points}) == 1
    for point in swept.points:
        same(swept.results[point.id], alone(point))


def test_a_later_sweep_goes_on_with_programs(caplog: pytest.LogCaptureFixture) -> None:
    """Those of the groups that are kept, the latest used of which stays."""
    ensembles = sweeps.Ensembles(groups=2)

    def compiles(setting: dict[str, Any]) -> bool:
        caplog.clear()
        with caplog.at_level("INFO", logger="pfljax.engine.programs"):
            sweeps.sweep(BASE, [setting], ensembles=ensembles)
        return bool(caplog.messages)

    steps = [2, 2, 3, 2, 4, 2, 3]
    compiled = [compiles({"local.steps": n, "local.lr": 0.1 + 0.01 * place}) for place, n in enumerate(steps)]
    assert compiled == [True, False, True, False, True, False, True]
    with pytest.raises(ValueError, match="groups=0"):
        sweeps.Ensembles(groups=0)


# Points


def test_ids_do_not_depend_on_spelling() -> None:
    """Order, whole or broken numbers, arrays, sections or fields; and they are what their docstring says."""
    (point,) = sweeps.lay_out(BASE, [{"local.lr": 1, "run.seed": 3}])
    config = BASE | {"local": BASE["local"] | {"lr": 1.0}, "run": BASE["run"] | {"seed": 3}}
    spellings = [
        (BASE, {"run.seed": np.int64(3), "local.lr": np.float32(1)}),
        (dict(reversed(BASE.items())), {"run.seed": 3, "local.lr": 1.0}),
        (config, {}),
        (from_config_dict(config), {"run.seed": 3}),
        (BASE, {"local": BASE["local"] | {"lr": 1.0}, "run.seed": 3}),
        (BASE | {"methods": {"ditto": {"lam": 0.3}}}, {"run.seed": 3, "local.lr": 1.0}),
    ]
    for values, setting in spellings:
        assert sweeps.lay_out(values, [setting])[0].id == point.id, setting
    content = from_config_dict(config).to_dict() | {"methods": {}}
    written = json.dumps(content, sort_keys=True, separators=(",", ":")).replace(".0,", ",").replace(".0}", "}")
    assert point.id == hashlib.sha256(written.encode()).hexdigest()[:12]


def test_points_are_laid_out_once() -> None:
    """The same point twice is one."""
    assert len(sweeps.lay_out(BASE, {"local.lr": [0.1, 0.10, 0.2]})) == 2


def _groups(space: list[dict[str, Any]], values: Any = BASE) -> list[int]:
    """Number of the group of each point, in the order in which groups appear."""
    groups = [point.group for point in sweeps.lay_out(values, space)]
    return [list(dict.fromkeys(groups)).index(group) for group in groups]


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ([{"local.lr": 0.1}, {"local.lr": 0.2}, {"run.seed": 4}, {"server.lr": 0.5}], [0, 0, 0, 0]),
        ([{"local.momentum": 0.0}, {"local.momentum": 0.5}, {"local.momentum": 0.9}], [0, 1, 1]),
        ([{"local.steps": 2}, {"local.steps": 3}, {"local.lr": 0.3}], [0, 1, 0]),
        ([{"data.seed": 0}, {"data.seed": 1}, {"data.partition": {"name": "iid", "clients": 4}}], [0, 1, 2]),
        ([{"algorithm.name": "ditto"}, {"algorithm": {"name": "ditto", "lam": 0.3}}], [0, 0]),
        ([{"model.name": "logistic"}, {"model": {"name": "mlp", "hidden": (3,)}}], [0, 1]),
        ([{"tune.lr": 0.3}, {"tune.lr": 0.4}, {"tune.steps": 3}], [0, 0, 0]),  # fedavg tunes nothing
        ([{"algorithm.name": "fedper", "server.momentum": 0.1}, {"algorithm.name": "fedper"}], [0, 1]),
        ([{"algorithm.name": "fedavg_finetuned", "tune.steps": n} for n in (2, 3)], [0, 1]),
        ([{"cohort.sampling": "uniform", "cohort.size": n} for n in (2, 3)], [0, 1]),
    ],
)
def test_groups_share_what_is_static(space: list[dict[str, Any]], expected: list[int]) -> None:
    """Traced numbers and seeds share a program; a number whose 0 is left out has a program of its own."""
    assert _groups(space) == expected


def test_another_method_leaves_options_behind() -> None:
    """And takes those that `methods` has for it."""
    values = BASE | {"algorithm": {"name": "ditto", "lam": 0.3}, "methods": {"fedprox": {"mu": 0.7}}}
    ditto, prox = sweeps.lay_out(values, {"algorithm.name": ["ditto", "fedprox"]})
    assert ditto.config.algorithm.options == {"lam": 0.3}
    assert prox.config.algorithm.options == {"mu": 0.7}


def test_solvers_follow_local_as_on_the_command_line() -> None:
    """Where the configuration leaves them open."""
    values = BASE | {"tune": {"steps": 5}}
    (point,) = sweeps.lay_out(values, [{"local.lr": 0.7}])
    assert point.config.tune is not None
    assert (point.config.tune.lr, point.config.tune.steps) == (0.7, 5)
    (stated,) = sweeps.lay_out(from_config_dict(values), [{"local.lr": 0.7}])
    assert stated.config.tune is not None
    assert stated.config.tune.lr == 0.1


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5), count=st.integers(1, 7))
def test_shards_have_every_point_once(sizes: list[int], count: int) -> None:
    """In numbers that differ by one at most, and together in at most G + N - 1 groups."""
    config = Config()
    numbered = [(group, n) for group, size in enumerate(sizes) for n in range(size)]
    points = [Point(f"{group}:{n}", str(group), {}, config) for group, n in sorted(numbered, key=lambda gn: gn[1])]
    parts = [sweeps.deal(points, (index, count)) for index in range(count)]
    assert sorted(point.id for part in parts for point in part) == sorted(point.id for point in points)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    assert sum(len({point.group for point in part}) for part in parts) <= len(sizes) + count - 1


# Spaces


def test_draws() -> None:
    """More draws extend the list, another field changes none, seeds are crossed."""
    ranges = {"local.lr": spaces.loguniform(1e-3, 1), "local.batch_size": [5, 10, 20]}
    few, many = spaces.random(8, ranges, seed=1), spaces.random(20, ranges, seed=1)
    assert many[:8] == few
    wider = spaces.random(8, ranges | {"algorithm.lam": spaces.uniform(0, 1)}, seed=1, seeds=range(2))
    assert [{name: setting[name] for name in ranges} for setting in wider[::2]] == few
    assert [setting["run.seed"] for setting in wider] == [0, 1] * 8
    assert spaces.random(8, ranges, seed=2) != few
    assert {type(value) for setting in many for value in setting.values()} == {float, int}
    pairs = spaces.random(400, {name: spaces.uniform(0, 1) for name in ("x", "y")})
    assert abs(np.corrcoef([setting["x"] for setting in pairs], [setting["y"] for setting in pairs])[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("mine", "reference"),
    [
        (spaces.uniform(-1, 3), stats.uniform(-1, 4)),
        (spaces.loguniform(1e-3, 2), stats.loguniform(1e-3, 2)),
        (spaces.integers(2, 5), stats.randint(2, 6)),
    ],
)
def test_ranges_have_the_quantiles_of_scipy(mine: spaces.Range, reference: Any) -> None:
    """And SciPy's own distributions may be given instead."""
    quantiles = np.random.default_rng(0).random(200)
    np.testing.assert_allclose(mine.ppf(quantiles), reference.ppf(quantiles), rtol=1e-12)
    (drawn,), (same,) = spaces.random(1, {"x": mine}), spaces.random(1, {"x": reference})
    assert drawn["x"] == pytest.approx(same["x"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_space(name: str) -> None:
    """Whose points are valid."""
    ranges = spaces.of(name)
    if ranges:
        points = sweeps.lay_out({"algorithm": {"name": name}}, spaces.random(3, ranges))
        assert len({point.group for point in points}) == 1


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "point : "),
        ([], "space is empty"),
        ({"local.lr": []}, "no values"),
        ({"local.lr": spaces.uniform(0, 1)}, "spaces.random"),
        ({"local.lrr": 0.1}, "did you mean 'lr'"),
        ({"lokal.lr": 0.1}, "did you mean 'local'"),
        ({"algorithm.lamm": 0.1, "algorithm.name": "ditto"}, "did you mean 'lam'"),
        ({"algorithm.name": ["fedavg", "dito"]}, "did you mean 'ditto'"),
        ({"local.lr": "fast"}, "point local.lr=fast: .*must be a number"),
        ({"local.lr": math.nan}, "point local.lr=nan"),
        ({"local.lr.more": 1}, "give a number, or say which"),
        ({"model.name.more": 1}, "is a value, not a section"),
        ({"run.store": "host"}, "on the devices"),
        ({"tune.lr": [0.1, 0.2]}, "tune.lr has no effect on fedavg"),
        ([{"run.seed": 0}, 5], "it must be a dictionary"),
    ],
)
def test_bad_spaces(space: Any, message: str) -> None:
    """A sentence with the remedy, before anything is loaded."""
    if space == {}:
        assert len(sweeps.lay_out(BASE, space)) == 1, "the product of no values is the experiment itself"
        return
    with pytest.raises(ValueError, match=message):
        sweeps.sweep(BASE, space)


def test_texts_may_hold_sections() -> None:
    """Dictionaries and tuples with commas of their own; words without quotes."""
    partitions = [{"name": "iid", "clients": 3}, {"name": "shards", "pair": (1, 2)}]
    assert spaces.parse(f"data.partition={partitions[0]},{partitions[1]}") == ("data.partition", partitions)
    assert spaces.parse("local.drop_last=true, false") == ("local.drop_last", [True, False])


@pytest.mark.parametrize("text", ["local.lr", "=3", "local.lr=", "local.lr=loguniform(1)", "local.lr=loguniformm(1,2)"])
def test_bad_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|did you mean"):
        spaces.parse(text)


@pytest.mark.parametrize(
    "make", [lambda: spaces.uniform(1, 1), lambda: spaces.loguniform(0, 1), lambda: spaces.random(0, {})]
)
def test_bad_ranges(make: Any) -> None:
    with pytest.raises(ValueError, match=r"bound|above 0|at least 1"):
        make()


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0)])
def test_bad_shards(shard: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard"):
        sweeps.sweep(BASE, GRID, tmp_path, shard=shard)
    with pytest.raises(ValueError, match="shard"):
        sweeps.sweep(BASE, GRID, shard=(0, 2))


# Outcomes


def test_means_and_intervals(calls: list[Any]) -> None:
    """Student's t over seeds, by SciPy; the choice is made on validation; what diverged is counted, not averaged."""
    swept = sweeps.sweep(BASE, {"local.lr": [0.01, 0.1, 2.0], "run.seed": range(4)})
    assert len(calls) == 1
    worst, best, lost = swept.standings()
    scores = [mean_accuracy(0.1, seed) for seed in range(4)]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(scores), scale=stats.sem(scores))
    assert best.test.mean == pytest.approx(np.mean(scores))
    assert best.test.margin == pytest.approx((high - low) / 2)
    assert best.validation.mean == pytest.approx(np.mean(scores) - 0.05)
    assert (lost.done, lost.diverged, lost.pending, lost.test.count) == (0, 4, 0, 0)
    assert swept.best() == swept.best("best_test") == best
    assert best.setting == {"local.lr": 0.1}
    assert best.config.local.lr == 0.1
    assert worst.test.mean < best.test.mean
    assert swept.table().row_count == 3
    with pytest.raises(ValueError, match="choose 'best_validation'"):
        swept.best("validation")  # pyright: ignore[reportArgumentType]


def test_frames(calls: list[Any]) -> None:
    """One row for each point, or one for each score."""
    swept = sweeps.sweep(BASE, {"local.lr": [0.1, 2.0], "run.seed": range(2), "model.name": "logistic"})
    frame = swept.frame()
    assert list(frame["status"]) == ["done", "done", "diverged", "diverged"]
    assert list(frame["local.lr"]) == [0.1, 0.1, 2.0, 2.0]
    assert list(frame["test"])[1] == pytest.approx(mean_accuracy(0.1, 1))
    scores = swept.frame(clients=True)
    assert len(scores) == 2 * 3 * 2 * CLIENTS
    assert set(scores["id"]) == set(swept.results)
    assert set(scores["local.lr"]) == {0.1}


def test_seeds_of_data_repeat_too(calls: list[Any]) -> None:
    """A partition is not a setting to choose; each compiles once."""
    swept = sweeps.sweep(BASE, {"local.lr": [0.01, 0.1], "run.seed": range(2), "data.seed": range(2)})
    assert len(calls) == 2
    assert [len(standing.ids) for standing in swept.standings()] == [4, 4]


def test_nothing_is_chosen_on_test_examples_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without validation examples there is no best, and the message has the remedy."""

    class Without(StandIn):
        def run(self, points: Sequence[ensemble.Point]) -> Iterator[Any]:
            for place, result in super().run(points):
                assert isinstance(result, Result)
                result.scores["personal", "validation", "accuracy"][:] = np.nan
                yield place, result

    monkeypatch.setattr(ensemble, "Ensemble", Without)
    swept = sweeps.sweep(BASE | {"data": {"partition": BASE["data"]["partition"]}}, GRID)
    with pytest.raises(ValueError, match=r"data\.validation=0\.2"):
        swept.best()
    assert swept.table().row_count == 3
    assert swept.best("best_test").setting == {"local.lr": 0.1}
    with pytest.raises(ValueError, match=r"data\.validation=0\.2"):
        sweeps.sweep({"run": {"select": "best_validation"}}, GRID)


class Own(StandIn):
    """Beside the accuracy, `bits`: the learning rate itself, then twice that. Of 0.5 the first seed is lucky."""

    def run(self, points: Sequence[ensemble.Point]) -> Iterator[Any]:
        for place, result in super().run(points):
            assert isinstance(result, Result)
            scores, lr = result.scores, result.hyper["local.lr"]
            if lr == 0.5:
                scores["personal", "validation", "accuracy"][:] = (0.95, 0.1)[result.seed]
            for split in ("validation", "test"):
                scores["personal", split, "bits"] = np.outer([lr, 2 * lr], np.ones(CLIENTS))
            yield place, dataclasses.replace(result, names=["a", "b", "c"])


def test_sweeps_by_any_metric(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accuracy is highest at 0.1, there are fewest bits at 0.01 and most at 0.5."""
    monkeypatch.setattr(ensemble, "Ensemble", Own)
    swept = sweeps.sweep(BASE, GRID, tmp_path, progress=True)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "sweep  point 6/6  best validation accuracy 85.5 %: local.lr=0.1"
    assert swept.metric == "accuracy"
    chosen = {metric: swept.best(metric=metric).setting["local.lr"] for metric in (None, "-bits", "bits")}
    assert chosen == {None: 0.1, "-bits": 0.01, "bits": 0.5}
    assert swept.best("best_test", metric="-bits").test.mean == 0.02
    with pytest.raises(ValueError, match="did you mean 'bits'"):
        swept.best(metric="-bit")
    assert cli.main(["table", str(tmp_path), "--format=csv", "--metric=-bits"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "0.01,0.020 ± 0.000,0.020 ± 0.000,2/2"
    assert cli.main(["table", str(tmp_path), "--columns=mean"]) == 1
    chosen_round = sweeps.sweep({**BASE, "run": {**BASE["run"], "select": "best_validation"}}, GRID)
    assert [chosen_round.best(metric=metric).validation.mean for metric in ("-bits", "bits")] == [0.01, 1.0]
    asked = sweeps.sweep({**BASE, "run": {**BASE["run"], "metric": "-accuracy"}}, GRID)
    assert (asked.metric, asked.best().setting["local.lr"]) == ("-accuracy", 0.5)
    result = next(iter(asked.results.values()))
    assert (result.metric, result.names) == ("-accuracy", ["a", "b", "c"])


def test_the_best_for_each_value_of_a_field(calls: list[Any]) -> None:
    """In the order of the space, and their runs for a figure; what diverged everywhere is left out."""
    space = {"algorithm.name": ["fedavg", "local_only"], "local.lr": [0.01, 0.1, 2.0], "run.seed": range(2)}
    swept = sweeps.sweep(BASE, space)
    best = swept.best_by("algorithm.name")
    assert {name: standing.setting["local.lr"] for name, standing in best.items()} == {"fedavg": 0.1, "local_only": 0.1}
    assert list(swept.best_by("local.lr")) == [0.01, 0.1]
    runs = swept.runs(best)
    assert [(name, [run.seed for run in each]) for name, each in runs.items()] == [
        ("fedavg", [0, 1]),
        ("local_only", [0, 1]),
    ]
    assert {run.hyper["local.lr"] for run in runs["fedavg"]} == {0.1}
    assert list(swept.runs()) == [
        f"algorithm.name={n}, local.lr={lr}" for n in space["algorithm.name"] for lr in (0.01, 0.1)
    ]
    with pytest.raises(ValueError, match="did you mean 'name'"):
        swept.best_by("algorithm.nam")


def test_sweeps_print_themselves(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns headers and names stay whole; of many settings the first are shown."""
    monkeypatch.setenv("COLUMNS", "80")
    space = {"algorithm.name": ["fedavg_finetuned"], "algorithm.tuned": ["everything"], "tune.lr": [0.1234]}
    text = str(sweeps.sweep(BASE, space | {"local.lr": [0.01, 0.1]}))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for word in ("fedavg_finetuned", "everything", "0.1234", "algorithm.", "validation"):
        assert word in text
    assert "the first 30 of 40 settings; 40 done" in str(sweeps.sweep(BASE, {"local.lr": np.linspace(0.01, 0.4, 40)}))


# The ledger


def _ran(calls: list[list[ensemble.Point]]) -> list[tuple[float, int]]:
    return [(point.hyper["local.lr"], point.seed) for points in calls for point in points]


def test_nothing_is_repeated(calls: list[Any], tmp_path: Path) -> None:
    """What has ended stays, diverged or not; a larger space runs what is new."""
    first = sweeps.sweep(BASE, {"local.lr": [0.1, 2.0]}, tmp_path)
    with pytest.raises(FileExistsError, match="resume it"):
        sweeps.sweep(BASE, {"local.lr": [0.1, 2.0]}, tmp_path)
    assert sweeps.resume(tmp_path).outcomes == first.outcomes
    assert len(calls) == 1
    grown = sweeps.sweep(BASE, {"local.lr": [0.01, 0.1, 2.0]}, tmp_path, resume=True)
    assert _ran(calls)[2:] == [(0.01, 0)]
    assert [point.setting["local.lr"] for point in grown.points] == [0.01, 0.1, 2.0]
    assert sorted(point.id for point in sweeps.load(tmp_path).points) == sorted(point.id for point in grown.points)


def test_a_damaged_ledger_is_put_aside_and_only_what_was_lost_is_run_again(
    calls: list[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One outcome of six has other numbers: status refuses, resume keeps five and repeats it."""
    whole = sweeps.sweep(BASE, GRID, tmp_path)
    changed, ledger = whole.points[2].id, tmp_path / "ledger.sqlite"
    for column, value in (("test", 0.99), ("summary", "{}"), ("arrays", b"PK"), ("status", "diverged")):
        with sqlite3.connect(ledger) as connection:
            connection.execute(f"update outcomes set {column} = ? where id = ?", (value, changed))
        connection.close()
        del calls[:]
        with pytest.raises(
            ValueError, match=rf"{ledger} is damaged \(.*{changed} .*changed.*\): pfljax resume puts it"
        ):
            Ledger(ledger).check()
        assert sweeps.resume(tmp_path).standings() == whole.standings()
        assert f"{ledger} is damaged" in caplog.text
        assert len(_ran(calls)) == 1
        assert (tmp_path / "damaged-ledger.sqlite").exists()
    ledger.write_bytes(ledger.read_bytes()[:1000])
    assert cli.main(["resume", str(tmp_path), "--quiet"]) == 0
    assert sweeps.load(tmp_path).standings() == whole.standings()


def test_a_damaged_configuration_is_that_of_the_command(calls: list[Any], tmp_path: Path) -> None:
    """The ledger knows its points by what they are, so that nothing is run twice."""
    whole = sweeps.sweep(BASE, GRID, tmp_path)
    path = tmp_path / "config.json"
    for content in (b"", b"null", path.read_bytes().replace(b"rounds", b"round:"), None):
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(
            (ValueError, FileNotFoundError), match=r"config\.json .*: .*|; repeat the command .* --resume"
        ):
            sweeps.resume(tmp_path)
        assert cli.main(["resume", str(tmp_path), "--quiet"]) == 1
        assert sweeps.sweep(BASE, GRID, tmp_path, resume=True).outcomes == whole.outcomes
    assert len(calls) == 1
    with pytest.raises(ValueError, match="resume=True without a folder"):
        sweeps.sweep(BASE, GRID, resume=True)


def test_one_process_runs_a_shard(calls: list[Any], tmp_path: Path) -> None:
    """Another shard may run beside it."""
    with files.held(tmp_path, "ledger-0-of-2.sqlite"):
        with pytest.raises(BlockingIOError, match=r"ledger-0-of-2.sqlite is in use by process \d+ on"):
            sweeps.sweep(BASE, GRID, tmp_path, shard=(0, 2), resume=True)
        sweeps.sweep(BASE, GRID, tmp_path, shard=(1, 2))
    sweeps.sweep(BASE, GRID, tmp_path, shard=(0, 2))
    assert sweeps.load(tmp_path).counts["pending"] == 0


def test_a_ledger_of_the_first_version_is_read(calls: list[Any], tmp_path: Path) -> None:
    """Without digests; what is entered from now on has them."""
    whole = sweeps.sweep(BASE, GRID, tmp_path)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        for column in ("content", "digest"):
            connection.execute(f"alter table outcomes drop column {column}")
        connection.execute("pragma user_version = 1")
    connection.close()
    assert sweeps.resume(tmp_path).outcomes == whole.outcomes
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        connection.execute("pragma user_version = 3")
    connection.close()
    with pytest.raises(ValueError, match="is a ledger of version 3, and this program writes 2: move it away"):
        sweeps.load(tmp_path)


def test_folders_are_not_mixed(calls: list[Any], tmp_path: Path) -> None:
    """Another configuration, a run, damage."""
    sweeps.sweep(BASE, GRID, tmp_path)
    with pytest.raises(FileExistsError, match=r"another configuration \(run.rounds is 3 there and 7 here"):
        sweeps.sweep(BASE | {"run": {"rounds": 7}}, GRID, tmp_path, resume=True)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(Config().to_dict()))
    with pytest.raises(FileExistsError, match="not a sweep"):
        sweeps.sweep(BASE, GRID, run, resume=True)
    with pytest.raises(FileNotFoundError, match="no sweep"):
        sweeps.load(tmp_path / "nowhere")
    (tmp_path / "ledger.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match="damaged"):
        sweeps.load(tmp_path)


_KILLED = """
import os, signal, sys
from pathlib import Path
from pfljax.engine import ensemble
from pfljax.experiment import sweeps
from tests.experiment.test_sweeps import BASE, GRID, StandIn

record, left = sweeps.Ledger.record, [2]

def until_killed(*args):
    outcome = record(*args)
    print(outcome.id, flush=True)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome

ensemble.Ensemble, sweeps.Ledger.record = StandIn, until_killed
sweeps.sweep(BASE, GRID, Path(sys.argv[1]))
"""


def test_a_killed_sweep_goes_on(calls: list[Any], tmp_path: Path) -> None:
    """What was reported as done is there, is not run again, and the table is that of a sweep in one go."""
    out = tmp_path / "killed"
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(out)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    reported = killed.stdout.split()
    before = sweeps.load(out)
    assert set(before.outcomes) == set(reported)
    assert before.counts == {"done": 2, "diverged": 0, "failed": 0, "pending": 4}
    resumed = sweeps.resume(out)
    known = {(point.setting["local.lr"], point.setting["run.seed"]) for point in before.points if point.id in reported}
    assert len(_ran(calls)) == 4
    assert not known & set(_ran(calls))
    assert all(resumed.outcomes[id] == outcome for id, outcome in before.outcomes.items())
    whole = sweeps.sweep(BASE, GRID)
    assert resumed.standings() == whole.standings()
    for point in whole.points:
        same(resumed.results[point.id], whole.results[point.id])


def test_an_outcome_is_entered_whole_or_not_at_all(tmp_path: Path) -> None:
    """A process that dies inside the transaction leaves the ledger as it was."""
    (point,) = sweeps.lay_out(BASE, [{}])
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.add([point])
    program = f"""
import os, signal, sqlite3
connection = sqlite3.connect({str(ledger.path)!r})
connection.execute("insert into outcomes (id, status) values ('{point.id}', 'done')")
os.kill(os.getpid(), signal.SIGKILL)
"""
    died = subprocess.run([sys.executable, "-c", program], check=False)
    assert died.returncode == -signal.SIGKILL
    assert ledger.outcomes() == {}
    ledger.record(point, Diverged("too fast"))
    assert Ledger(tmp_path / "ledger.sqlite").outcomes()[point.id].reason == "too fast"


def test_the_first_outcome_stays(tmp_path: Path) -> None:
    """Two processes on one file: whoever comes second changes nothing."""
    (point,) = sweeps.lay_out(BASE, [{}])
    one, two = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    for number, ledger in enumerate((one, two)):
        ledger.add([point])
        ledger.record(point, Diverged(f"number {number}"))
    assert one.outcomes() == two.outcomes()
    assert one.outcomes()[point.id].reason == "number 0"


def test_shards_share_a_folder(calls: list[Any], tmp_path: Path) -> None:
    """Each runs its part once; status and merge see all; another cut runs nothing twice."""
    space = {"local.lr": [0.01, 0.1, 2.0], "local.steps": [2, 3], "run.seed": range(2)}
    part = sweeps.sweep(BASE, space, tmp_path, shard=(0, 2))
    assert part.counts == {"done": 4, "diverged": 2, "failed": 0, "pending": 0}
    assert sweeps.load(tmp_path).counts == {"done": 4, "diverged": 2, "failed": 0, "pending": 6}
    assert len(calls) == 1, "two groups, two shards: one each"
    with pytest.raises(FileExistsError, match="resume it"):
        sweeps.sweep(BASE, space, tmp_path, shard=(0, 2))
    assert sweeps.merge(tmp_path) == []
    sweeps.sweep(BASE, space, tmp_path, shard=(1, 3), resume=True)
    sweeps.sweep(BASE, space, tmp_path, shard=(1, 2), resume=True)
    assert len(_ran(calls)) == len(set(_ran(calls))) * 2 == 12
    assert sweeps.load(tmp_path).counts == {"done": 8, "diverged": 4, "failed": 0, "pending": 0}
    for _ in range(2):
        assert sweeps.merge(tmp_path) == []
    for path in tmp_path.glob("ledger-*"):
        path.unlink()
    merged, whole = sweeps.load(tmp_path), sweeps.sweep(BASE, space)
    assert merged.standings() == whole.standings()
    for point in whole.points:
        if point.id in whole.results:
            same(merged.results[point.id], whole.results[point.id])


def test_merge_reports_what_ended_differently(calls: list[Any], tmp_path: Path) -> None:
    """And keeps the first."""
    swept = sweeps.sweep(BASE, {"local.lr": [0.01, 0.1]}, tmp_path, shard=(0, 1))
    other = Ledger(tmp_path / "ledger-1-of-2.sqlite")
    other.add(swept.points)
    other.record(swept.points[0], swept.results[swept.points[0].id])
    other.record(swept.points[1], Diverged("elsewhere"))
    assert sweeps.merge(tmp_path) == [swept.points[1].id]
    assert sweeps.load(tmp_path).outcomes == swept.outcomes


# Command line


SMALL = [f"--config.{path}={value}" for path, value in {
    "data": {"partition": {"name": "iid", "clients": CLIENTS}, "validation": 0.2}, "model": {"name": "logistic"},
    "local": BASE["local"], "run": BASE["run"],
}.items()]  # fmt: skip


def test_command_line(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep in shards, its status, its best, merged and resumed."""
    arguments = ["sweep", *SMALL, "--over=local.lr=0.01,0.1,2.0", "--over", "run.seed=0:2", f"--out={tmp_path}"]
    assert cli.main([*arguments, "--shard=0/2"]) == 0
    told = capsys.readouterr()
    assert "3/3" in told.err
    assert cli.main(["sweep", "status", str(tmp_path)]) == 0
    assert "3 pending" in capsys.readouterr().out
    assert cli.main(["resume", str(tmp_path), "--quiet"]) == 0
    table = capsys.readouterr().out
    assert "4 done, 2 diverged" in table
    assert "round 1: lr=2.0" in table
    assert len(_ran(calls)) == 6
    assert cli.main(["sweep", "merge", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("4 done, 2 diverged")
    assert cli.main(["sweep", "best", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "--config.local.lr=0.1\n"
    assert cli.main(["sweep", *SMALL, "--random=3", "--over=local.lr=loguniform(0.01,1)", "--over=run.seed=0:2"]) == 0
    assert {seed for _, seed in _ran(calls)[6:]} == {0, 1}
    assert len({lr for lr, _ in _ran(calls)[6:]}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to sweep over"),
        (["--over=local.lr"], "write NAME=VALUE"),
        (["--over=local.lrr=1"], "did you mean 'lr'"),
        (["--over=local.lr=loguniform(0.1,1)"], "spaces.random"),
        (["--over=local.lr=1,2", "--shard=3/2", "--out=nowhere"], "shard 3/2"),
        (["status"], "write pfljax sweep status DIR"),
        (["status", "nowhere"], "nowhere holds no sweep"),
    ],
)
def test_command_line_failures(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line, status 1."""
    assert cli.main(["sweep", *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


# Adapters


def test_optuna(calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches are one call each, values are means over seeds on validation, what diverges has failed."""
    made: list[Any] = []
    asked = ensemble.Ensemble

    def make(*args: Any, **options: Any) -> Any:
        made.append(asked(*args, **options))
        return made[-1]

    monkeypatch.setattr(ensemble, "Ensemble", make)
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    space = {"local.lr": spaces.loguniform(0.01, 5.0), "local.optimizer": ["sgd"], "model": [{"name": "logistic"}]}
    study = sweeps.optimize(BASE, study, space, trials=14, out=tmp_path, batch=6, seeds=range(2))
    assert len(sweeps.load(tmp_path).outcomes) == 28
    assert [len(points) for points in calls] == [12, 12, 4]
    assert len(made) == 1, "all batches are one program"
    for trial in study.trials:
        lr = trial.params["local.lr"]
        if lr > 1:
            assert trial.state.name == "FAIL"
        else:
            expected = (mean_accuracy(lr, 0) + mean_accuracy(lr, 1)) / 2 - 0.05
            assert trial.value == pytest.approx(expected)
    assert {trial.state.name for trial in study.trials} == {"COMPLETE", "FAIL"}
    with pytest.raises(ValueError, match="maximize"):
        sweeps.optimize(BASE, optuna.create_study(), space, trials=1)
    with pytest.raises(ValueError, match="the study maximizes, but loss is to be minimized"):
        sweeps.optimize({**BASE, "run": {"metric": "loss"}}, study, space, trials=1)
    with pytest.raises(ValueError, match=r"data\.validation"):
        sweeps.optimize({}, study, space, trials=1)
    with pytest.raises(ValueError, match="did you mean 'lr'"):
        sweeps.optimize(BASE, study, {"local.lrr": [1.0]}, trials=1)
    assert study.trials[-1].state.name == "FAIL", "no trial is left running"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # submitit, in its debug mode
def test_jobs(calls: list[Any], tmp_path: Path) -> None:
    """One shard each, in this process; submitted again, nothing is left to do."""
    pytest.importorskip("submitit")
    for _ in range(2):
        jobs = sweeps.slurm(BASE, GRID, tmp_path, 3, cluster="debug")
        assert [job.result() for job in jobs] == [{"done": 2, "diverged": 0, "failed": 0, "pending": 0}] * 3
    assert len(_ran(calls)) == 6
    assert sweeps.load(tmp_path).counts["done"] == 6
    with pytest.raises(ValueError, match="6 points"):
        sweeps.slurm(BASE, GRID, tmp_path, 7, cluster="debug")


@pytest.mark.slow
def test_jobs_in_processes(tmp_path: Path) -> None:
    """What a job does survives the way to another process."""
    pytest.importorskip("submitit")
    jobs = sweeps.slurm(BASE, GRID, tmp_path, 2, cluster="local", timeout_min=10)
    assert sum(job.result()["done"] for job in jobs) == 6
    assert sweeps.load(tmp_path).counts["done"] == 6


@pytest.mark.parametrize("package", ["optuna", "submitit"])
def test_missing_packages_have_a_remedy(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    adapters = {
        "optuna": lambda: sweeps.optimize(BASE, None, {}, 1),  # pyright: ignore[reportArgumentType]
        "submitit": lambda: sweeps.slurm(BASE, GRID, tmp_path, 1),
    }
    with pytest.raises(ImportError, match=r"pip install 'pfljax\["):
        adapters[package]()


def test_a_point_that_cannot_run_is_entered_as_failed_and_the_others_go_on(tmp_path: Path) -> None:
    """And is tried again by a resume, as one whose cause has gone may then run."""
    base = {**BASE, "cohort": {"sampling": "uniform", "size": 2}}
    space = {"cohort.size": [50, 2], "run.seed": range(2)}
    swept = sweeps.sweep(base, space, tmp_path / "sweep")
    assert swept.counts == {"done": 2, "diverged": 0, "failed": 2, "pending": 0}
    failed = [point for point in swept.points if swept.outcomes[point.id].status == "failed"]
    assert [point.setting["cohort.size"] for point in failed] == [50, 50]
    assert "a cohort of 50 out of" in str(swept.outcomes[failed[0].id].reason)
    assert sweeps.resume(tmp_path / "sweep").counts == swept.counts
    ledger = Ledger(tmp_path / "sweep" / "ledger.sqlite")
    ledger.record(failed[0], swept.results[next(iter(swept.results))])
    ledger.record(failed[0], ValueError("too late"))
    assert ledger.outcomes()[failed[0].id].status == "done"
    with pytest.raises(ValueError, match="no point could be run: a cohort of 50"):
        sweeps.sweep(base, {"cohort.size": [50]})


def test_a_ledger_keeps_the_evaluations_before_a_divergence(tmp_path: Path) -> None:
    """In a schedule of its own each point diverges when its rate grows too large."""
    rate = {"schedule": "exponential", "from": 1e-3, "decay": 1e14}
    base = {**BASE, "local": {**BASE["local"], "lr": rate}, "run": {"rounds": 6}}
    swept = sweeps.sweep(base, {"run.seed": range(2)}, tmp_path / "sweep")
    assert swept.counts["diverged"] == len(swept.diverged) == 2
    assert not swept.results
    for id, result in swept.diverged.items():
        assert 1 <= len(result.rounds) < 6
        assert result.reason == swept.outcomes[id].reason
