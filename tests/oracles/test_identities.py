"""Methods that are other methods at some value of a parameter, on a network and five unequal clients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks
from pfljax.engine.simulation import Simulation
from pfljax.engine.site import Build
from pfljax.federation import sampling
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Batch, Plan
from tests.oracles import network, play

pytestmark = pytest.mark.usefixtures("x64")

TASK, LR = network.task(), network.LR
HEAD = masks.named(*network.HEAD)


def solver(lr: float = LR, plan: Plan | None = None) -> local.LocalSolver:
    return local.descent(optax.sgd(lr, momentum=0.5), plan or network.plan())


def plain(lr: float = LR, plan: Plan | None = None) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plan or network.plan())


ONE = plans.full_batch(1, 14)
EVEN = uniform(mean)

# What is compared: several tests share a run
RUNS: dict[str, Callable[[], play.Played]] = {
    "fedavg": lambda: network.train(algorithms.fedavg(TASK, solver())),
    "fedavg, uniform": lambda: network.train(reduced_by(algorithms.fedavg(TASK, solver()), EVEN)),
    "local": lambda: network.train(algorithms.local_only(TASK, solver(), participation="cohort")),
    "gradient step": lambda: network.train(algorithms.fedavg(TASK, plain(plan=ONE)), cohort=None),
    "gradient step, uniform": lambda: network.train(
        reduced_by(algorithms.fedavg(TASK, plain(plan=ONE)), EVEN), cohort=None
    ),
}


@functools.cache
def known(name: str) -> play.Played:
    return RUNS[name]()


def shared(run: play.Played) -> Any:
    return run.state.server.params


def kept(run: play.Played) -> Any:
    return run.state.clients


def close(actual: Any, expected: Any, atol: float = 1e-12) -> None:
    play.assert_trees_close(actual.trainable, expected.trainable, atol)


# Equal bit for bit to the server model of FedAvg
FEDAVG: dict[str, tuple[Callable[[], Build], str]] = {
    "FedProx(mu=0)": (lambda: algorithms.fedprox(TASK, solver(), mu=0.0), "fedavg"),
    "Ditto(lam=0)": (lambda: algorithms.ditto(TASK, solver(), solver(), lam=0.0), "fedavg"),
    "Ditto(lam=0.7)": (lambda: algorithms.ditto(TASK, solver(), solver(0.1), lam=0.7), "fedavg"),
    "FedPer(nothing)": (lambda: algorithms.fedper(TASK, solver(), masks.nothing), "fedavg"),
    "FedBABU(nothing)": (lambda: algorithms.fedbabu(TASK, solver(), solver(), masks.nothing), "fedavg"),
    "FedBN(no norm layers)": (lambda: algorithms.fedbn(TASK, solver(), masks.nothing), "fedavg, uniform"),
    "LG-FedAvg(everything)": (lambda: algorithms.lg_fedavg(TASK, solver(), masks.everything), "fedavg, uniform"),
    "Reptile(1)": (lambda: algorithms.reptile(TASK, solver(), solver(), server_lr=1.0), "fedavg, uniform"),
    "APFL(0.3)": (
        lambda: algorithms.apfl(TASK, optax.sgd(LR, momentum=0.5), network.plan(), alpha=0.3, alpha_lr=0.1),
        "fedavg",
    ),
}


@pytest.mark.parametrize("method", FEDAVG)
def test_equals_fedavg(method):
    make, name = FEDAVG[method]
    play.assert_bitwise(shared(network.train(make())), shared(known(name)))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_one_cluster_is_fedavg():
    models = network.train(algorithms.ifca(TASK, solver(), clusters=1)).state.server.own.params
    fedavg = shared(network.train(reduced_by(algorithms.fedavg(TASK, solver()), EVEN)))
    play.assert_bitwise(jax.tree.map(lambda leaf: leaf[0], models), fedavg)


# Equal bit for bit to the clients' models of local training
LOCAL: dict[str, tuple[Callable[[], Build], Callable[[play.Played], Any]]] = {
    "Ditto(lam=0)": (lambda: algorithms.ditto(TASK, solver(), solver(), lam=0.0), kept),
    "FedPer(everything)": (lambda: algorithms.fedper(TASK, solver(), masks.everything, init="common"), kept),
    "LG-FedAvg(nothing)": (lambda: algorithms.lg_fedavg(TASK, solver(), masks.nothing), kept),
    "APFL(1)": (
        lambda: algorithms.apfl(TASK, optax.sgd(LR, momentum=0.5), network.plan(), alpha=1.0),
        lambda run: run.state.clients.v,
    ),
}


@pytest.mark.parametrize("method", LOCAL)
def test_equals_local_training(method):
    make, models = LOCAL[method]
    run = network.train(make())
    play.assert_bitwise(models(run), kept(known("local")))
    play.assert_bitwise(run.personalized(), known("local").personalized())


def test_a_gradient_step_of_each_client_is_a_gradient_step_of_all():
    build = algorithms.centralized(TASK, plain(plan=plans.full_batch(1, sum(network.SIZES))))
    data = network.data()
    run = play.play(TASK, build, data, network.ROUNDS, train=data.pooled())
    close(shared(run), shared(known("gradient step")))


def test_the_first_proximal_step_feels_no_pull():
    run = network.train(algorithms.fedprox(TASK, plain(plan=ONE), mu=0.7), cohort=None)
    close(shared(run), shared(known("gradient step")))


def test_ditto_with_an_infinite_pull_is_the_model_of_the_round_start():
    personal = local.proximal_descent(LR, network.plan())
    run = network.train(algorithms.ditto(TASK, solver(), personal, lam=1e12), cohort=None)
    before = network.train(algorithms.fedavg(TASK, solver()), rounds=network.ROUNDS - 1, cohort=None)
    for row in play.rows(run.personalized().trainable, 5):
        play.assert_trees_close(row, shared(before).trainable, 1e-9)


def test_fedrep_without_a_head_is_fedavg():
    """On full batches: the body's phase has batches of its own."""
    plan = plans.full_batch(2, 14)
    run = network.train(algorithms.fedrep(TASK, solver(plan=plan), solver(), masks.nothing))
    play.assert_bitwise(shared(run), shared(network.train(algorithms.fedavg(TASK, solver(plan=plan)))))


