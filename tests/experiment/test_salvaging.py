"""The program that asks who gains by adapting a common model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import salvaging
from pfljax import cli, experiment


def test_every_case_is_what_its_name_says() -> None:
    """Each way to federate with each way to adapt, and nothing else changed."""
    config = cli.read_config(str(salvaging.CONFIG))
    plain, told = config.to_dict(), {}
    for name, changes in salvaging.CASES.items():
        case = experiment.from_config_dict(experiment.overridden(plain, changes))
        defence, kept = case.wrappers, case.to_dict()
        assert {**kept, "algorithm": None, "wrappers": None} == {**plain, "algorithm": None, "wrappers": None}
        how = f"clip {defence.clip}, noise {defence.noise}" if defence.clip else defence.reduce
        told[name] = case.algorithm.name, case.algorithm.options.get("tuned"), how
    methods = {
        "": ("fedavg", None),
        "_finetuned": ("fedavg_finetuned", None),
        "_frozen": ("fedavg_finetuned", "head"),
        "_distilled": ("fedavg_distilled", None),
        "_ewc": ("fedavg_ewc", None),
    }
    assert told == {"local_only": ("local_only", None, None)} | {
        federation + end: (*method, defence)
        for federation, defence in {"fedavg": None, "private": "clip 1.0, noise 0.6", "median": "median"}.items()
        for end, method in methods.items()
    }


def test_gains_are_of_clients_with_few_classes_and_of_the_others() -> None:
    class Told:
        def __init__(self, *scores: float):
            self.scores = np.array(scores)

        def clients(self) -> np.ndarray:
            return self.scores

    comparison: Any = {
        "local_only": Told(0.1, 0.1, 0.1, 0.1),
        "median": Told(0.5, 0.6, 0.7, 0.8),
        "median_ewc": Told(0.9, 0.8, 0.6, 0.8),
    }
    found = salvaging.gains(comparison, np.array([1, 2, 5, 3]))
    assert found.keys() == {"median_ewc"}
    np.testing.assert_allclose(found["median_ewc"], (0.3, -0.05))


@pytest.mark.slow
def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The common model is that of FedAvg; who adapts it by no step of its head has it as it is."""
    some = {name: salvaging.CASES[name] for name in ("local_only", "fedavg", "fedavg_frozen")}
    monkeypatch.setattr(salvaging, "CASES", some)
    salvaging.report(tmp_path, rounds=3)
    assert "fedavg_frozen" in capsys.readouterr().out.split("Mean gain", 1)[1]
    changes = ["--config.run.rounds=3", "--config.algorithm.name=fedavg"]
    fedavg = experiment.run(cli.read_config(str(salvaging.CONFIG), changes))
    stored = np.load(tmp_path / "fedavg_frozen" / "clients.npz")
    np.testing.assert_array_equal(stored["scores/global/test/accuracy"][-1], fedavg.clients())
