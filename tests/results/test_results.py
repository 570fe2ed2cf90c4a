"""Results: what is selected, summarised, tabulated, written and read back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import pfljax as pfl
from pfljax import cli
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result

ACCURACY = np.array([[0.1, 0.2, 0.6], [0.9, 0.5, 0.4], [0.7, 0.5, np.nan]])


def result(**changes: Any) -> Result:
    """Three clients and one unseen, three evaluations."""
    scores = {
        "personal/test/accuracy": ACCURACY,
        "personal/test/loss": 1 - ACCURACY,
        "personal/validation/accuracy": np.array([[0.9, 0.9, 0.9], [0.2, 0.1, 0.3], [0.5, 0.5, 0.5]]),
        "global/test/accuracy": np.full((3, 3), 0.5),
        "unseen_personal/test/accuracy": np.array([[0.2], [0.4], [0.3]]),
    }
    values: dict[str, Any] = {
        "method": "ditto",
        "hyper": {"lam": 0.5},
        "seed": 3,
        "rounds": np.array([2, 4, 5]),
        "scores": scores,
        "sizes": {
            "train": np.array([9, 6, 3, 5]),
            "validation": np.array([1, 1, 1, 0]),
            "test": np.array([1, 3, 0, 4]),
        },
        "log": {"ids": np.arange(10).reshape(5, 2), "server_finite": np.ones(5, bool)},
        "seconds": 2.0,
        "compile_seconds": 1.0,
        "client_steps": 100,
        "bytes_up": 1_500_000,
        "bytes_down": 500_000,
        "fingerprint": "abc",
        "config": {"run": {"rounds": 5}},
    }
    return Result(**(values | changes))


def test_summary() -> None:
    """The last evaluation, each number worked out by hand; no NaN reaches the JSON."""
    summary = result().summary()
    assert summary["round"] == summary["rounds"] == 5
    assert summary["client_steps_per_second"] == 50
    personal = summary["personal"]
    assert personal["clients"] == 2
    assert personal["mean"] == pytest.approx(0.6)
    assert personal["weighted_mean"] == pytest.approx((0.7 + 3 * 0.5) / 4)
    assert personal["worst"] == pytest.approx(0.5)
    assert personal["loss"] == pytest.approx(0.4)
    assert personal["better_than_global"] == 0.5
    assert summary["global"]["mean"] == 0.5
    assert summary["unseen_personal"]["weighted_mean"] == pytest.approx(0.3)
    assert summary["unseen_global"] is None
    json.dumps(summary, allow_nan=False)


def test_reference() -> None:
    """The share of clients that are better off than in another run on the same data."""
    alone = result(scores={"personal/test/accuracy": np.full((3, 3), 0.6)}, method="local_only")
    assert not any(score.is_unseen for score in alone.scores)
    reference = result(scores=result().scores | alone.scores)
    summary = result().summary(reference)
    assert summary["personal"]["better_off"] == 0.5
    assert summary["personal"]["tied"] == 0
    with pytest.raises(ValueError, match="same data"):
        result().summary(result(fingerprint="other"))


@pytest.mark.parametrize(("select", "at"), [("last", 2), ("best_validation", 0), ("best_test", 1)])
def test_selection(select: Any, at: int) -> None:
    """Means over clients with a score: test 0.3, 0.6, 0.6 (the first wins a tie), validation 0.9, 0.2, 0.5."""
    assert result().evaluation(select) == at


def test_losses_are_selected_downwards() -> None:
    """Without accuracies the lowest loss is best."""
    regression = result(scores={"personal/test/loss": np.array([[3.0], [1.0], [2.0]])})
    assert regression.metric == "loss"
    assert regression.evaluation("best_test") == 1


def test_selection_without_validation() -> None:
    """Says what is missing."""
    empty = result(scores=result().scores | {"personal/validation/accuracy": np.full((3, 3), np.nan)})
    with pytest.raises(ValueError, match="no client has validation examples"):
        empty.evaluation("best_validation")
    with pytest.raises(ValueError, match="choose 'last'"):
        empty.evaluation("first")  # pyright: ignore[reportArgumentType]


def test_frame() -> None:
    """One row for each score, unseen clients numbered last."""
    frame = result().frame()
    assert list(frame) == ["method", "seed", "round", "client", "name", "model", "split", "metric", "value"]
    assert len(frame) == sum(scores.size for scores in result().scores.values())
    row = frame.query("round == 4 and client == 1 and model == 'personal' and split == 'test' and metric == 'accuracy'")
    assert row["value"].item() == 0.5
    assert set(frame.query("model == 'unseen_personal'")["client"]) == {3}


def test_round_trip(tmp_path: Path) -> None:
    """What is written is read back, with names on the axes."""
    result().save(tmp_path / "run")
    read = Result.load(tmp_path / "run")
    for name in (
        "method",
        "hyper",
        "seed",
        "seconds",
        "bytes_up",
        "bytes_down",
        "client_steps",
        "fingerprint",
        "config",
    ):
        assert getattr(read, name) == getattr(result(), name)
    for name, scores in result().scores.items():
        np.testing.assert_array_equal(read.scores[name], scores)
    np.testing.assert_array_equal(read.log["ids"], result().log["ids"])
    assert read.summary() == result().summary()
    axes = json.loads(str(np.load(tmp_path / "run" / "clients.npz")["axes"]))
    assert axes["scores/personal/test/accuracy"] == ["evaluation", "client"]
    assert axes["log/server_finite"] == ["round"]


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    """Unless that is asked for."""
    result().save(tmp_path)
    with pytest.raises(FileExistsError, match="another run"):
        result().save(tmp_path)
    result(seed=4).save(tmp_path, replace=True)
    assert Result.load(tmp_path).seed == 4


def test_damaged_results(tmp_path: Path) -> None:
    """One clear sentence."""
    with pytest.raises(FileNotFoundError, match="holds no result"):
        Result.load(tmp_path)
    result().save(tmp_path)
    (tmp_path / "clients.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ValueError, match="damaged"):
        Result.load(tmp_path)


def test_comparison(tmp_path: Path) -> None:
    """A table with a row for each method, in order; saved and read back."""
    other = result(scores=result().scores | {"personal/test/accuracy": np.full((3, 3), 0.6)})
    comparison = Comparison({"local_only": other, "ditto": result()})
    console = Console(width=120, record=True)
    console.print(comparison.table())
    rows = {line.split()[0]: line.split()[1:] for line in console.export_text().splitlines() if line.split()}
    assert rows["ditto"] == ["60.0", "10.0", "50.0", "50.0", "50%", "2.0", "3.0"]
    assert rows["local_only"][4] == "-"
    comparison.save(tmp_path / "both")
    assert list(Comparison.load(tmp_path / "both")) == ["local_only", "ditto"]
    assert len(comparison.frame()) == 2 * len(result().frame())
    assert set(comparison.frame()["method"]) == {"local_only", "ditto"}


def test_comparison_needs_one_federation() -> None:
    """Numbers on different data are not put into one table."""
    with pytest.raises(ValueError, match="different data"):
        Comparison({"a": result(), "b": result(fingerprint="other")})
    with pytest.raises(ValueError, match="no results"):
        Comparison({})


OWN = {
    "personal/validation/f1": np.array([[0.5, 0.7], [0.6, 0.9], [0.2, 0.2]]),
    "personal/validation/bits": np.array([[4.0, 4.0], [3.0, 5.0], [1.0, 1.0]]),
    "personal/test/f1": np.array([[0.1, 0.3], [0.4, 0.8], [0.9, 0.7]]),
    "personal/test/bits": np.array([[3.0, 1.0], [2.0, 2.0], [8.0, 0.0]]),
    "global/test/f1": np.array([[0.1, 0.3], [0.4, 0.8], [0.8, 0.8]]),
    "global/test/bits": np.array([[3.0, 1.0], [2.0, 2.0], [9.0, 1.0]]),
}
TWO = {"train": np.array([4, 2]), "validation": np.array([1, 1]), "test": np.array([3, 1])}


def own(**changes: Any) -> Result:
    """Two clients, three evaluations, two scores of one's own: more `f1` is better, fewer `bits`."""
    return result(scores=OWN, sizes=TWO, **changes)


