"""Clients of two kinds, each with a network of its own, in one federation."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import pfljax as pfl
from pfljax import algorithms, experiment, masks, models, tree
from pfljax.data import FederatedData
from pfljax.engine import rows
from pfljax.engine.ensemble import Point, simulate_many
from pfljax.engine.runs import simulate
from pfljax.engine.simulation import Simulation
from pfljax.federation import sampling
from pfljax.federation.kinds import of_kinds
from pfljax.federation.wrappers import clipped
from pfljax.learning import local, tasks
from pfljax.types import Algorithm, Params
from tests.zoo import CLASSES, CLIENTS, FEATURES, SIZES, double, federation

ANY: Any = pfl  # whose arguments no type checker sees
ROOT = Path(__file__).parents[2]
KEY = jax.random.key(5)
KINDS = np.array([0, 1, 1, 0, 1, 0, 1])  # the last client is unseen
WIDTHS = (2, 64)
COHORT = sampling.stragglers(sampling.dropouts(sampling.uniform(4), 0.3), 0.5)


def network(width: int) -> pfl.Model:
    """Heads of one shape on bodies of many."""
    return models.from_linen(
        nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3), nn.tanh, nn.Dense(CLASSES)]), (FEATURES,)
    )


MODELS = [network(width) for width in WIDTHS]
TASKS = [double(tasks.classification(model)) for model in MODELS]


def data() -> FederatedData:
    plain = dataclasses.replace(federation(), traits=(), public=None)
    return plain.with_traits({"kind": KINDS})


def solver(lr: Any = 0.1) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), pfl.full_batch(2, max(SIZES)))


def lg_fedavg(lr: Any = 0.1) -> Algorithm:
    """A common head."""
    return of_kinds([algorithms.lg_fedavg(t, solver(lr), masks.head(m)) for t, m in zip(TASKS, MODELS, strict=True)])


def alone() -> Algorithm:
    return of_kinds([algorithms.local_only(task, solver(), init="per_client") for task in TASKS])


def simulation(algorithm: Any, given: FederatedData | None = None, **options: Any) -> Simulation:
    options = {"cohort": COHORT, "onboard_rounds": 2, "devices": jax.devices()[:1]} | options
    return Simulation(TASKS, algorithm, data() if given is None else given, **options)


def members(kind: int) -> np.ndarray:
    return np.flatnonzero(KINDS[:CLIENTS] == kind)


def shown(run: Simulation, rounds: int = 3) -> list[np.ndarray]:
    """All that a run tells."""
    state, log = run.run(run.init(KEY), KEY, rounds)
    return [
        np.array(leaf) for leaf in jax.tree.leaves((state, log, run.evaluate(state, KEY), run.personalized(state, KEY)))
    ]


def same(one: Any, other: Any, atol: float = 0.0) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), one, other)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_clients_that_share_nothing_do_as_in_federations_of_their_kind():
    """As if all had the one network, or the other; scores, models and newcomers."""
    run = simulation(alone())
    state, _ = run.run(run.init(KEY), KEY, 3)
    scores, deployed = run.evaluate(state, KEY), run.personalized(state, KEY)
    for kind, task in enumerate(TASKS):
        made = algorithms.local_only(task, solver(), init="per_client")
        single = Simulation(task, made, data(), cohort=COHORT, onboard_rounds=2, devices=jax.devices()[:1])
        ended, _ = single.run(single.init(KEY), KEY, 3)
        mine = members(kind)
        same(deployed[kind], jax.tree.map(lambda leaf: leaf[mine], single.personalized(ended, KEY)), 1e-12)  # noqa: B023
        for name, values in single.evaluate(ended, KEY).items():
            seen = [0] if kind == KINDS[-1] else []
            there = seen if "unseen" in str(name) else mine
            np.testing.assert_allclose(scores[name][there], values[there], rtol=0, atol=1e-12)
    same(run.model(state, KEY, CLIENTS), single.model(ended, KEY, CLIENTS), 1e-12)


def test_a_client_keeps_its_own_network_only():
    clients = simulation(alone()).init(KEY).clients
    sizes = [tree.nbytes(jax.eval_shape(task.init, KEY)) for task in TASKS]
    assert sizes[1] > 10 * sizes[0]
    assert tree.nbytes(clients) == sum(size * len(members(kind)) for kind, size in enumerate(sizes))


def test_a_client_computes_with_its_own_network_only():
    """Products of matrices of a round, by their widths: those of one network in one loop of clients."""
    run = simulation(lg_fedavg(), cohort=sampling.full())
    train = run.site.train

    def round(state: Any) -> Any:
        return run.rounds.round(run.site.algorithm({}), state, KEY, train)

    def widths(jaxpr: Any) -> set[int]:
        found = {
            d for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general" for v in eqn.invars for d in v.aval.shape
        }
        for inner in inside(jaxpr):
            found |= widths(inner)
        return found

    def inside(jaxpr: Any) -> list[Any]:
        params = [value for eqn in jaxpr.eqns for value in eqn.params.values()]
        return [p.jaxpr if hasattr(p, "jaxpr") else p for p in params if hasattr(p, "eqns") or hasattr(p, "jaxpr")]

    traced = jax.make_jaxpr(round)(jax.eval_shape(lambda: run.rounds.init(run.site.algorithm({}), KEY, train)))
    loops = [eqn for eqn in traced.jaxpr.eqns if eqn.primitive.name == "scan"]
    found = [widths(eqn.params["jaxpr"].jaxpr) & set(WIDTHS) for eqn in loops]
    assert found == [{2}, {64}]


@pytest.mark.slow
def test_dropped_clients_leave_no_trace():
    run = simulation(lg_fedavg())
    state = run.init(KEY)
    for _ in range(4):
        before = jax.tree.map(np.array, state)
        state, log = run.advance(state, KEY, 1, 1)
        present = set(log["ids"][0][log["replied"][0]].tolist())
        for kind in range(2):
            absent = [place for place, id in enumerate(members(kind)) if id not in present]
            here = [place for place, id in enumerate(members(kind)) if id in present]
            for old, new in zip(
                jax.tree.leaves(before.clients[kind]), jax.tree.leaves(state.clients[kind]), strict=True
            ):
                np.testing.assert_array_equal(old[absent], np.asarray(new)[absent])
                assert not here or (old[here] != np.asarray(new)[here]).any()
        assert log["finite"].all()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_by_one_and_from_host_memory_is_the_same():
    first, other = (
        shown(simulation(lg_fedavg(), executor=n, store=store)) for n, store in ((2, "device"), (1, "host"))
    )
    for a, b in zip(first, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_the_order_of_clients_does_not_matter():
    forward = data()
    order = np.array([*reversed(range(CLIENTS)), CLIENTS])
    parts = {
        split: type(forward.train)(*(leaf[order] for leaf in getattr(forward, split))) for split in ("train", "test")
    }
    backward = dataclasses.replace(forward, **parts, traits={"kind": KINDS[order]})
    found = []
    for given in (forward, backward):
        run = simulation(lg_fedavg(), given, cohort=sampling.full())
        state, _ = run.run(run.init(KEY), KEY, 2)
        found.append(jax.tree.map(np.asarray, run.personalized(state, KEY)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[::-1], rtol=0, atol=1e-10), *found)


@pytest.mark.slow
def test_runs_resume_bit_for_bit_and_deploy_each_clients_network(tmp_path: Path):
    run = functools.partial(simulate, TASKS, lg_fedavg(), data(), cohort=COHORT, devices=jax.devices()[:1])
    whole = run(rounds=4, eval_every=2)
    run(rounds=2, eval_every=2, checkpoint=tmp_path)
    again = run(rounds=4, eval_every=2, checkpoint=tmp_path, resume=True)
    for name, values in whole.scores.items():
        np.testing.assert_array_equal(values, again.scores[name])
    assert whole.state is not None
    same(whole.state, again.state)
    assert whole.models is not None
    x = data().examples.x[:3]
    for client, kind in enumerate(KINDS):
        model = whole.models[client]
        assert model.params.trainable["layers_0"]["kernel"].shape == (FEATURES, WIDTHS[kind])
        np.testing.assert_allclose(model.predict(x), TASKS[kind].predict(model.params, x), rtol=1e-5, atol=1e-6)
    head = tree.nbytes(jax.eval_shape(TASKS[0].init, KEY).trainable["layers_4"])
    assert whole.bytes_up == head * whole.log["heard"].sum()
    assert whole.bytes_down == head * whole.log["ids"].size


@pytest.mark.slow
def test_an_ensemble_gives_what_each_run_gives():
    options: Any = {"rounds": 2, "cohort": COHORT, "devices": jax.devices()[:1]}
    points = [Point(seed, {"lr": lr}) for seed, lr in ((0, 0.1), (1, 0.05))]
    for number, outcome in simulate_many(TASKS, lg_fedavg, data(), points, **options):  # pyright: ignore[reportArgumentType]
        single = simulate(TASKS, lg_fedavg, data(), seed=points[number].seed, hyper=points[number].hyper, **options)
        assert isinstance(outcome, pfl.Result)
        for name, values in single.scores.items():
            np.testing.assert_allclose(values, outcome.scores[name], atol=1e-5, err_msg=str(name))


DEVICES = """
import json
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from tests.engine.test_kinds import alone, lg_fedavg, shown, simulation

