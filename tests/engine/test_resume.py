"""An interrupted run loses nothing: killed, resumed, it ends with the bits of a run that was left alone."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from pfljax import algorithms, cli, engine, experiment, files
from pfljax.data import FederatedData
from pfljax.engine.checkpoint import Checkpoints
from pfljax.experiment.config import Config
from pfljax.federation import sampling
from pfljax.learning import local, plans
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from pfljax.types import Algorithm, Params, State, Task
from tests.zoo import TASK, federation, slow_but_for

ROOT = Path(__file__).parents[2]
RUN = [
    *("--config=configs/digits_quickstart.py", "--config.algorithm.name=ditto", "--config.run.rounds=12"),
    *("--config.run.eval_every=1", "--config.model.hidden=(8,)", "--config.data.unseen=0.1", "--quiet"),
]


def pfljax(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pfljax", *arguments]


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "clients.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run(pfljax("run", *RUN, f"--out={out}"), cwd=ROOT, check=True, capture_output=True)
    return out


@pytest.mark.slow
def test_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(whole: Path, tmp_path: Path):
    out = tmp_path / "killed"
    process = subprocess.Popen(pfljax("run", *RUN, f"--out={out}"), cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len([p for p in (out / "checkpoint").glob("*") if p.name.isdigit()]) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "summary.json").exists()
    subprocess.run(pfljax("resume", str(out), "--quiet"), cwd=ROOT, check=True, capture_output=True)
    expected, resumed = arrays(whole), arrays(out)
    assert expected.keys() == resumed.keys()
    for name in expected:
        np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(whole: Path, tmp_path: Path):
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    newest = max((p for p in (out / "checkpoint").glob("*") if p.name.isdigit()), key=lambda p: int(p.name))
    for file in newest.rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    subprocess.run(pfljax("resume", str(out), "--quiet"), cwd=ROOT, check=True, capture_output=True)
    expected, resumed = arrays(whole), arrays(out)
    for name in expected:
        np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)


def test_checkpoints_that_are_all_damaged_are_named(whole: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    (out / "summary.json").unlink()
    for file in (out / "checkpoint").rglob("*"):
        if file.is_file():
            file.write_bytes(b"broken")
    assert cli.main(["resume", str(out), "--quiet"]) == 1
    assert "is corrupt: delete the folder and start again" in capfd.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(State({"w": jax.numpy.zeros(3)}, (), jax.numpy.asarray(1)), {"rounds": np.asarray([1])})
    with pytest.raises(ValueError, match="belongs to another method, model or federation"):
        checkpoints.restore(State({"w": jax.numpy.zeros(4)}, (), jax.numpy.asarray(0)))
    with pytest.raises(ValueError, match=r"belongs to another method, .*: server\.v is in one of the two only"):
        checkpoints.restore(State({"v": jax.numpy.zeros(3)}, (), jax.numpy.asarray(0)))


def test_leaves_of_a_checkpoint_have_the_names_of_the_state(tmp_path: Path):
    """Other programs find a model in it."""
    layers = {"dense": {"kernel": jax.numpy.ones((2, 1))}, "list": [jax.numpy.zeros(1), jax.numpy.ones(1)]}
    Checkpoints(tmp_path).save(State(Params(layers), (), jax.numpy.asarray(3)), {"rounds": np.ones(1)})
    reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler("state"))
    stored = reader.restore(tmp_path / "3", args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    assert list(stored) == ["round", *(f"server.trainable.{name}" for name in ("dense.kernel", "list.0", "list.1"))]
    np.testing.assert_array_equal(stored["server.trainable.dense.kernel"], np.ones((2, 1)))


def test_a_record_keeps_the_order_of_its_names(tmp_path: Path):
    """The first score of a task is what clients are compared by, resumed or not."""
    state = State({"w": jax.numpy.zeros(3)}, (), jax.numpy.asarray(1))
    Checkpoints(tmp_path).save(state, {"score:rmse": np.ones(1), "rounds": np.ones(1), "score:mae": np.ones(1)})
    assert list(Checkpoints(tmp_path).restore(state)[1]) == ["score:rmse", "rounds", "score:mae"]


@pytest.mark.slow
def test_results_that_are_lost_are_made_again_to_the_byte(whole: Path, tmp_path: Path):
    out = tmp_path / "lost"
    shutil.copytree(whole, out)
    for name in ("summary.json", "clients.npz"):
        (out / name).unlink()
    subprocess.run(pfljax("resume", str(out), "--quiet"), cwd=ROOT, check=True, capture_output=True)
    expected, resumed = arrays(whole), arrays(out)
    assert list(expected) == list(resumed)
    for name in expected:
        np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="choose another folder"):
        Checkpoints(tmp_path / "file" / "below")


_COUNTED = """
import os, signal, sys
left, folder = int(sys.argv[1]), sys.argv[2]

