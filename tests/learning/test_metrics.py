"""Metrics against scikit-learn, closed forms and loops: unequal clients, absent classes, padding, several labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as sk

import pfljax as pfl
from pfljax import algorithms, cli
from pfljax.data import FederatedData, from_clients
from pfljax.engine.runs import simulate
from pfljax.experiment.config import from_config_dict
from pfljax.learning import local, metrics, plans, tasks
from pfljax.types import Metric, Model, Params, Task

pytestmark = pytest.mark.usefixtures("strict")
SIZES = (150, 64, 1, 7, 0, 90)
"""More than two batches, a whole one, a single example, few, none."""
IGNORED = 255


def echo() -> Model:
    """A model whose outputs are its inputs."""

    def same(params: Params, x: Any, **_: Any) -> tuple[Any, Any]:
        return x, params.stats

    return Model(lambda key: Params({}), None, same)


def said(task: Task, data: FederatedData) -> dict[str, np.ndarray]:
    """What the task's metrics say of each client, [N]."""

    def one(id: jax.Array) -> dict[str, jax.Array]:
        return metrics.measure(task.metrics, {"own": lambda x: task.predict(Params({}), x)}, data.client(id))["own"]

    return {name: np.asarray(score) for name, score in jax.jit(jax.vmap(one))(jnp.arange(data.num_clients)).items()}


def labelled(classes: int, places: tuple[int, ...] = ()) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of each client: the last one has a single class, others lack some; every row is there twice."""
    draw = np.random.default_rng(classes)

    def client(number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        held = [classes - 1] if number == len(SIZES) - 1 else range(max(1, classes - number % 3))
        y = draw.choice(held, (size, *places))
        x = draw.normal(size=(size, *places, classes)) + np.eye(classes)[y]
        x[size // 2 :] = x[: size - size // 2]
        return x.astype(np.float32), y

    return [client(*each) for each in enumerate(SIZES)]


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def one_vs_rest(x: np.ndarray, y: np.ndarray) -> float:
    """The mean over classes that some but not all labels have of scikit-learn's area."""
    held = [c for c in range(x.shape[1]) if 0 < (y == c).sum() < len(y)]
    return float(np.mean([sk.roc_auc_score(y == c, softmax(x)[:, c]) for c in held])) if held else np.nan


def calibration_error(x: np.ndarray, y: np.ndarray) -> float:
    """Guo et al. (2017), equation 3: `sum_m |B_m| / n |acc(B_m) - conf(B_m)|` over 15 bins of equal width."""
    confidence, right, error = softmax(x).max(1), x.argmax(1) == y, 0.0
    for m in range(15):
        within = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if within.any():
            error += within.mean() * abs(right[within].mean() - confidence[within].mean())
    return error