first, other = (
    shown(simulation(lg_fedavg(), executor=executor, store=store, devices=devices))
    for executor, store, devices in ((2, "device", jax.devices()[:1]), (1, "device", None))
)
print(json.dumps(max(float(np.nanmax(np.abs(a.astype(float) - b))) for a, b in zip(first, other, strict=True))))
"""


@pytest.mark.slow
def test_several_devices_give_what_one_gives():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-c", DEVICES]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout) < 1e-10


def test_by_name():
    """Names, sections, modules and models; the bits of the same things as values."""
    given: dict[str, Any] = {"local": {"lr": 0.1, "plan": "full_batch", "steps": 2}, "rounds": 2, "eval_every": 2}
    named = pfl.simulate(data(), {"small": MODELS[0], "large": MODELS[1]}, "lg_fedavg", **given)
    valued = simulate(TASKS, lg_fedavg(), data(), rounds=2, eval_every=2)
    for name, values in valued.scores.items():
        np.testing.assert_array_equal(values, named.scores[name])
    widths: dict[str, Any] = {"small": "logistic", "large": {"name": "mlp", "hidden": (5,)}}
    compared = pfl.compare(data(), widths, ["local_only"], **given)
    assert compared["local_only"].models is not None
    assert isinstance(compared["local_only"].models[1].params, Params)


def test_in_a_configuration(tmp_path: Path):
    """Clients take the networks in turn; a run goes on from its folder."""
    sections: dict[str, Any] = {
        "data": {"name": "digits", "partition": {"name": "iid", "clients": 3}},
        "kinds": {"small": {"name": "logistic"}, "large": {"name": "mlp", "hidden": (5,)}},
        "algorithm": {"name": "local_only"},
        "local": {"plan": "steps", "steps": 1},
        "run": {"rounds": 1},
    }
    result = pfl.run(experiment.from_config_dict(sections), tmp_path / "run")
    assert result.models is not None
    sizes = [len(jax.tree.leaves(result.models[n].params)) for n in range(3)]
    assert sizes == [2, 4, 2]
    again = pfl.resume(tmp_path / "run", rounds=2)
    assert isinstance(again, pfl.Result)
    assert again.rounds.tolist() == [1, 2]
    for change, sentence in {
        "one": ({"kinds": {"a": {"name": "mlp"}}}, "name a network for each of several kinds"),
        "wrong": ({"kinds": {"a": {"name": "mlp"}, "b": {"name": "mpl"}}}, "kinds.b.name='mpl': did you mean 'mlp'"),
    }.values():
        with pytest.raises(ValueError, match=sentence):
            experiment.from_config_dict(sections | change)
    with pytest.raises(ValueError, match=r"config\.model has no effect: the networks are those of kinds, small, large"):
        pfl.run(experiment.from_config_dict(sections | {"model": {"name": "cnn"}}))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda: simulation(lg_fedavg(), federation()), "have no trait 'kind' that says which is theirs"),
        (
            lambda: simulation(lg_fedavg(), federation().with_traits({"kind": KINDS * 2})),
            r"goes up to 2, and clients that train are of the kinds \[0, 2\]: give each of the 2 networks",
        ),
        (
            lambda: of_kinds([algorithms.fedavg(task, solver()) for task in TASKS]),
            r"clients of kind 1 share float32\[64\], .* and those of kind 0 float32\[2\], .*: share what all networks",
        ),
        (lambda: simulation(clipped(lg_fedavg(), norm=1.0)).init(KEY), "of several kinds of clients cannot be wrapped"),
        (lambda: simulation(algorithms.local_only(TASKS[0], solver())).init(KEY), "of 1 kinds of clients for 2 tasks"),
        (lambda: of_kinds([]), r"algorithms=\[\]: give one for each kind"),
        (lambda: ANY.simulate(data(), {"name_": "mlp"}, "local_only"), "a section lacks its name, or kinds of clients"),
        (lambda: ANY.simulate(data(), {"a": "mlp", "b": 3}, "local_only"), r"model\['b'\]=3: give a name, a section"),
        (lambda: ANY.simulate(data(), {"a": "mlp", "b": "mpl"}, "local_only"), r"model\['b'\].*did you mean 'mlp'"),
        (lambda: ANY.simulate(data(), {"a": "mlp", "b": "mlp"}, "centralized"), "trains one network on all data"),
    ],
)
def test_what_cannot_be_meant(wrong: Any, sentence: str):
    with pytest.raises(ValueError, match=sentence):
        wrong()


def test_states_in_host_memory_are_those_of_each_kind():
    state = simulation(alone(), store="host").init(KEY)
    assert [type(part) for part in state.clients] == [rows.Hosted, rows.Hosted]