def count(event, arguments):
    global left
    if event.startswith(("open", "os.", "shutil.")) and arguments and str(arguments[0]).startswith(folder):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
from pfljax import cli
assert cli.main(sys.argv[3:]) == 0
print(left)
"""


@pytest.mark.slow
def test_killed_twenty_times_at_random_moments(tmp_path: Path):
    """A moment is a use of the folder's files, and every third one lies among those of the results."""

    def run(moment: int, out: Path, *arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", _COUNTED, str(moment), str(out), *arguments, "--quiet"]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)

    never, short = 1 << 30, [text for text in RUN if "rounds" not in text] + ["--config.run.rounds=4"]
    alone = run(never, whole := tmp_path / "whole", "run", *short, f"--out={whole}")
    moments = never - int(alone.stdout.split()[-1])
    draw, kills = np.random.default_rng(0), 0
    while kills < 20:
        out = tmp_path / f"killed-{kills}"
        while True:
            begun = ["resume", str(out)] if (out / "config.json").exists() else ["run", *short, f"--out={out}"]
            moment = moments - draw.integers(30) if kills % 3 == 0 else draw.integers(1, moments)
            ended = run(int(moment), out, *begun)
            if ended.returncode == 0:
                break
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            kills += 1
        expected, resumed = arrays(whole), arrays(out)
        assert expected.keys() == resumed.keys()
        for name in expected:
            np.testing.assert_array_equal(expected[name], resumed[name], err_msg=name)
        Result.load(out)


# In this process, with a network of one layer


def configuration(rounds: int = 3, method: str = "ditto", **changes: Any) -> Config:
    values = {
        "data": {"partition": {"name": "iid", "clients": 3}, "unseen": 0.3},
        "model": {"name": "logistic"},
        "algorithm": {"name": method},
        "local": {"plan": "full_batch", "steps": 2},
        "run": {"rounds": rounds},
    }
    return experiment.from_config_dict(values | changes)


def same(one: Result, other: Result) -> None:
    """All that a run computes, to the bit; not the times."""
    for part in ("scores", "log", "sizes"):
        expected, found = getattr(one, part), getattr(other, part)
        assert expected.keys() == found.keys()
        for name in expected:
            np.testing.assert_array_equal(expected[name], found[name], err_msg=name)
    for name in ("rounds", "bytes_up", "bytes_down", "client_steps", "config", "fingerprint", "seed", "hyper"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds of Ditto."""
    out = tmp_path_factory.mktemp("finished") / "run"
    experiment.run(configuration(), out)
    return out


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of two methods."""
    out = tmp_path_factory.mktemp("compared") / "both"
    experiment.compare_methods(configuration(2), ["local_only", "fedavg"], out)
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that may be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


DAMAGES = {"missing": None, "empty": b"", "null": b"null", "bare": b"{}", "cut": b'{"method": "di'}


@pytest.mark.parametrize("damage", slow_but_for(("missing",), DAMAGES))
def test_damaged_results_are_made_again_from_the_checkpoints(damage: str, finished: Path, out: Path):
    for names in (["summary.json"], ["clients.npz"], ["config.json"], ["summary.json", "clients.npz", "config.json"]):
        for path in (out / name for name in names):
            path.unlink() if DAMAGES[damage] is None else path.write_bytes(DAMAGES[damage])
        with pytest.raises((ValueError, FileNotFoundError), match=rf"{out}.*{'|'.join(names)}.*pfljax resume"):
            Result.load(out)
        assert cli.main(["resume", str(out), "--quiet"]) == 0
        same(Result.load(finished), Result.load(out))
        assert (out / "config.json").read_bytes() == (finished / "config.json").read_bytes()


def test_results_of_another_run_are_refused_and_made_again(finished: Path, out: Path, tmp_path: Path):
    experiment.run(configuration(seed := 3, run={"rounds": 3, "seed": seed}), tmp_path / "other")
    for name in ("clients.npz", "config.json", "summary.json"):
        shutil.copy(tmp_path / "other" / name, out)
        with pytest.raises(ValueError, match="belongs to another"):
            Result.load(out)
        experiment.resume(out)
        same(Result.load(finished), Result.load(out))


def test_nothing_is_written_where_all_is_well(out: Path):
    def state() -> dict[Path, int]:
        return {path: path.stat().st_ino for path in out.rglob("*") if path.is_file()}

    assert cli.main(["resume", str(out), "--quiet"]) == 0
    before = state()
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    assert state() == before


def test_where_nothing_is_left_one_sentence_says_so(tmp_path: Path):
    (tmp_path / "config.json").touch()
    with pytest.raises(
        ValueError, match=rf"{tmp_path}/config.json is damaged \(.*empty\).*delete the folder and start"
    ):
        experiment.resume(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        experiment.resume(tmp_path / "nowhere")


def test_more_rounds_are_those_of_a_longer_run(out: Path, tmp_path: Path):
    longer = experiment.run(configuration(5), tmp_path / "longer")
    assert cli.main(["resume", str(out), "--rounds=5", "--quiet"]) == 0
    same(longer, Result.load(out))
    with pytest.raises(ValueError, match=r"rounds=4: the run in .* has done 5; ask for at least 5"):
        experiment.resume(out, rounds=4)
    experiment.resume(out)
    same(longer, Result.load(out))


def test_more_rounds_with_evaluations_at_the_multiples(tmp_path: Path):
    """Three rounds with an evaluation every second: that after the third stays, the others are those of five rounds."""
    long, short = ({"rounds": rounds, "eval_every": 2} for rounds in (5, 3))
    whole = experiment.run(configuration(run=long), tmp_path / "whole")
    experiment.run(configuration(run=short), tmp_path / "parts")
    parts = experiment.run(configuration(run=long), tmp_path / "parts", resume=True)
    assert parts.rounds.tolist() == [2, 3, 4, 5]
    for name, scores in whole.scores.items():
        np.testing.assert_array_equal(parts.scores[name][[0, 2, 3]], scores)
    np.testing.assert_array_equal(parts.log["ids"], whole.log["ids"])


@pytest.mark.slow
def test_a_comparison_is_repaired_and_gets_more_rounds(compared: Path, tmp_path: Path):
    out = Path(shutil.copytree(compared, tmp_path / "both"))
    for path in (out / "config.json", out / "summary.json", out / "fedavg" / "clients.npz"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"both/summary.json is damaged \(it is empty\): pfljax resume"):
        Comparison.load(out)
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    for name, result in Comparison.load(out).items():
        same(Result.load(compared / name), result)
    shutil.copy(out / "fedavg" / "clients.npz", tmp_path)
    longer = experiment.compare_methods(configuration(3), ["local_only", "fedavg"], tmp_path / "longer")
    assert cli.main(["resume", str(out), "--rounds=3", "--quiet"]) == 0
    assert list(Comparison.load(out)) == ["local_only", "fedavg"]
    for name, result in Comparison.load(out).items():
        same(longer[name], result)
    shutil.copytree(compared / "fedavg", out / "fedavg", dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"both/summary.json, fedavg: .* belongs to another summary.json"):
        Comparison.load(out)


def test_another_configuration_is_refused_by_value(out: Path):
    with pytest.raises(FileExistsError, match=r"config.local.steps is 2 there and 3 here\): choose another folder"):
        experiment.run(configuration(local={"plan": "full_batch", "steps": 3}), out, resume=True)
    with pytest.raises(ValueError, match="resume=True without a folder"):
        experiment.run(configuration(), resume=True)


def test_a_folder_in_use_is_named(out: Path, capsys: pytest.CaptureFixture[str]):
    for command in (["resume", str(out)], ["run", f"--out={out}"]):
        with files.held(out):
            assert cli.main(command) == 1
        told = capsys.readouterr().err
        assert told.startswith(f"pfljax: {out} is in use by process {os.getpid()} on ")
        assert told.count("\n") == 1


@pytest.mark.parametrize(("number", "word"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(
    number: int,
    word: str,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """The signal comes while the second checkpoint is written: that one is whole."""
    out, save = tmp_path / "a run", ocp.Checkpointer.save

    def interrupted(self: Any, path: Path, **options: Any) -> None:
        if path.name == "2":
            signal.raise_signal(number)
        save(self, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.Checkpointer, "save", interrupted)
        patched.setattr(cli, "read_config", lambda *_: configuration())
        assert cli.main(["run", f"--out={out}", "--quiet"]) == 128 + number
        assert capsys.readouterr().err == f"{word}; continue with pfljax resume '{out}'\n"
        assert Checkpoints(out / "checkpoint").rounds() == [1, 2]
        patched.setattr(experiment, "run", lambda *_, **__: signal.raise_signal(number))
        assert cli.main(["run"]) == 128 + number
        assert capsys.readouterr().err == f"{word}; nothing was kept: --out=DIR keeps results and checkpoints\n"
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    same(Result.load(finished), Result.load(out))


@pytest.mark.parametrize("name", ["clients.npz", "summary.json", "config.json", "checkpoint"])
def test_a_full_disk_is_named_and_costs_nothing(
    name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Wherever it strikes, what was written before is enough to go on."""
    out, write, save = tmp_path / "run", files.write, ocp.Checkpointer.save
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(path: Path, content: bytes) -> Path:
        if path.name == name:
            with files.writing(path):
                raise full
        return write(path, content)

    def fails_to_save(self: Any, path: Path, **options: Any) -> None:
        if path.name == "2" and name == "checkpoint":
            raise ValueError("DATA_LOSS: Failed to write 1 byte [os_error_code='28']")
        save(self, path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", fails)
        patched.setattr(ocp.Checkpointer, "save", fails_to_save)
        with pytest.raises(OSError, match=rf"cannot write {out}/.*: No space left on device; free some space"):
            experiment.run(configuration(), out)
    if name == "config.json":
        experiment.run(configuration(), out, resume=True)
    else:
        experiment.resume(out)
    same(Result.load(finished), Result.load(out))


# Checkpoints alone

STATE = State({"w": jax.numpy.arange(5.0)}, {"v": jax.numpy.ones((3, 2))}, jax.numpy.asarray(1))
RECORD = {"rounds": np.asarray([1]), "score:personal/test/accuracy": np.asarray([[0.25, np.nan, 1.0]])}


def damaged(path: Path, bit: int) -> bytes:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    return bytes(content)


def flips(folder: Path, count: int) -> Iterator[tuple[Path, int]]:
    """Bits of the files of a folder, each file in turn."""
    draw, paths = np.random.default_rng(0), [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in itertools.islice(itertools.cycle([path for path in paths if path.stat().st_size]), count):
        yield path, int(draw.integers(8 * path.stat().st_size))


def check_flips(folder: Path, count: int, caplog: pytest.LogCaptureFixture) -> int:
    """How many of `count` flipped bits were found; what is restored is a checkpoint that was written."""
    first = Checkpoints(folder / "sound", {"seed": 3})
    states = [STATE._replace(server={"w": STATE.server["w"] + n}, round=jax.numpy.asarray(n)) for n in (1, 2)]
    for state in states:
        first.save(state, RECORD | {"rounds": np.arange(int(state.round))})
    found = 0
    for path, bit in flips(folder / "sound" / "2", count):
        copy = Path(shutil.copytree(folder / "sound", folder / "copy"))
        (copy / path.relative_to(folder / "sound")).write_bytes(damaged(path, bit))
        caplog.clear()
        state, record = Checkpoints(copy, {"seed": 3}).restore(STATE)
        jax.tree.map(np.testing.assert_array_equal, state, states[int(state.round) - 1])
        np.testing.assert_array_equal(record["rounds"], np.arange(int(state.round)))
        np.testing.assert_array_equal(record["score:personal/test/accuracy"], RECORD["score:personal/test/accuracy"])
        if int(state.round) == 1:
            assert f"the checkpoint after 2 rounds in {copy} is corrupt" in caplog.text
            assert "trying the one after 1" in caplog.text
            assert (copy / "corrupt-2").exists()
            found += 1
        shutil.rmtree(copy)
    return found


# Orbax leaves its reading unfinished where a file is damaged.
unfinished = pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@unfinished
def test_a_flipped_bit_in_a_checkpoint_is_found_or_harmless(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert check_flips(tmp_path, 30, caplog) > 5


def test_an_older_checkpoint_that_is_damaged_is_not_in_the_way(tmp_path: Path):
    for number in (1, 2, 3):
        Checkpoints(tmp_path).save(STATE._replace(round=jax.numpy.asarray(number)), RECORD)
    for damage in (b"item_handhers", b"{"):
        described = tmp_path / "2" / "_CHECKPOINT_METADATA"
        described.write_bytes(described.read_bytes().replace(b"item_handlers", damage))
        assert Checkpoints(tmp_path).rounds() == [2, 3]
        assert int(Checkpoints(tmp_path).restore(STATE)[0].round) == 3


@unfinished
@pytest.mark.slow
def test_many_flipped_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert check_flips(tmp_path, 150, caplog) > 30


@unfinished
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "comparison"])
def test_a_flipped_bit_anywhere_gives_no_other_numbers_and_no_dead_end(
    kind: str, finished: Path, compared: Path, tmp_path: Path
):
    """What is read is what was written, or refused with the folder; to resume always ends with the same numbers."""
    whole, load = (finished, Result.load) if kind == "run" else (compared, Comparison.load)

    def results(folder: Path) -> list[Result]:
        loaded = load(folder)
        return [loaded] if isinstance(loaded, Result) else list(loaded.values())

    for path, bit in flips(whole, 150):
        copy = Path(shutil.copytree(whole, tmp_path / "copy"))
        place = copy / path.relative_to(whole)
        place.write_bytes(damaged(path, bit))
        for checkpoints in (folder for folder in place.parents if folder.name == "checkpoint"):
            (checkpoints.parent / "summary.json").unlink()
        refused, found = "", []
        try:
            found = results(copy)
        except (ValueError, OSError) as error:
            refused = str(error)
        assert str(copy) in refused if refused else len(found) == len(results(whole))
        experiment.resume(copy)
        for expected, again in zip(results(whole), results(copy), strict=True):
            same(expected, again)
        for expected, read in zip(results(whole), found, strict=False):
            same(expected, read)
        shutil.rmtree(copy)


def test_other_numbers_under_the_same_digest_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Orbax reads without an error what was written, and what was written is not what was meant."""
    with monkeypatch.context() as patched:
        patched.setattr("pfljax.engine.checkpoint._digest", lambda *_: "0" * 32)
        Checkpoints(tmp_path).save(STATE, RECORD)
    with pytest.raises(ValueError, match=f"every checkpoint in {tmp_path} is corrupt: delete the folder"):
        Checkpoints(tmp_path).restore(STATE)


def fedavg(lr: float, task: Task = TASK) -> Algorithm:
    return algorithms.fedavg(task, local.descent(optax.sgd(lr), plans.full_batch(12, 2)))


@pytest.mark.slow
def test_a_checkpoint_of_another_run_is_refused_by_value(tmp_path: Path):
    data = federation()

    def simulate(rounds: int, build: Algorithm, data: FederatedData = data, **options: Any) -> Result:
        run = {"checkpoint": tmp_path, "method": "fedavg", "seed": 1} | options
        return engine.simulate(TASK, build, data, rounds=rounds, **run)

    simulate(1, fedavg(0.5))
    changed = dataclasses.replace(data, fingerprint="0123")
    refused: list[tuple[Algorithm, FederatedData, dict[str, Any], str]] = [
        (fedavg(0.5), changed, {}, f"data is '{data.fingerprint}' there and '0123' here"),
        (fedavg(0.5), data, {"seed": 2}, "seed is 1 there and 2 here"),
        (fedavg(0.5), data, {"method": "avg"}, "method is 'fedavg' there and 'avg' here"),
        (fedavg(0.1), data, {}, "the algorithm, as traced by pfljax .* and jax .*, is '"),
        (fedavg(0.5), data, {"cohort": sampling.dropouts(sampling.full(), 0.5)}, "the algorithm, as traced by"),
    ]
    for build, other, options, message in refused:
        with pytest.raises(ValueError, match=f"the checkpoint in {tmp_path} belongs to another run: {message}"):
            simulate(2, build, other, resume=True, **options)
    with pytest.raises(FileExistsError, match="holds checkpoints: resume"):
        simulate(2, fedavg(0.5))
    free: list[dict[str, Any]] = [
        {"eval_every": 2},
        {"executor": "sequential"},
        {"store": "host"},
        {"devices": jax.devices()[:1]},
    ]
    for options in free:
        assert simulate(2, fedavg(0.5), resume=True, **options).rounds.tolist() == [1, 2]
    with pytest.raises(ValueError, match=f"rounds=1: the run in {tmp_path} has done 2; ask for at least 2"):
        simulate(1, fedavg(0.5), resume=True)
    with pytest.raises(ValueError, match=r"resume=True .* folder"):
        simulate(1, fedavg(0.5), resume=True, checkpoint=None)


def test_hyperparameters_of_another_run_are_refused(tmp_path: Path):
    engine.simulate(TASK, fedavg, federation(), rounds=1, hyper={"lr": 0.5}, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"hyper\.lr is 0\.5 there and 0\.1"):
        engine.simulate(TASK, fedavg, federation(), rounds=1, hyper={"lr": 0.1}, checkpoint=tmp_path, resume=True)
