"""The models that a run deploys: by name, for unseen clients too, and saved for programs that know JAX alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax import export

from pfljax import algorithms, cli, data, experiment, models, quadratics
from pfljax.engine.runs import simulate
from pfljax.learning import local, plans, tasks
from pfljax.results.result import Result

TASK, DATA = quadratics.problem(w=[0.0, 8.0])
STEP = local.descent(optax.sgd(1.0), plans.full_batch(1, 1))


def test_models_are_what_the_method_deploys():
    """Fine-tuning to the end gives each client its own center; local-only too."""
    for method in (algorithms.fedavg_finetuned(TASK, STEP, tune=STEP), algorithms.local_only(TASK, STEP)):
        found = simulate(TASK, method, DATA, rounds=2).models
        assert found is not None
        assert [float(found[name].params.trainable["w"]) for name in found] == [0.0, 8.0]
        assert float(found[1].params.trainable["w"]) == 8.0


def named(store: Any = "auto", **options: Any) -> Any:
    draw = np.random.default_rng(0)
    clients = [(draw.normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2) for _ in range(4)]
    federation = data.from_clients(clients, clients, unseen=1, names=["north", "south", "east", "west"])
    task = tasks.classification(models.mlp((3,), 2, hidden=(4,)))
    solver = local.descent(optax.sgd(0.1, momentum=0.9), plans.full_batch(2, 6))
    method = algorithms.ditto(task, solver, personal_local=solver, lam=0.1)
    return simulate(task, method, federation, rounds=3, store=store, **options), federation


@pytest.mark.parametrize("store", ["device", "host"])
def test_a_model_predicts_what_its_client_was_scored_by(store: str):
    """Unseen clients too, after their onboarding."""
    result, federation = named(store)
    assert list(result.models) == ["north", "south", "east", "west"]
    for number, name in enumerate(result.models):
        view = federation.client(number, "test")
        rows = slice(int(view.start), int(view.start + view.size))
        x, y = np.asarray(federation.examples.x)[rows], np.asarray(federation.examples.y)[rows]
        accuracy = np.mean(result.models[name].predict(x).argmax(1) == y)
        model, place = ("unseen_personal", 0) if name == "west" else ("personal", number)
        assert accuracy == pytest.approx(result.scores[model, "test", "accuracy"][-1][place], abs=1e-6)


def test_unknown_clients_are_named():
    result, _ = named()
    with pytest.raises(KeyError, match="no client 'nort': did you mean 'north'"):
        result.models["nort"]
    for number in (4, -1):
        with pytest.raises(KeyError, match=f"no client {number}"):
            result.models[number]


PLAIN = """
import json, pathlib, sys
import jax, numpy as np, orbax.checkpoint as ocp
folder = pathlib.Path(sys.argv[1])
predict = jax.export.deserialize(bytearray((folder / "predict.bin").read_bytes()))
params = ocp.StandardCheckpointer().restore(folder / "params")
x = np.arange(15, dtype=np.float32).reshape(5, 3) / 10
assert json.loads((folder / "model.json").read_text()) == {"client": "west", "input": "float32[3]"}
assert "pfljax" not in sys.modules
shapes = jax.tree.map(np.shape, params["trainable"])
print(json.dumps({"outputs": np.asarray(predict.call(x)).tolist(), "leaves": len(jax.tree.leaves(params))}))
"""


def test_a_saved_model_is_used_without_this_package(tmp_path: Path):
    model = named()[0].models["west"]
    model.save(tmp_path / "west")
    told = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "west")], check=True, capture_output=True, text=True
    ).stdout
    x = np.arange(15, dtype=np.float32).reshape(5, 3) / 10
    expected = {"outputs": model.predict(x), "leaves": len(jax.tree.leaves(model.params))}
    found = json.loads(told)
    assert found["leaves"] == expected["leaves"]
    np.testing.assert_allclose(found["outputs"], expected["outputs"], rtol=1e-6)
    with pytest.raises(FileExistsError, match="holds a model already"):
        model.save(tmp_path / "west")


@pytest.mark.parametrize("method", [pytest.param("knn_per", marks=pytest.mark.slow), "fedrod"])
def test_what_is_no_single_model_predicts_and_is_saved(method: str, tmp_path: Path):
    """Scores are those of the method's own predict, of an unseen client too; a saved one is its fields by name."""
    draw = np.random.default_rng(0)
    clients = [(draw.normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2) for _ in range(3)]
    federation = data.from_clients(clients, clients, unseen=1)
    network = models.mlp((3,), 2, hidden=(4,))
    task, solver = tasks.classification(network), local.descent(optax.sgd(0.1), plans.full_batch(2, 6))
    made = {
        "knn_per": lambda: algorithms.knn_per(task, solver, network, capacity=5, neighbours=1, lam=0.9),
        "fedrod": lambda: algorithms.fedrod(task, solver, network),
    }[method]()
    result = simulate(task, made, federation, rounds=2)
    assert result.models is not None
    x, y = clients[2]
    model = result.models["2"]
    accuracy = np.mean(model.predict(x).argmax(1) == y)
    assert accuracy == pytest.approx(result.scores["unseen_personal", "test", "accuracy"][-1][0], abs=1e-6)
    common = task.predict(getattr(model.params, "params", None) or model.params.generic, x)
    assert np.abs(model.predict(x) - common).max() > 1e-3
    model.save(tmp_path / "2")
    read = ocp.StandardCheckpointer().restore(tmp_path / "2" / "params")
    assert set(read) == set(model.params._fields)
    assert len(jax.tree.leaves(read)) == len(jax.tree.leaves(model.params))
    again = export.deserialize(bytearray((tmp_path / "2" / "predict.bin").read_bytes())).call(x[:4])
    np.testing.assert_allclose(again, model.predict(x[:4]), rtol=1e-6)


def test_a_finished_run_gives_its_models_and_its_state_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = experiment.from_config_dict(
        {"data": {"name": "synthetic", "partition": {"name": "natural"}, "unseen": 0.1}, "model": {"name": "logistic"},
         "algorithm": {"name": "ditto"}, "run": {"rounds": 2}}
    )  # fmt: skip
    first = experiment.run(config, tmp_path / "run")
    again = experiment.resume(tmp_path / "run")
    assert isinstance(again, Result)
    assert first.models is not None
    assert again.models is not None
    assert list(again.models) == list(first.models) == list(again.names)
    for client in (0, len(first.models) - 1):
        jax.tree.map(np.testing.assert_array_equal, again.models[client].params, first.models[client].params)
    assert first.state is not None
    jax.tree.map(np.testing.assert_array_equal, again.state, first.state)
    command = ["export", str(tmp_path / "run"), f"--out={tmp_path / 'models'}", "--client=3", "--client=5"]
    assert cli.main(command) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["3", "5"]
    assert cli.main(["export", str(tmp_path / "run"), f"--out={tmp_path / 'more'}", "--client=nobody"]) == 1
    assert "--client='nobody': choose" in capsys.readouterr().err
