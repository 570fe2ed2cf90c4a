"""Methods against the rate of dropouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pfljax import cli, experiment
from pfljax.data import from_clients
from pfljax.experiment.dropouts import under_dropouts

DRAW = np.random.default_rng(0)
CLIENTS = [(DRAW.normal(size=(12, 2)).astype(np.float32), np.arange(12) % 2) for _ in range(4)]
DATA = from_clients(CLIENTS, CLIENTS)
CONFIG = experiment.from_config_dict(
    {"model": {"name": "mlp", "hidden": (3,)}, "run": {"rounds": 3}, "local": {"lr": 0.5}, "cohort": {"dropouts": 0.3}}
)


@pytest.mark.slow
def test_each_rate_is_a_run_at_that_rate() -> None:
    """No dropouts is the plain comparison; when all crash, models stay as they began."""
    endured = under_dropouts(CONFIG, ["fedavg", "ditto"], [0.0, 1.0], seeds=[0, 1], data=DATA)
    plain = experiment.from_config_dict({**CONFIG.to_dict(), "cohort": {}})
    same = experiment.compare_methods(plain, ["fedavg", "ditto"], seeds=[0, 1], data=DATA)
    for name in same:
        for mine, theirs in zip(endured.runs[0.0].runs[name], same.runs[name], strict=True):
            np.testing.assert_array_equal(mine.clients("personal", "test"), theirs.clients("personal", "test"))
    for seed in range(2):
        idle = endured.runs[1.0].runs["fedavg"][seed]
        scores = idle.scores["global", "test", "loss"]
        np.testing.assert_array_equal(scores[-1], scores[0])
    table = endured.table("worst").markdown()
    assert "0% crash" in table
    assert "100% crash" in table
    assert "ditto" in table


def test_one_command(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--config.run.rounds=1", "--config.data.partition.clients=4", "--quiet"]
    assert cli.main(["dropouts", "--methods=fedavg", "--rates=0,0.5", *changes]) == 0
    assert "50% crash" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rates", "message"), [([0.0, 2.0], "from 0 to 1"), ([0.1, 0.1], "each once"), ([], "at least one")]
)
def test_mistakes(rates: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        under_dropouts(CONFIG, ["fedavg"], rates, data=DATA)


def test_what_no_number_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["dropouts", "--methods=fedavg", "--rates=half"]) == 1
    assert "--rates=0,0.5" in capsys.readouterr().err
