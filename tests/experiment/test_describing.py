"""`pfljax data describe`: measures, advice, figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pfljax import cli
from pfljax.data import federate, figures, from_clients, load
from pfljax.data.partition import dirichlet
from pfljax.experiment.describing import described


def test_a_federation_is_described_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--config.data.partition.clients=8", "--config.data.partition.alpha=0.5"]
    path = tmp_path / "partition.png"
    assert cli.main(["data", "describe", *changes, f"--draw={path}", "--epsilon=2"]) == 0
    told = capsys.readouterr().out
    for text in (
        "8 clients",
        "total variation",
        "Gini",
        "epsilon=2",
        "linear probes",
        "start with",
        f"drawn in {path}",
    ):
        assert text in told
    assert path.read_bytes()[1:4] == b"PNG"


def test_what_cannot_be_described_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "describe", "--config.data.test=0.0"]) == 1
    assert "give test=0.25" in capsys.readouterr().err


def test_real_targets_have_sizes_and_inputs() -> None:
    draw, clients = np.random.default_rng(0), []
    for _ in range(4):
        x = draw.normal(size=(20, 2)).astype(np.float32)
        clients.append((x, x[:, 0]))
    told = "\n".join(described(from_clients(clients, clients), epsilon=1.0))
    assert "explained variance" in told
    assert "Gini" in told
    assert "labels:" not in told
    assert "differ little: start with fedavg" in told


def test_areas_of_bubbles_are_numbers_of_examples() -> None:
    data, axes = federate(load("digits"), dirichlet(6, 0.5), validation=0.2, unseen=0.2), plt.figure().add_subplot()
    figures.bubbles(data, axes)
    points: Any = axes.collections[0]
    counts = data.label_counts()
    places = np.asarray(points.get_offsets()).astype(int)
    areas = np.asarray(points.get_sizes())
    np.testing.assert_array_equal(counts[tuple(places.T)] > 0, True)
    assert len(places) == (counts > 0).sum()
    np.testing.assert_allclose(areas / areas.max(), counts[tuple(places.T)] / counts.max(), atol=0.02)
    axes.clear()
    figures.sizes(data, axes)
    bars: Any = axes.patches
    assert sum(bar.get_height() for bar in bars) == 1797
    plt.close("all")


def test_of_real_targets_the_sizes_are_drawn(tmp_path: Path) -> None:
    data = from_clients([([[0.0]] * 3, [0.1] * 3)] * 2)
    assert figures.save(data, tmp_path / "a.svg").read_text().count("<svg") == 1