def test_a_metric_of_ones_own() -> None:
    """The first score is what is compared; `-` before a name turns it round. All by hand from the arrays above."""
    assert own().measured == ["f1", "bits"]
    assert own().metric == own().summary()["metric"] == "f1"
    personal = own().summary()["personal"]
    assert (personal["mean"], personal["worst"], personal["weighted_mean"]) == pytest.approx((0.8, 0.7, 0.85))
    assert personal["better_than_global"] == 0.5
    assert own().evaluation("best_validation") == 1
    assert own().evaluation("best_validation", metric="-bits") == 2
    assert own().evaluation("best_test", metric="bits") == 2
    assert own().evaluation("best_test", metric="-bits") == 0
    assert own().curve(metric="-bits").tolist() == [2, 2, 4]
    assert own().clients(select="best_test", metric="-bits").tolist() == [3, 1]
    turned = own().summary(own(method="local_only", metric="bits"), metric="-bits")
    assert (turned["metric"], turned["personal"]["worst"], turned["personal"]["best"]) == ("-bits", 8, 0)
    assert (turned["personal"]["better_than_global"], turned["personal"]["tied"]) == (1, 1)
    assert "jain" not in turned["personal"]
    assert set(own().frame(metric="bits")["metric"]) == {"bits"}
    for call in (own().curve, own().clients, own().summary, own().frame):
        with pytest.raises(ValueError, match="metric='bit': did you mean 'bits'"):
            call(metric="bit")
    with pytest.raises(ValueError, match="metric='bit': did you mean 'bits'"):
        own().evaluation("best_test", metric="bit")
    with pytest.raises(ValueError, match="choose 'f1', 'bits'"):
        own(metric="recall")


