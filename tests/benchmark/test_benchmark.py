"""The benchmark: contenders that fail harm nobody, counts by hand, slowdowns are found, JSON is JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from rich.console import Console

from experiments.benchmark import __main__ as beside
from experiments.benchmark.contenders import RIVALS, find_rivals
from experiments.benchmark.targets import TARGETS
from pfljax import benchmark, cli
from pfljax.algorithms import METHODS
from pfljax.benchmark import (
    WORKLOADS,
    Contender,
    Paired,
    Ratio,
    Report,
    Row,
    Workload,
    examples,
    flops,
    once,
    ours,
    paired,
    store,
    workloads,
)
from pfljax.benchmark.contender import OURS, Failed, Process

FAKE = """
import os, sys, time
print("noise while importing")
os.system("echo noise of a child")

def about():
    return {"fake": "1"}

def prepare(workload, examples, source):
    print("noise while preparing", flush=True)
    assert "jax" not in sys.modules and "pfljax" not in sys.modules
    if source == "unsupported":
        raise NotImplementedError("no such method")
    if source == "raises":
        raise KeyError("oops")
    rounds = 0

    def round_():
        nonlocal rounds
        rounds += 1
        print("noise of a round")
        if source == "dies" and rounds == 3:
            print("last words", file=sys.stderr)
            sys.stderr.flush()
            os._exit(7)
        time.sleep(0.001)

    return round_
"""
TINY = Workload("tiny", "two clients", model="logistic", shape=(2, 2), clients=2, cohort=2,
                sizes={"kind": "equal", "examples": 4}, batch_size=2)  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A rival that is one file."""
    path = tmp_path / "fake.py"
    path.write_text(FAKE)
    return path


def _bench(arguments: list[str]) -> int:
    return cli.main(["bench", *arguments])


def _start(fake: Path, source: str | None = None, timeout: float = 60.0) -> Process:
    return Process(Contender("fake", str(fake), source), timeout)


def test_protocol(fake: Path) -> None:
    """What a library prints does not disturb the replies."""
    with _start(fake) as process:
        reply = process.ask("prepare", workload=TINY.to_dict())
        assert reply["about"] == {"fake": "1"}
        assert reply["compile_seconds"] is None
        assert reply["first_round_seconds"] >= 0.001
        assert process.ask("rounds", count=5)["seconds"] >= 0.005
        assert 1e6 < process.ask("memory")["peak_bytes"] < 1e9
        assert process.ask("details") == {}


@pytest.mark.parametrize(
    ("source", "reason", "unsupported"),
    [("unsupported", "no such method", True), ("raises", "KeyError: 'oops'", False)],
)
def test_reasons(fake: Path, source: str, reason: str, unsupported: bool) -> None:
    """What is raised is told, and the process goes on."""
    with _start(fake, source) as process:
        with pytest.raises(Failed, match=reason) as caught:
            process.ask("prepare", workload=TINY.to_dict())
        assert caught.value.unsupported is unsupported
        assert process.ask("memory")["peak_bytes"] > 0


def test_death_is_told(fake: Path) -> None:
    """Status and last words."""
    with _start(fake, "dies") as process:
        process.ask("prepare", workload=TINY.to_dict())
        with pytest.raises(Failed, match="status 7: last words"):
            process.ask("rounds", count=5)


def test_silence_is_told(fake: Path) -> None:
    """A reply that does not come in time."""
    with _start(fake, timeout=2.0) as process:
        process.ask("prepare", workload=TINY.to_dict())
        with pytest.raises(Failed, match="no reply to 'rounds' within 2 s"):
            process.ask("rounds", count=10_000)


def test_interpreters_that_are_not_there(fake: Path) -> None:
    """One sentence."""
    with pytest.raises(Failed, match="/no/python cannot be started"):
        Process(Contender("fake", str(fake), python="/no/python"))