def test_lg_fedavg_is_fedper_with_the_other_half():
    one = network.train(reduced_by(algorithms.lg_fedavg(TASK, solver(), masks.negate(HEAD)), mean))
    other = network.train(algorithms.fedper(TASK, solver(), HEAD, init="common"))
    play.assert_bitwise((shared(one), kept(one)), (shared(other), kept(other)))


@pytest.mark.slow
def test_scaffold_without_controls_is_fedavg():
    run = network.train(algorithms.scaffold(TASK, network.plan(), lr=LR), rounds=1)
    fedavg = network.train(reduced_by(algorithms.fedavg(TASK, plain()), EVEN), rounds=1)
    close(run.state.server.model.params, shared(fedavg))


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_with_single_steps_of_all_clients_is_gradient_descent(option):
    run = network.train(algorithms.scaffold(TASK, ONE, lr=LR, option=option), cohort=None)
    close(run.state.server.model.params, shared(known("gradient step, uniform")))


def test_the_control_of_the_server_is_the_mean_of_the_clients():
    run = network.train(algorithms.scaffold(TASK, network.plan(), lr=LR, server_lr=0.5))
    play.assert_trees_close(run.state.server.control, {k: leaf.mean(0) for k, leaf in run.state.clients.items()})


def test_pfedme_with_one_inner_step_is_fedavg():
    build = algorithms.pfedme(TASK, network.plan(), lr=0.2, inner_lr=0.25, lam=3.0, inner_steps=1, start="reset")
    fedavg = network.train(reduced_by(algorithms.fedavg(TASK, plain(0.2 * 3.0 * 0.25)), EVEN))
    close(shared(network.train(build)), shared(fedavg))