def test_metric_and_names_come_back(tmp_path: Path) -> None:
    """With the sign that says which way is better; names are text, and files without them number the clients."""
    own(metric="-bits", names=["Nord", "Süd, 2"]).save(tmp_path / "run")
    read = Result.load(tmp_path / "run")
    assert (read.metric, read.lower_is_better, read.names) == ("-bits", True, ["Nord", "Süd, 2"])
    with np.load(tmp_path / "run" / "clients.npz", allow_pickle=False) as file:
        assert json.loads(str(file["axes"]))["names"] == ["client"]
        rest = {name: file[name] for name in file.files if name != "names"}
    stream = io.BytesIO()
    np.savez(stream, **rest)  # pyright: ignore[reportArgumentType]
    assert Result.restored(own().summary(), {}, stream.getvalue()).names == ["0", "1"]
    assert own(metric="-f1").configured({"run": {"metric": "+bits"}}).metric == "bits"
    assert own(metric="-f1").configured({"run": {"metric": None}}).metric == "-f1"
    with pytest.raises(ValueError, match="3 names of 2 clients"):
        own(names=["a", "b", "c"])


def test_frames_name_clients_and_leave_out_what_nobody_has() -> None:
    """No validation examples, no rows; unseen clients have the last names."""
    sizes = result().sizes | {"validation": np.zeros(4, int)}
    frame = result(sizes=sizes, names=list("abcz")).frame()
    assert set(frame["split"]) == {"test"}
    assert set(frame.query("model == 'unseen_personal'")["name"]) == {"z"}
    assert frame.query("client == 1")["name"].unique().tolist() == ["b"]
    nothing = result(sizes={split: np.zeros(4, int) for split in sizes}).frame()
    assert nothing.empty
    assert list(nothing) == list(frame)


def test_comparisons_by_any_metric() -> None:
    """Classification beside regression is compared by what both measured; what is missing is a dash."""
    classified = result(method="classified")
    error = {"personal/test/loss": np.full((3, 3), 0.25), "personal/test/squared_error": np.full((3, 3), 0.5)}
    both = Comparison({"classified": classified, "regressed": result(scores=error)})
    assert both.metric == "loss"
    assert both.csv(["mean"]) == "method,mean\nclassified,0.400\nregressed,0.250\n"
    assert both.csv(["mean"], metric="accuracy") == "method,mean\nclassified,60.0\nregressed,-\n"
    assert both.summary(metric="accuracy")["regressed"]["metric"] == "loss"
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        both.table(metric="acuracy")
    with pytest.raises(ValueError, match="did you mean 'worst'"):
        both.table(["worts"])
    apart = Comparison({"a": own(), "b": result(scores={"personal/test/loss": np.ones((3, 3))})})
    assert apart.csv(["mean"]) == "method,mean\na,0.800\nb,-\n"