def expected(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """All metrics of single labels by other means, float64."""
    if not len(y):
        return dict.fromkeys(metrics.CLASSIFICATION, np.nan)
    x, chosen = x.astype(float), x.argmax(1)
    loss = -np.log(softmax(x)[np.arange(len(y)), y]).mean()
    return {
        "accuracy": sk.accuracy_score(y, chosen),
        "loss": loss,
        "balanced_accuracy": np.mean([np.mean(chosen[y == c] == c) for c in np.unique(y)]),
        "macro_f1": sk.f1_score(y, chosen, average="macro"),
        "auc": one_vs_rest(x, y),
        "ece": calibration_error(x, y),
        "perplexity": np.exp(loss),
    }


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classification(classes: int) -> None:
    clients = labelled(classes)
    task = tasks.classification(echo(), metrics=tuple(metrics.CLASSIFICATION))
    found = said(task, from_clients(clients, num_classes=classes))
    assert list(found) == list(metrics.CLASSIFICATION)
    for number, (x, y) in enumerate(clients):
        for name, score in expected(x, y).items():
            np.testing.assert_allclose(found[name][number], score, rtol=2e-5, atol=1e-6, err_msg=f"{name}, {number}")
    x, y = clients[0]
    np.testing.assert_allclose(found["balanced_accuracy"][0], sk.balanced_accuracy_score(y, x.argmax(1)), rtol=1e-6)
    if classes > 2:
        whole = sk.roc_auc_score(y, softmax(x.astype(float)), multi_class="ovr")
    else:
        whole = sk.roc_auc_score(y, x[:, 1] - x[:, 0])
    np.testing.assert_allclose(found["auc"][0], whole, rtol=1e-6)
    assert np.isnan(found["auc"]).tolist() == [len(np.unique(y)) < 2 for _, y in clients]


def test_the_area_under_the_curve_counts_ties_half_and_sees_beyond_the_rounding_of_probabilities() -> None:
    """Margins of 30, 40, 50 are the same probability in float32. By hand: 1 of 4 pairs is won, 2 are tied."""
    margins, y = np.array([30.0, 40.0, 30.0, 40.0]), np.array([0, 0, 1, 1])
    x = np.stack([np.zeros(4), margins], axis=1).astype(np.float32)
    task = tasks.classification(echo(), metrics=("auc",))
    coarse = np.random.default_rng(0).integers(0, 4, (80, 2)).astype(np.float32)
    halves = np.arange(80) % 2
    found = said(task, from_clients([(x, y), (x, 1 - y), (coarse, halves), (x[[0, 1, 3]], np.array([0, 0, 1]))]))
    np.testing.assert_allclose(found["auc"][:2], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(found["auc"][2], sk.roc_auc_score(halves, coarse[:, 1] - coarse[:, 0]), rtol=1e-6)
    np.testing.assert_allclose(found["auc"][3], 0.75, rtol=1e-6)


def test_the_perplexity_of_not_knowing_is_the_number_of_classes() -> None:
    found = said(tasks.classification(echo(), metrics=("perplexity",)), from_clients([(np.ones((3, 7)), np.arange(3))]))
    np.testing.assert_allclose(found["perplexity"], 7, rtol=1e-6)


@pytest.mark.parametrize("ignore", [None, IGNORED])
def test_each_label_of_a_sequence_counts_unless_it_is_ignored(ignore: int | None) -> None:
    """Accuracy and loss are means over examples of means over places, the others means over places."""
    clients = labelled(3, (4,))
    if ignore is not None:
        for _, y in clients:
            y[:, 2:][np.random.default_rng(1).random(y[:, 2:].shape) < 0.6] = ignore
    task = tasks.classification(echo(), ignore=ignore, metrics=tuple(metrics.CLASSIFICATION))
    found = said(task, from_clients(clients, num_classes=3, ignore=ignore))
    for number, (x, y) in enumerate(clients):
        scores = expected(x[y != ignore], y[y != ignore])
        examples = [expected(x[i][y[i] != ignore], y[i][y[i] != ignore]) for i in range(len(y))]
        for name in ("accuracy", "loss"):
            scores[name] = np.mean([example[name] for example in examples]) if examples else np.nan
        for name, score in scores.items():
            np.testing.assert_allclose(found[name][number], score, rtol=2e-5, atol=1e-6, err_msg=f"{name}, {number}")


@pytest.mark.parametrize("targets", [(), (1,), (3,)])
def test_regression(targets: tuple[int, ...]) -> None:
    """Far from 0, where a sum of squares less a square of sums would keep no digit of the variance."""
    draw = np.random.default_rng(0)
    clients = []
    for size in SIZES:
        y = (1e4 + draw.normal(size=(size, *targets))).astype(np.float32)
        clients.append(((y + draw.normal(size=y.shape)).astype(np.float32), y))
    found = said(tasks.regression(echo(), metrics=tuple(metrics.REGRESSION)), from_clients(clients))
    assert list(found) == list(metrics.REGRESSION)
    for number, client in enumerate(clients):
        x, y = (each.astype(float) for each in client)
        wanted = dict.fromkeys(metrics.REGRESSION, np.nan)
        if len(y):
            squares = ((x - y) ** 2).reshape(len(y), -1).sum(1).mean()
            wanted |= {"mae": sk.mean_absolute_error(y, x), "rmse": sk.root_mean_squared_error(y, x)}
            wanted |= {"squared_error": squares, "loss": squares / 2}
        if len(y) > 1:
            wanted["r2"] = sk.r2_score(y, x)
        for name, score in wanted.items():
            np.testing.assert_allclose(found[name][number], score, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {number}")
    assert np.isnan(found["r2"]).tolist() == [False, False, True, False, True, False]


def test_nothing_explains_targets_that_do_not_vary() -> None:
    """The mean of so many times 300.1 is often another number in float32; that is no variance."""
    clients = [(y + 1, y) for y in (np.full(size, 300.1, np.float32) for size in range(2, 40))]
    assert np.isnan(said(tasks.regression(echo(), metrics=("r2",)), from_clients(clients))["r2"]).all()


@pytest.mark.parametrize("name", [*metrics.CLASSIFICATION, *metrics.REGRESSION])
def test_masked_rows_count_for_nothing(name: str) -> None:
    draw = np.random.default_rng(0)
    if name in metrics.CLASSIFICATION:
        metric, outputs, y = metrics.CLASSIFICATION[name], draw.normal(size=(9, 3)), draw.integers(0, 3, 9)
    else:
        metric, outputs, y = metrics.REGRESSION[name], draw.normal(size=9), draw.normal(size=9)
    mask = np.arange(9) % 3 > 0
    garbled, wrong = np.where(mask.reshape(-1, *[1] * (outputs.ndim - 1)), outputs, 1e9), np.where(mask, y, IGNORED)

    def score(*batch: Any) -> float:
        return float(metric.finish(metric.sum(*map(jnp.asarray, batch))))

    clean = score(outputs[mask], y[mask], np.ones(mask.sum()))
    np.testing.assert_allclose(score(garbled, wrong, mask.astype(float)), clean, rtol=1e-6)


def top2(outputs: jax.Array, y: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    near = jnp.argsort(outputs, axis=-1)[:, -2:] == y[:, None]
    return {"hits": jnp.sum(mask, where=near.any(axis=-1)), "of": jnp.sum(mask)}


TOP2 = Metric("top2_accuracy", top2, lambda sums: sums["hits"] / sums["of"])


@pytest.mark.parametrize("executor", ["vmap", 2, "sequential"])
def test_a_run_with_metrics_by_name_and_of_ones_own(executor: Any) -> None:
    """However many clients are measured at once, unseen ones too; the frame has them all."""
    clients = labelled(3)
    data = from_clients(clients, clients, unseen=1, num_classes=3)
    task = tasks.classification(echo(), metrics=("auc", TOP2))
    nothing = algorithms.local_only(task, local.descent(optax.sgd(0.1), plans.full_batch(1, 4)))
    result = simulate(task, nothing, data, rounds=1, executor=executor)
    assert result.measured == ["auc", "top2_accuracy", "loss"]
    assert result.metric == "loss"
    held = [client for client in clients if len(client[1])]
    hits = [np.mean([c in row.argsort()[-2:] for row, c in zip(*client, strict=True)]) for client in held]
    found = np.append(*(result.clients(model, metric="top2_accuracy") for model in ("personal", "unseen_personal")))
    np.testing.assert_allclose(found[~np.isnan(found)], hits, rtol=1e-6)
    np.testing.assert_allclose(result.clients(metric="auc")[0], one_vs_rest(*clients[0]), rtol=1e-6)
    summary = result.summary(metric="auc")["personal"]
    assert (summary["clients"], summary["mean"]) == (3, pytest.approx(np.nanmean(result.clients(metric="auc"))))
    frame = result.frame(metric="auc")
    assert set(frame["metric"]) == {"auc"}
    assert len(frame) == 6


def test_the_recipe_of_a_metric() -> None:
    """CONTRIBUTING.md is true; 3 of 5 labels that count are among the two likeliest."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    program = re.search(r"<!-- run: metric -->\n```python\n(.*?)```", text, re.DOTALL)
    assert program
    names: dict[str, Any] = {}
    exec(program[1], names)
    assert [metric.name for metric in names["task"].metrics] == ["accuracy", "top2_accuracy", "loss"]
    logits, y = jnp.tile(jnp.arange(4.0), (6, 1)), jnp.array([3, 2, 3, 1, 0, 3])
    mask = jnp.array([1.0, 1, 1, 1, 1, 0])
    top2 = names["top2"]
    np.testing.assert_allclose(top2.finish(top2.sum(logits, y, mask)), 3 / 5, rtol=1e-6)


def test_metrics_that_cannot_be_meant() -> None:
    model = echo()
    for asked, message in (
        (("acuracy",), "metrics='acuracy': did you mean 'accuracy'"),
        (("rmse",), "metrics='rmse': choose 'accuracy', 'loss'"),
        (("auc", TOP2._replace(name="auc")), "metrics has 'auc' twice: give each a name of its own"),
        ((TOP2._replace(name="-bits"),), "named '-bits': name it 'bits', and compare by metric='-bits'"),
        ("auc", "metrics='auc': it must be a list"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.classification(model, metrics=asked)
    assert [metric.name for metric in tasks.regression(model, metrics=("r2",)).metrics] == ["r2", "loss"]
    for run, message in (
        ({"metrics": ("acuracy",)}, "run.metrics='acuracy': did you mean 'accuracy'"),
        ({"metrics": ("auc",), "metric": "ece"}, "metric='ece': choose 'auc', 'loss'"),
    ):
        with pytest.raises(ValueError, match=message):
            from_config_dict({"run": run})


@pytest.mark.slow
def test_metrics_of_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line into the folder and its table; in a sweep the best is chosen by any of them."""
    shape = ["--config.run.rounds=1", "--config.local.lr=0.1", "--config.run.metrics=accuracy,auc,ece"]
    assert cli.main(["run", *shape, "--quiet", f"--out={tmp_path / 'run'}"]) == 0
    result = pfl.Result.load(tmp_path / "run")
    assert result.measured == ["accuracy", "auc", "ece", "loss"]
    capsys.readouterr()
    assert cli.main(["table", str(tmp_path / "run"), "--metric=auc"]) == 0
    assert "Test auc" in capsys.readouterr().out
    base = {"data": {"validation": 0.2}, "run": {"rounds": 1, "metrics": ("auc", "macro_f1"), "metric": "auc"}}
    swept = pfl.sweep(base, {"local.lr": [0.0, 0.3]}, tmp_path / "swept")
    assert swept.best().setting == {"local.lr": 0.3}
    assert swept.metric == "auc"
    assert swept.best(metric="macro_f1").setting == {"local.lr": 0.3}
