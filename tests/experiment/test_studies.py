"""Comparisons over seeds: the runs of a loop, what validation chose, means and intervals, on disk and again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import pfljax as pfl
from pfljax import cli
from tests.zoo import federation

DATA = federation()
MODEL: dict[str, Any] = {"name": "mlp", "hidden": (5,)}
OPTIONS: dict[str, Any] = {"rounds": 3, "eval_every": 3, "local": {"lr": 0.1, "plan": "full_batch", "steps": 2}}
SEEDS, LAMS = (0, 1, 4), [0.01, 3.0]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study") / "out"


@pytest.fixture(scope="module")
def study(out: Path) -> pfl.Comparison:
    tune = {"ditto": {"lam": LAMS}}
    return pfl.compare(DATA, MODEL, ["local_only", "ditto"], seeds=SEEDS, tune=tune, out=out, **OPTIONS)


@pytest.fixture(scope="module")
def loop() -> dict[float, list[pfl.Result]]:
    """Ditto by itself, for each lam with each seed."""
    return {
        lam: [pfl.simulate(DATA, MODEL, {"name": "ditto", "lam": lam}, seed=seed, **OPTIONS) for seed in SEEDS]
        for lam in LAMS
    }


def validated(runs: list[pfl.Result]) -> float:
    return float(np.mean([np.nanmean(run.scores["personal", "validation", "accuracy"][-1]) for run in runs]))


def test_validation_chooses_and_the_runs_are_those_of_a_loop(study: pfl.Comparison, loop: Any):
    best = max(LAMS, key=lambda lam: validated(loop[lam]))
    assert validated(loop[LAMS[0]]) != validated(loop[LAMS[1]]), "nothing to choose: another seed"
    assert study.chosen == {"ditto": {"algorithm.lam": best}}
    assert [run.seed for run in study.runs["ditto"]] == [*SEEDS]
    for run, expected in zip(study.runs["ditto"], loop[best], strict=True):
        for score, rows in expected.scores.items():
            np.testing.assert_allclose(run.scores[score], rows, rtol=1e-5, atol=1e-6, err_msg=str(score))
    assert study["ditto"] is study.runs["ditto"][0]


def test_tables_have_means_and_intervals_over_seeds(study: pfl.Comparison):
    means = [100 * np.nanmean(run.clients()) for run in study.runs["ditto"]]
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    (row,) = [line for line in study.csv(["mean", "better_off"]).splitlines() if line.startswith("ditto")]
    assert row.split(",")[1] == f"{np.mean(means):.1f} ± {(high - low) / 2:.1f}"
    better = []
    for one, other in zip(study.runs["local_only"], study.runs["ditto"], strict=True):
        has = ~np.isnan(one.clients())
        better.append(np.mean(other.clients()[has] > one.clients()[has]))
    assert study.summary()["ditto"]["personal"]["better_off"] == pytest.approx(np.mean(better))
    assert "± 95 % interval over 3 seeds" in str(study)
    assert f"ditto: algorithm.lam={study.chosen['ditto']['algorithm.lam']}, by validation" in str(study)
    clients = np.mean([run.clients() for run in study.runs["ditto"]], axis=0)
    cells = {line.split(",")[0]: line.split(",")[3] for line in study.by_client().csv().splitlines()}
    assert float(cells["4"]) == pytest.approx(100 * clients[4], abs=0.05)
    assert sorted(set(study.frame()["seed"])) == [*SEEDS]


def test_a_folder_has_all_of_it_and_gives_it_again(
    study: pfl.Comparison, out: Path, capsys: pytest.CaptureFixture[str]
):
    """Nothing is run again but the one whose models are asked for."""
    loaded = pfl.Comparison.load(out)
    assert (str(loaded), loaded.chosen) == (str(study), study.chosen)
    points: dict[str, Any] = {"seeds": SEEDS, "tune": {"ditto": {"lam": LAMS}}}
    again = pfl.compare(DATA, MODEL, ["local_only", "ditto"], **points, out=out, resume=True, **OPTIONS)
    assert str(again) == str(study)
    assert cli.main(["table", str(out), "--format=markdown"]) == 0
    assert "by validation" not in capsys.readouterr().out  # captions are for readers of the terminal
    assert study["ditto"].models is not None
    assert study["ditto"].state is not None
    x = DATA.examples.x[:3]
    expected = pfl.simulate(DATA, MODEL, {"name": "ditto", "lam": study.chosen["ditto"]["algorithm.lam"]}, **OPTIONS)
    assert expected.models is not None
    np.testing.assert_allclose(study["ditto"].models[2].predict(x), expected.models[2].predict(x), rtol=1e-5)
    with pytest.raises(ValueError, match="whose rounds stay as they are"):
        pfl.resume(out, rounds=9)
    assert not (out / "ditto" / "clients.npz").exists()
    assert (out / "ditto" / "seed-4" / "clients.npz").exists()


def test_one_seed_that_is_tuned_is_a_study_too():
    tuned = pfl.compare(DATA, MODEL, ["fedavg"], tune={"fedavg": {"local.lr": [0.001, 0.2]}}, **OPTIONS)
    assert tuned.chosen.keys() == {"fedavg"}
    assert len(tuned.runs["fedavg"]) == 1
    assert "interval" not in str(tuned)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": {"dito": {"lam": [1.0]}}}, r"tune takes no 'dito': did you mean 'ditto'\?"),
        ({"tune": {"ditto": {"lma": [1.0]}}}, r"did you mean 'algorithm\.lam'\?|did you mean 'lam'\?"),
        ({"seeds": [0, -1]}, "seeds=-1"),
        ({"seeds": [0, 1], "callbacks": [print]}, "callbacks hear of runs one by one"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        pfl.compare(DATA, MODEL, ["ditto"], **options, **OPTIONS)


def test_without_validation_examples_there_is_nothing_to_choose_by():
    bare = pfl.from_clients([(np.ones((4, 3), np.float32), np.array([0, 1, 0, 1]))] * 2)
    with pytest.raises(ValueError, match=r"no client has any: set validation=0\.15"):
        pfl.compare(bare, "logistic", ["ditto"], tune={"ditto": {"lam": [0.1, 1.0]}}, **OPTIONS)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Seeds and values as `pfljax sweep` has them; what was begun goes on by its folder alone."""
    out = tmp_path / "out"
    fields = ["data.name=digits", "data.validation=0.2", "run.rounds=1", "run.eval_every=1", "local.plan=full_batch"]
    fields += ["data.partition={'name': 'iid', 'clients': 3}", "model={'name': 'logistic'}"]
    command = [
        "compare",
        "--methods=fedavg,fedprox",
        "--seeds=0:2",
        "--tune=fedprox.mu=0.1,1",
        f"--out={out}",
        "--quiet",
    ]
    assert cli.main([*command, *(f"--config.{field}" for field in fields)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"fedprox: algorithm\.mu=\S+, by validation", shown)
    assert (out / "comparison.png").exists()
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines()[:6] == shown.splitlines()[:6]
    assert cli.main(["compare", "--methods=fedavg", "--tune=mu=0.1,1"]) == 1
    assert "write --tune METHOD.NAME=VALUES" in capsys.readouterr().err
