"""The program that asks what should be personal."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sharing
from pfljax import cli, experiment


def test_every_case_can_be_prepared_and_keeps_what_it_says() -> None:
    """Numbers that stay with a client, of |w| = (64 * 64 + 64) + (64 * 32 + 32) + (32 * 10 + 10)."""
    config = cli.read_config(str(sharing.CONFIG))
    data = experiment.load_data(config.data)
    kept = {}
    for name, changes in sharing.CASES.items():
        case = experiment.from_config_dict(experiment.overridden(config.to_dict(), changes))
        recipe = experiment.prepare(case, data).recipe

        def shapes(recipe=recipe):
            algorithm, key, id = recipe.make(**recipe.hyper), jax.random.key(0), jnp.asarray(0)
            return algorithm.init_client(algorithm.download(algorithm.init_server(key, 20), id), id, key)

        kept[name] = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(shapes)))
    first, second, top = 64 * 64 + 64, 64 * 32 + 32, 32 * 10 + 10
    assert kept == {
        "local_only": first + second + top,
        "top_0": 0,
        "top_1": top,
        "top_2": top + second,
        "top_3": top + second + first,
        "head_first": top,
        "linear_body": top,
        "lg_fedavg": first + second,
        "vector": 8,
        "bottleneck": (64 * 4 + 4 + 4 * 64 + 64) + (32 * 4 + 4 + 4 * 32 + 32),
        "low_rank": (64 * 4 + 4 + 4 * 64 + 64) + (64 * 4 + 4 + 4 * 32 + 32),
    }


def test_the_secret_of_an_image_is_written_on_it() -> None:
    x, y = sharing.inverted()
    told = sharing.secret(x)
    assert 0.4 < told.mean() < 0.6
    plain, _ = sharing.inverted(share=0.0)
    np.testing.assert_array_equal(np.where(told[:, None, None, None] == 1, 255 - x, x), plain)
    assert len(y) == len(x)


@pytest.mark.slow
def test_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without personal layers it is FedAvg; the adversary reads the secret only where nobody misleads it."""
    monkeypatch.setattr(sharing, "CASES", {name: sharing.CASES[name] for name in ("local_only", "top_0")})
    sharing.report(tmp_path, rounds=15)
    told = capsys.readouterr().out
    lines = [line.split("│") for line in told.split("secret", 1)[1].splitlines() if "│" in line]
    plain, misled = (float(line[3]) for line in lines)
    assert plain > 95
    assert misled < 80
    config = cli.read_config(str(sharing.CONFIG), ["--config.run.rounds=15", "--config.algorithm.name=fedavg"])
    fedavg = experiment.run(config).clients()
    np.testing.assert_array_equal(
        np.load(tmp_path / "top_0" / "clients.npz")["scores/personal/test/accuracy"][-1], fedavg
    )