def paper() -> Comparison:
    alone = {"personal/test/accuracy": np.full((3, 3), 0.5)}
    runs = {
        "local_only": result(scores=result().scores | alone),
        "fedavg_finetuned": result(names=["North", "South", "a|b", "z"]),
    }
    return Comparison(runs)


def test_tables_for_papers() -> None:
    """Names are escaped, the best of a column is bold, columns are chosen."""
    columns = ["mean", "worst", "better_off", "sent"]
    assert paper().latex(columns) == (
        "% Test accuracy, %, over 3 clients; needs \\usepackage{booktabs}\n"
        "\\begin{tabular}{lrrrr}\n\\toprule\n"
        "method & mean & worst & $>$alone & MB sent \\\\\n\\midrule\n"
        "local\\_only & 50.0 & \\textbf{50.0} & - & 2.0 \\\\\n"
        "fedavg\\_finetuned & \\textbf{60.0} & \\textbf{50.0} & \\textbf{50\\%} & 2.0 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )
    assert paper().markdown(columns) == (
        "| method | mean | worst | >alone | MB sent |\n|---|---:|---:|---:|---:|\n"
        "| local_only | 50.0 | **50.0** | - | 2.0 |\n"
        "| fedavg_finetuned | **60.0** | **50.0** | **50%** | 2.0 |\n"
    )
    assert paper().csv() == (
        "method,mean,std,worst,worst 10%,>alone,MB sent,seconds\n"
        "local_only,50.0,0.0,50.0,50.0,-,2.0,3.0\nfedavg_finetuned,60.0,10.0,50.0,50.0,50,2.0,3.0\n"
    )
    assert "fedavg\\_finetuned & 30.0" in paper().latex(["mean"], select="best_validation")


def test_client_by_client() -> None:
    """By name, the worst over all methods first; a client without a score with one method is last but one."""
    runs = dict(paper()) | {
        "local_only": result(scores=paper()["local_only"].scores, names=["North", "South", "a|b", "z"])
    }
    assert Comparison(runs).by_client().csv() == (
        "client,examples,local_only,fedavg_finetuned\nSouth,3,50.0,50.0\na|b,0,50.0,-\nNorth,1,50.0,70.0\n"
    )
    assert Comparison(runs).by_client(1).markdown().splitlines()[-1] == "| South | 3 | **50.0** | **50.0** |"
    assert "a\\|b" in Comparison(runs).by_client().markdown()


def test_results_print_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of text without arrays, HTML for notebooks, and names that are never cut at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = str(result()).splitlines()
    assert lines[0] == "ditto, lam=0.5, seed 3, round 5"
    assert lines[3].split() == ["personal", "2", "60.0", "10.0", "50.0", "50.0"]
    assert lines[-1] == "Test accuracy, %; 2.0 MB sent, 3.0 s"
    ended = str(result(hyper={"lr": {"name": "cosine"}}, reason="round 6 diverged")).splitlines()[0]
    assert ended == "ditto, lr={'name': 'cosine'}, seed 3, round 5, round 6 diverged"
    nothing = result(scores={}, rounds=np.array([], int))
    assert "no evaluation" in repr(nothing)
    comparison = Comparison({"fedavg_finetuned": result(), "a method [bold] " + "x" * 30: result()})
    text = repr(comparison)
    assert text == str(comparison) == str(comparison.table())
    assert max(map(len, text.splitlines())) <= 80
    assert "[bold]" in text
    assert text.count("x") == 30
    assert "fedavg_finetuned" in text
    for shown in (result(), comparison, comparison.table()):
        assert "<pre" in shown._repr_html_()


@pytest.mark.parametrize("unseen", [0, 1])
def test_scores_keep_the_order_of_the_task(unseen: int) -> None:
    """JAX sorts the keys of dictionaries; the first score of a task is still the one that is compared."""
    draw = np.random.default_rng(0)
    clients = [(draw.normal(size=(6, 2)).astype(np.float32), np.array([0, 1, 0, 1, 1, 0])) for _ in range(3)]
    data = pfl.from_clients(clients, clients, unseen=unseen)
    task = pfl.classification(pfl.models.logistic((2,), 2))
    top2 = pfl.metrics.mean("top2", lambda outputs, y: jnp.ones(len(y)))
    task = task._replace(metrics=(top2, task.metrics[0]._replace(name="hits")))
    solve = pfl.descent(optax.sgd(0.1), pfl.full_batch(1, 6))
    compared = pfl.compare(task, {"fedavg": pfl.algorithms.fedavg(task, solve)}, data, rounds=1)
    assert compared["fedavg"].measured == ["top2", "hits"]
    assert compared.csv(["mean", "worst"]) == "method,mean,worst\nfedavg,1.000,1.000\n"
    assert compared["fedavg"].summary()["unseen_personal" if unseen else "personal"]["mean"] == 1


LOG = {  # two seats a round, five rounds, of clients 0 to 2; 3 marks an empty seat
    "ids": np.array([[0, 1], [0, 2], [1, 2], [0, 3], [0, 1]]),
    "replied": np.array([[1, 1], [1, 1], [1, 1], [1, 0], [1, 0]], bool),
    "heard": np.array([[1, 1], [1, 0], [1, 1], [1, 0], [1, 0]], bool),
    "work": np.array([[1, 0.5], [1, 1], [1, 1], [1, 0], [0.5, 1]]),
}


def test_cost_until_a_target() -> None:
    """Means are 0.3, 0.6, 0.6 after 2, 4 and 5 rounds: 7 of 9 sampled clients, 6 of 7 heard, 6.5 of 7 in steps."""
    cost = result(log=LOG).until(0.6)
    assert cost.rounds == 4
    assert cost.sent == pytest.approx(6 / 7 * 1_500_000 + 7 / 9 * 500_000)
    assert cost.steps == pytest.approx(6.5 / 7 * 100)
    assert cost.seconds == pytest.approx(4 / 5 * 2)
    assert result(log=LOG).until(0.61).rounds == np.inf
    assert result(log=LOG).until(0.45, metric="loss").rounds == 4
    assert result(log=LOG).traits()["turns"].tolist() == [4, 2, 1]
    assert result(log=LOG).traits()["examples"].tolist() == [9, 6, 3]


def test_participation_gap() -> None:
    summary = result(scores=result().scores | {"unseen_global/test/accuracy": np.full((3, 1), 0.45)}).summary()
    assert summary["personal"]["participation_gap"] == pytest.approx(0.6 - 0.3)
    assert summary["global"]["participation_gap"] == pytest.approx(0.5 - 0.45)
    assert "participation_gap" not in result(scores={"personal/test/accuracy": ACCURACY}).summary()["personal"]


def test_objectives_and_fairness(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = result(log=LOG, method="slow", scores=result().scores | {"personal/test/accuracy": ACCURACY / 2})
    both = Comparison({"ditto": result(log=LOG), "slow": slow})
    header, ditto, other = both.objectives().csv().splitlines()
    assert header == "method,personal,server,unseen,>server,>alone,rounds,MB sent,seconds"
    assert ditto == "ditto,60.0,50.0,-,50,-,4,1.7,1.6"
    assert other == "slow,30.0,50.0,-,0,-,-,-,-"
    assert both.objectives(0.25).csv().splitlines()[2].endswith(",4,1.7,1.6")
    line = pfl.statistics.trend(ACCURACY[1], np.array([9, 6, 3]))
    rows = both.fairness(select="best_test").csv().splitlines()
    assert rows[0] == "method,trait,by 1 std,correlation,chance"
    assert rows[1] == f"ditto,examples,{100 * line.slope:.1f},{line.correlation:.3f},{line.chance:.3f}"
    with pytest.raises(ValueError, match="both must be"):
        both.fairness({"bandwidth": [1.0, 2.0]})
    both.save(tmp_path / "both")
    assert cli.main(["table", str(tmp_path / "both"), "--show=objectives", "--target=0.25", "--format=csv"]) == 0
    assert capsys.readouterr().out == both.objectives(0.25).csv()
    assert cli.main(["table", str(tmp_path / "both"), "--show=fairness", "--format=csv"]) == 0
    assert capsys.readouterr().out == both.fairness().csv()
    assert cli.main(["table", str(tmp_path / "both"), "--target=0.25"]) == 1
    assert "--target=0.25 is for --show=objectives" in capsys.readouterr().err