def test_pfedme_with_beta_0_keeps_its_server_model():
    run = network.train(algorithms.pfedme(TASK, network.plan(), lr=0.1, inner_lr=0.1, lam=3.0, beta=0.0))
    play.assert_bitwise(shared(run), run.start.server.params)


@pytest.mark.parametrize("order", ["exact", "first", "hessian_free"])
def test_per_fedavg_without_adaptation_is_fedavg_on_the_queries(order):
    plan = network.plan()

    def queries(data: Any, key: Any, step: Any) -> Batch:
        batch = plan.batch(data, key, step)
        odd = batch.mask * (jnp.arange(4.0) % 2)
        return batch._replace(mask=jnp.where(odd.sum() > 0, odd, batch.mask))

    run = network.train(algorithms.per_fedavg(TASK, solver(), plan, alpha=0.0, order=order))
    expected = network.train(reduced_by(algorithms.fedavg(TASK, solver(plan=Plan(plan.steps, queries))), EVEN))
    close(shared(run), shared(expected))
    for row in play.rows(run.personalized().trainable, 5):
        play.assert_bitwise(row, shared(run).trainable)


def test_apfl_with_alpha_0_deploys_fedavg_and_keeps_its_personal_models():
    run = network.train(algorithms.apfl(TASK, optax.sgd(LR, momentum=0.5), network.plan(), alpha=0.0))
    play.assert_bitwise(run.state.clients.v, run.start.clients.v)
    for row in play.rows(run.personalized().trainable, 5):
        play.assert_bitwise(row, shared(known("fedavg")).trainable)


STATEFUL: dict[str, Callable[[], Algorithm]] = {
    "Local": lambda: algorithms.local_only(TASK, solver(), participation="cohort"),
    "FedPer": lambda: algorithms.fedper(TASK, solver(), HEAD),
    "SCAFFOLD": lambda: algorithms.scaffold(TASK, network.plan(), lr=LR),
    "Ditto": lambda: algorithms.ditto(TASK, solver(), solver(), lam=0.3),
    "pFedMe": lambda: algorithms.pfedme(TASK, network.plan(), lr=0.1, inner_lr=0.1, lam=3.0),
    "APFL": lambda: algorithms.apfl(TASK, optax.sgd(LR), network.plan(), alpha_lr=0.1),
    "FedAMP": lambda: algorithms.fedamp(TASK, plain(), lam=0.3, alpha=0.6, sigma=4.0),
}
TABLES = ("FedAMP",)  # the server keeps a row for each client


@pytest.mark.slow
@pytest.mark.parametrize("method", STATEFUL)
def test_absent_clients_keep_their_rows_and_a_round_of_silence_changes_nothing(method):
    present, key = jnp.array([1, 3]), jax.random.key(0)
    first = jax.random.fold_in(jax.random.fold_in(key, 0), 0)

    def sampler(key: jax.Array, sizes: jax.Array) -> sampling.Draw:
        """Two of three answer in the first round, nobody later."""
        del sizes
        answer = jnp.all(jax.random.key_data(key) == jax.random.key_data(first))
        return sampling.Draw(jnp.array([1, 3, 4]), answer & jnp.array([True, True, False]), jnp.ones(3))

    simulation = Simulation(TASK, STATEFUL[method](), network.data(), cohort=sampler)
    state = simulation.init(key)
    before = jax.device_get(state)
    state, _ = simulation.run(state, key, 1)
    after = jax.device_get(state)
    state, _ = simulation.run(state, key, 1)
    silence = jax.device_get(state)
    rows = [(before.clients, after.clients)] + [(before.server, after.server)] * (method in TABLES)
    for old, new in rows:
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(np.delete(a, present, 0), np.delete(b, present, 0))
            if method != "APFL" or a.ndim > 1:
                assert (a[present] != b[present]).any()
    play.assert_bitwise((silence.server, silence.clients), (after.server, after.clients))
    assert (int(after.round), int(silence.round)) == (1, 2)
