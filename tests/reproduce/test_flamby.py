"""The table of FLamby's heart disease: what is read of a run, whose turns count, what a verdict says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.model_selection import train_test_split

import pfljax as pfl
from pfljax import cli, reproduce
from pfljax.reproduce import claims, flamby
from tests.data.test_heart import write


@pytest.fixture
def folder(tmp_path):
    """Files of the four hospitals."""
    return write(tmp_path)


def published(folder, pooled):
    """`HeartDiseaseRaw` and `FedHeartDisease` of FLamby, without PyTorch: hospital -> (train, test) of (X, y)."""
    features, labels, centers, sets = pd.DataFrame(), pd.DataFrame(), [], []
    for center, name in enumerate(flamby.HOSPITALS):
        df = pd.read_csv(folder / f"processed.{name}.data", header=None)
        df = df.replace("?", np.nan).drop([10, 11, 12], axis=1).dropna(axis=0).apply(pd.to_numeric)
        center_x, center_y = df.iloc[:, :-1], df.iloc[:, -1]
        features = pd.concat((features, center_x), ignore_index=True)
        labels = pd.concat((labels, center_y), ignore_index=True)
        centers += [center] * len(center_x)
        current = center_y.where(center_y == 0, 1)
        levels = np.unique(current)
        stratify = current if len(levels) > 1 and all((current == level).sum() > 2 for level in levels) else None
        _, tests = train_test_split(np.arange(len(center_x)), test_size=1.0 - 0.66, train_size=0.66, random_state=43,
                                    shuffle=True, stratify=stratify)  # fmt: skip
        sets += ["test" if i in tests else "train" for i in range(len(center_x))]
    x = pd.get_dummies(features, columns=[2, 6], drop_first=True).to_numpy(float)
    y = (labels.to_numpy().ravel() != 0).astype(int)
    centers, sets, split = np.array(centers), np.array(sets), {}
    for center, name in enumerate(flamby.HOSPITALS):
        fitted = x[(sets == "train") & ((centers == center) | pooled)]
        scaled = (x - fitted.mean(0)) / (fitted.std(0, ddof=1) + 1e-9)
        split[name] = [
            (scaled[rows], y[rows]) for rows in ((centers == center) & (sets == s) for s in ("train", "test"))
        ]
    return split


def ordered(x, y):
    """Patients with their diagnoses, in an order of their own."""
    rows = np.column_stack([x, y])
    return rows[np.lexsort(np.round(rows, 3).T)]


@pytest.mark.parametrize("pooled", [False, True])
def test_patients_are_those_of_flamby(folder, pooled):
    raw = pfl.federate(pfl.load("heart_disease", path=folder), pfl.natural(), test="mirror")
    data = flamby.scaled(raw, pooled=pooled)
    assert data.names == flamby.HOSPITALS
    for place, (name, parts) in enumerate(published(folder, pooled).items()):
        for split, (x, y) in zip(("train", "test"), parts, strict=True):
            ours, theirs = ordered(*flamby._of(data, split, place)), ordered(x, y)
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=f"{name} {split}")


class Cyclic:
    """Who trains in FLamby's `Cyclic.perform_round`."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.clients, self.current = self.rng.permutation(4), -1

    def perform_round(self):
        self.current += 1
        if self.current == 4:
            self.clients, self.current = self.rng.permutation(4), 0
        return self.clients[self.current]