def test_rivals_need_nothing_of_ours() -> None:
    """The worker, the examples and the rivals' folder, a package of its own, import neither pfljax nor jax."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import worker, examples; layers = worker.load(sys.argv[2]); "
        "assert not {'jax', 'pfljax'} & set(sys.modules); print(layers.__name__)"
    )
    command = [sys.executable, "-c", program, str(Path(benchmark.__file__).parent), str(RIVALS / "layers.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout == "pfljax_contenders.layers\n"


def test_rival_names(fake: Path) -> None:
    """Names, sources, files and interpreters."""
    pytorch = Contender("pytorch", str(RIVALS / "pytorch.py"), "here", "py")
    assert find_rivals(["pytorch=here"], {"pytorch": "py"}) == [pytorch]
    assert find_rivals([f"{fake}=there"]) == [Contender("fake", str(fake.resolve()), "there")]
    with pytest.raises(ValueError, match=r"unknown rival 'torch': there are .*pytorch"):
        find_rivals(["torch"])
    with pytest.raises(ValueError, match="there is no such file"):
        find_rivals(["nobody.py"])


def test_examples_are_the_same_for_all() -> None:
    """Equal from one call to the next, of the right shape and in range; another seed gives others."""
    workload = dataclasses.replace(WORKLOADS["char_lstm"], clients=3).to_dict()
    first, again = examples.arrays(workload), examples.arrays(workload)
    for (x, y), (x2, y2) in zip(first, again, strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
        assert x.shape == (50, 80)
        assert x.dtype == np.uint8
        assert max(x.max(), y.max()) < 80
    assert (examples.arrays(workload | {"seed": 1})[0][0] != first[0][0]).any()


def test_sizes() -> None:
    """Means as asked, the largest far off; the balanced reference has as many batches and none that is short."""
    skewed, even = (examples.sizes(WORKLOADS[name].to_dict()) for name in ("power_law", "no_waste"))
    assert skewed.mean() == pytest.approx(100, rel=0.01)
    assert 1_800 < skewed.max() < 2_000
    assert (even % 10 == 0).all()
    assert (even // 10).sum() == (-(-skewed // 10)).sum()
    assert np.ptp(even) <= 10
    assert WORKLOADS["power_law"].client_steps == WORKLOADS["no_waste"].client_steps
    mnist = examples.sizes(WORKLOADS["pfllib_quickstart"].to_dict())
    assert mnist.sum() == pytest.approx(0.75 * 70_000, rel=0.01)
    with pytest.raises(ValueError, match="'even': choose equal"):
        examples.sizes(TINY.to_dict() | {"sizes": {"kind": "even"}})
    assert WORKLOADS["mlp"].client_steps == 1_000
    assert WORKLOADS["cohort_10"].client_steps == 100


# Forward and the gradients of weights for all layers, of inputs for all but the first: 2 n (2 first + 3 others).
_DENSE = 784 * 100, 100 * 10
_CNN = 24 * 24 * 25 * 32, 8 * 8 * 25 * 32 * 64, 1024 * 512, 512 * 10


@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        ("logistic", 4 * 7_840),
        ("mlp", 4 * _DENSE[0] + 6 * _DENSE[1]),
        ("cnn", 4 * _CNN[0] + 6 * sum(_CNN[1:])),
        ("fedper", 4 * _DENSE[0] + 6 * _DENSE[1]),
        ("ditto", 2 * (4 * _DENSE[0] + 6 * _DENSE[1])),
        ("pfedme", 5 * (4 * _DENSE[0] + 6 * _DENSE[1])),
    ],
)
def test_flops_of_a_round(name: str, gradient: float) -> None:
    """10,000 gradients of one example, each as counted by hand."""
    assert ours.details(WORKLOADS[name].to_dict())["flops"] == pytest.approx(1e4 * gradient, rel=1e-3)


def test_flops_of_ragged_clients() -> None:
    """As many as the same batches dealt evenly, short ones counted as whole."""
    of = [ours.details(WORKLOADS[name].to_dict())["flops"] for name in ("power_law", "no_waste")]
    assert of[0] == of[1] == pytest.approx(WORKLOADS["no_waste"].client_steps * 10 * (4 * 78_400 + 6 * 1_000))


def test_flops_of_loops_and_convolutions() -> None:
    """Scans, loops of known and unknown length, branches; padding multiplies nothing."""
    x = jnp.ones((3, 3))

    def looped(x: jax.Array, n: jax.Array) -> jax.Array:
        return lax.scan(lambda x, _: (lax.fori_loop(0, 2 * n, lambda i, x: x @ x, x), None), x, length=5)[0]

    assert flops.count(looped, x, 0, known={1: 2}) == 5 * 4 * 54
    with pytest.raises(flops.Unknown):
        flops.count(looped, x, 0)
    assert flops.count(lambda x, n: lax.cond(n > 1, lambda x: x @ x, lambda x: x, x), x, 0, known={1: 1}) == 0
    assert flops.count(lambda x, n: lax.cond(n > 1, lambda x: x @ x, lambda x: x, x), x, 0, known={1: 2}) == 54

    def same(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    # 5 places, each with 3 neighbours of which 2 lie outside in all: 13 products of 2 channels by 4.
    x, kernel = jnp.ones((7, 5, 2)), jnp.ones((3, 2, 4))
    once = 2 * 7 * 13 * 2 * 4
    assert flops.count(same, x, kernel) == once
    assert flops.count(jax.grad(lambda *args: same(*args).sum(), (0, 1)), x, kernel) == 3 * once


def _row(name: str, seconds: float, gemm: float = 1e11, contender: str = "pfljax", **more: object) -> Row:
    row = Row(name, contender, "cpu", 20, 1_000.0, gemm=gemm, seconds=(0.98 * seconds, seconds, 1.02 * seconds))
    return dataclasses.replace(row, **more)


def _report(rows: list[Row], date: str = "2030-01-01T00:00:00+00:00") -> Report:
    return Report(
        rows, [WORKLOADS[row.workload] for row in rows], {"processor": "abacus", "cores": 2}, date, targets=TARGETS
    )


def test_what_became_slower_is_found(tmp_path: Path) -> None:
    """A planted slowdown, but neither one of the whole machine nor one within the spread."""
    store.keep(_report([_row("mlp", 1.0)]), tmp_path)
    newest = [_row("mlp", 0.1), _row("cnn", 2.0), _row("logistic", 0.1), _row("ditto", 0.1)]
    store.keep(_report(newest, "2030-01-02T00:00:00+00:00"), tmp_path)
    (tmp_path / "abacus-2-cores" / "20300103T0000000000.json").write_text("{")
    now = [_row("mlp", 0.13), _row("cnn", 2.5, gemm=0.8e11), _row("logistic", 0.102), _row("fedper", 9.0)]
    before = list(store.earlier(tmp_path, {"processor": "abacus", "cores": 2}))
    assert [date[:10] for date, _ in before] == ["2030-01-02", "2030-01-01"]
    (found,) = store.slower(now, before)
    assert (found.workload, found.since[:10]) == ("mlp", "2030-01-02")
    assert found.ratio == pytest.approx(1.3)
    assert list(store.earlier(tmp_path, {"processor": "other", "cores": 2})) == []


def test_what_a_row_says() -> None:
    """Rates and shares, by hand."""
    row = _row("mlp", 0.05, flops=2e9, peak=2e11, params=1_000_000, bandwidth=1e12)
    assert row.median == 0.05
    assert row.client_rounds_per_second == pytest.approx(400)
    assert row.client_steps_per_second == pytest.approx(20_000)
    assert row.gemm_share == pytest.approx(2e9 / 0.05 / 2e11)
    assert row.bandwidth_share == pytest.approx(24e9 / 0.05 / 1e12)
    assert Row.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_targets_and_tables(tmp_path: Path) -> None:
    """Ratios are the rival's time over ours; goals are judged where the rival ran."""
    rows = [
        _row("mlp", 0.1, flops=4.8e9, peak=1e11),
        _row("mlp", 2.0, contender="pfllib"), _row("mlp", 0.5, contender="fedjax"),
        _row("power_law", 0.5), _row("no_waste", 0.4), _row("cohort_10", 0.1),
        _row("cohort_10", 0.4, contender="pfllib"), dataclasses.replace(_row("cnn", 1.0), seconds=(), failed="no"),
    ]  # fmt: skip
    report = _report(rows)
    found = {target.name: (value, target.reached(value)) for target, value in report.judged()}
    assert found == {
        "mlp over pfllib": (pytest.approx(20), "reached"),
        "mlp over fedjax": (pytest.approx(5), "reached"),
        "mlp, share of GEMM": (pytest.approx(0.48), "reached"),
        "power-law sizes, time over no waste": (pytest.approx(1.25), "reached"),
    }
    assert "| FedAvg, MLP 784-100-10 | **100** | 2,000 (20.0x) | 500 (5.0x) | 48 |" in report.markdown()
    assert json.loads(json.dumps(report.to_dict()))["rows"][1]["ratio"] == pytest.approx(20)
    assert benchmark.plot(report, tmp_path / "cohorts.png").stat().st_size > 1_000
    with pytest.raises(ValueError, match="nothing to draw"):
        benchmark.plot(_report([_row("mlp", 1.0)]), tmp_path / "none.png")


def test_what_methods_cost_beside_fedavg() -> None:
    """Time and products of a round, each over FedAvg's; one that takes more than its products explain is marked."""
    rows = [
        _row("method_fedavg", 0.1, flops=1e9), _row("method_ditto", 0.21, flops=2e9), _row("method_ifca", 0.3),
        _row("method_apfl", 0.4, flops=2e9), _row("mlp", 9.0, flops=1e9),
    ]  # fmt: skip
    report = _report(rows)
    assert report.costs() == {
        "ditto": (pytest.approx(2.1), pytest.approx(2)),
        "ifca": (pytest.approx(3), None),
        "apfl": (pytest.approx(4), pytest.approx(2)),
    }
    console = Console(width=132, record=True, file=io.StringIO())
    console.print(report.table())
    told = console.export_text()
    assert re.search(r"apfl +4\.00 +2\.00 +2\.00", told)
    assert _report(rows[1:]).costs() == {}


def test_workloads_of_methods() -> None:
    """One for each method, by themselves."""
    chosen = workloads.select(["methods"])
    assert [workload.method for workload in chosen] == [name for name, row in METHODS.items() if row.prepare is None]
    assert not any(workload.name.startswith("method_") for workload in workloads.select(["all"]))
    found = {name: ours.details(WORKLOADS[f"method_{name}"].to_dict())["flops"] for name in ("fedavg", "feddf", "apfl")}
    assert found["apfl"] == pytest.approx(2 * found["fedavg"])
    assert found["feddf"] > 1.5 * found["fedavg"], "distillation on the server counts"