def test_a_row_is_tested_as_flamby_tests_it(folder):
    """Accuracy by hand of the model that the same run deploys, on each hospital and on all of them."""
    claim = flamby.heart(folder)
    row = claim.rows["Local 1"]
    sections = {**row.config, "local": {**row.config["local"], "epochs": 3}}
    [result] = reproduce.over_seeds(sections, row.data, [42])
    model, local = sections.pop("model"), sections["local"]
    alone = pfl.simulate(row.data, model, "fedavg", rounds=1, seed=42, local=local)
    splits = [flamby._of(row.data, "test", place) for place in range(5)]
    hits = [100 * np.mean(alone.models["hungarian"].predict(x).argmax(1) == y) for x, y in splits]  # pyright: ignore
    np.testing.assert_allclose(row.read(result), [*hits[:4], np.mean(hits[:4]), hits[4]], rtol=1e-6)
    assert row.data.sizes().tolist() == [0, row.data.sizes()[1], 0, 0, 0]
    assert len(splits[4][1]) == sum(len(y) for _, y in splits[:4])
    logits = alone.models["hungarian"].predict(splits[0][0])  # pyright: ignore
    assert not logits[:, 0].any()
    assert logits[:, 1].any()


def test_pooled_training_is_scaled_by_all_and_tested_by_hospitals(folder):
    claim = flamby.heart(folder)
    pooled, usual = claim.rows["Pooled"].data, claim.rows["FedAvg"].data
    x = np.concatenate([flamby._of(pooled, "train", place)[0] for place in range(4)])
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    assert np.abs(flamby._of(pooled, "train", 3)[0].mean(axis=0)).max() > 0.05
    for place in range(5):
        x, other = (flamby._of(data, "test", place)[0] for data in (pooled, usual))
        np.testing.assert_array_equal(x, other)


@pytest.mark.parametrize("seed", range(42, 47))
def test_turns_of_the_first_hospital(seed):
    server = Cyclic(seed)
    turns = sum(server.perform_round() == 0 for _ in range(15))
    scores = {("global", "test", "accuracy"): np.arange(16.0).reshape(4, 4),
              ("unseen_global", "test", "accuracy"): np.arange(4.0)[:, None]}  # fmt: skip
    read = flamby._turned(type("Run", (), {"seed": seed, "scores": scores}))  # pyright: ignore
    assert read[-1] == 100 * (turns - 1)


def test_verdicts_are_those_of_welch():
    ours, mean, spread = np.array([71.0, 73.5, 72.0, 70.5, 72.5]), 69.0, 1.5
    verdict = claims.judge(ours, mean, spread, count=4, tests=10)
    error = ours.var(ddof=1) / 5, spread**2 / 4
    t = (ours.mean() - mean) / np.sqrt(sum(error))
    freedom = sum(error) ** 2 / (error[0] ** 2 / 4 + error[1] ** 2 / 3)
    assert verdict.chance == pytest.approx(2 * stats.t.sf(abs(t), freedom))
    assert verdict.word == "doubtful"
    assert claims.judge(ours, 60.0, spread, count=4, tests=10).word == "differs"
    assert claims.judge(ours, 71.0, spread, count=4, tests=10).word == "agrees"


def test_the_command_writes_both_tables(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(flamby, "_ROUNDS", 2)
    made = flamby.heart

    def short(path):
        claim = made(path)
        return claim._replace(rows={name: claim.rows[name] for name in ("FedAvg", "FedProx")})

    monkeypatch.setitem(reproduce.CLAIMS, "flamby/heart", short)
    command = ["reproduce", "flamby/heart", f"--data={folder}", "--seeds=2", "--methods=local_only,feddf"]
    assert cli.main([*command, f"--out={tmp_path / 'out'}"]) == 0
    said = capsys.readouterr().out
    assert "of 2 rows agree with what was published" in said
    assert "feddf needs examples that everybody sees" in (tmp_path / "out" / "methods.md").read_text()
    assert "| FedAvg | published | 73.08" in (tmp_path / "out" / "published.md").read_text()
    assert cli.main(["reproduce", "flamby/heart", f"--data={tmp_path / 'nowhere'}"]) == 1
    assert "heart_disease is not in" in capsys.readouterr().err
    assert cli.main(["reproduce", "flamby/hart"]) == 1
    assert "did you mean 'flamby/heart'" in capsys.readouterr().err