def test_workloads_are_plain_data() -> None:
    """Rivals get what JSON can say."""
    for workload in WORKLOADS.values():
        plain = json.loads(json.dumps(workload.to_dict()))
        np.testing.assert_array_equal(examples.sizes(plain), examples.sizes(workload.to_dict()))
        assert len(examples.sizes(plain)) == workload.clients >= workload.cohort


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (_bench, ["mpl"], "unknown workload 'mpl': did you mean 'mlp'?"),
        (_bench, ["--repeats", "0"], "repeats=0: it must be a whole number of at least 1"),
        (_bench, ["--against", "nowhere"], "'nowhere' is no checkout of pfljax: give the folder that has"),
        (beside.main, ["--against", ".", "--rival=pytorch"], "only checkouts are paired; leave the rivals out"),
        (beside.main, ["--rival", "torch"], "unknown rival 'torch'"),
        (beside.main, ["--rival-python", "pytorch"], "write NAME=PYTHON"),
    ],
)
def test_bad_arguments(
    program: Callable[[list[str]], int], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what to do."""
    assert program(arguments) == 1
    assert message in capsys.readouterr().err


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    """All workloads, without running any."""
    assert cli.main(["bench", "--list"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in WORKLOADS)


def test_where_the_time_of_a_command_goes() -> None:
    """Seconds of the parts add up to the whole; what the command says when it fails is told."""
    row = Row("methods", "pfljax", "cpu", 0, 0.0)
    listed = Workload("methods", "a command", measures="cold", command=("methods", "--json"))
    found = once.measure(listed, OURS, row, 60.0)
    assert list(found.parts) == ["import", "trace", "xla", "run"]
    assert min(found.parts.values()) >= 0
    assert sum(found.parts.values()) == pytest.approx(found.first_round_seconds)
    assert found.cpu_seconds
    assert found.methods == 0
    failed = once.measure(dataclasses.replace(listed, command=("table", "nowhere")), OURS, row, 60.0)
    assert "nowhere" in str(failed.failed)
    assert not failed.parts


CHECKOUT = """
import json, sys
name, seconds, log = {name!r}, {seconds!r}, open({log!r}, "a")
for line in sys.stdin:
    request = json.loads(line)
    if request["do"] == "stop":
        break
    print(name, request["do"], file=log, flush=True)
    if request["do"] == "prepare":
        if seconds is None:
            sys.exit("cannot")
        reply = {{"compile_seconds": 10 * seconds, "first_round_seconds": 1.0, "about": {{}}}}
    else:
        reply = {{"seconds": seconds * request["count"]}}
    print(json.dumps(reply), flush=True)
"""


def _checkout(folder: Path, name: str, seconds: float | None, where: str = "") -> Path:
    """A checkout whose rounds are said to take so long."""
    program = folder / name / "pfljax" / "benchmark" / where / "worker.py"
    program.parent.mkdir(parents=True)
    program.write_text(CHECKOUT.format(name=name, seconds=seconds, log=str(folder / "log")))
    return folder / name


def test_checkouts_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins changes from pair to pair and from turn to turn; ratios are now over before."""
    now = _checkout(tmp_path, "now", 0.3)
    monkeypatch.setattr(paired, "OURS", dataclasses.replace(OURS, checkout=now))
    before = _checkout(tmp_path, "before", 0.2, where="rivals")
    found = paired.compare(before, [TINY], pairs=2, seconds=0.0)
    asked = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    first = ["now", "now", "before", "before", *["now", "before", "before", "now"] * 2]
    second = [{"now": "before", "before": "now"}[name] for name in first]
    assert [name for name, _ in asked] == first + second
    assert [do for _, do in asked] == ["prepare", "rounds", "prepare", "rounds", *["rounds"] * 8] * 2
    assert {ratio.measure: (ratio.workload, ratio.ratio, ratio.verdict) for ratio in found.ratios} == {
        "round": ("tiny", pytest.approx(1.5), "slower"),
        "compile": ("tiny", pytest.approx(1.5), "slower"),
    }
    assert json.loads(found.save(tmp_path / "paired.json").read_text())["ratios"][0]["before"] == [0.2, 0.2]


def test_a_checkout_that_fails_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, and not run again."""
    monkeypatch.setattr(paired, "OURS", dataclasses.replace(OURS, checkout=_checkout(tmp_path, "now", 0.3)))
    found = paired.compare(_checkout(tmp_path, "old", None), [TINY], pairs=3, seconds=0.0)
    assert found.ratios == []
    assert found.failed == {"tiny": "before: died with status 1: cannot"}
    assert (tmp_path / "log").read_text().split().count("old") == 1


def test_means_and_verdicts_of_pairs() -> None:
    """Geometric, over the workloads that have the measure; a verdict only where the whole interval says so."""
    even = Ratio("mlp", "round", [2.0, 1.0], [1.0, 2.0])
    twice = Ratio("cnn", "round", [4.0, 4.0], [2.0, 2.0])
    alone = Ratio("mlp", "compile", [1.0], [1.1])
    (mean,) = Paired([even, twice, alone], {}, "there", {}, "").means()
    assert (mean.workload, mean.measure) == ("mean", "round")
    assert mean.now == pytest.approx([8**0.5, 2.0])
    assert mean.ratio == pytest.approx(2**0.5)
    low, high = even.interval or (0, 0)
    assert low == pytest.approx(1 / high)
    assert high == pytest.approx(2 ** np.tan(0.475 * np.pi))  # the quantile of Cauchy times log 2 sqrt(2) / sqrt(2)
    assert [each.verdict for each in (even, twice, alone)] == ["unclear", "slower", "unclear"]
    assert Ratio("mlp", "round", [0.9, 0.9001], [1.0, 1.0]).verdict == "faster"
    assert Ratio("mlp", "round", [1.02, 1.0201], [1.0, 1.0]).verdict == ""


@pytest.mark.slow
def test_commands_leave_the_cache_of_the_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the methods are counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    small = ("compare", "--quiet", "--methods=fedavg,local_only", "--config.run.rounds=1")
    workload = Workload("small", "a command", measures="warm", command=small)
    found = once.measure(workload, OURS, Row("small", "pfljax", "cpu", 0, 0.0), 300.0)
    assert found.methods == 2
    assert found.parts["trace"] > 0
    assert found.parts["xla"] > 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_whole_run(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interleaved with a rival that works and one that dies; `--json` prints the report and only that."""
    monkeypatch.setitem(WORKLOADS, "tiny", TINY)
    dying = tmp_path / "dying.py"
    dying.write_text(FAKE)
    common = ["tiny", "--repeats=2", "--seconds=0.01", f"--store={tmp_path / 'store'}"]
    rivals = ["--rival", str(fake), "--rival", f"{dying}=dies", f"--out={tmp_path / 'out'}"]
    assert beside.main([*common, *rivals]) == 0
    report = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    rows: dict[str, dict] = {row["contender"]: row for row in report["rows"]}
    assert list(rows) == ["pfljax", "fake", "dying"]
    mine, rival = rows["pfljax"], rows["fake"]
    assert len(mine["seconds"]) == len(rival["seconds"]) == 2
    assert mine["compile_seconds"] > 0
    assert mine["flops"] == 2 * 4 * (4 * 4 * 10)
    assert mine["client_steps"] == 4
    assert mine["gemm_share"] > 0
    assert mine["peak_bytes"] > rival["peak_bytes"] > 0
    assert rival["ratio"] == pytest.approx(rival["median"] / mine["median"])
    assert rows["dying"]["failed"].startswith("died with status 7")
    assert not rows["dying"]["seconds"]
    (stored,) = (tmp_path / "store").rglob("*.json")
    assert json.loads(stored.read_text()) == report
    capsys.readouterr()
    assert cli.main(["bench", *common, "--json"]) == 0
    assert [row["contender"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["pfljax"]
