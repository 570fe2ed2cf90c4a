"""Who is absent, silent, slow, new or alone: numbers worked out by hand, on parabolas `a/2 (w - c)^2` in one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, engine, masks, quadratics
from pfljax.data import FederatedData
from pfljax.engine.simulation import Simulation
from pfljax.experiment import recipe
from pfljax.experiment.recipe import SolverConfig
from pfljax.federation import sampling
from pfljax.federation.reduce import mean, stack, uniform
from pfljax.federation.server import fedopt
from pfljax.federation.wrappers import reduced_by
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Draw, Model, Params, Reduce, Sampler, State, Task, Tree
from tests.oracles import quadratics as q
from tests.oracles.numpy_reference import close
from tests.oracles.test_sharing import measuring
from tests.zoo import FIRSTS, slow_but_for

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(3)


def solver(lr: float = 0.5, steps: int = 1, capacity: int = 1) -> local.LocalSolver:
    return local.descent(optax.sgd(lr), plans.full_batch(steps, capacity))


def cohorts(*rounds: Sequence[int], size: int = 2, replied: Sequence[bool] | None = None) -> Sampler:
    """These clients in the first, second, ... round; empty slots fill up, and nobody is there later."""

    def sample(key: jax.Array, sizes: jax.Array) -> Draw:
        keys = jnp.stack([jax.random.fold_in(jax.random.fold_in(KEY, t), 0) for t in range(len(rounds))])
        now = jnp.all(jax.random.key_data(keys) == jax.random.key_data(key)[None], axis=1)
        empty = sizes.shape[0]
        table = jnp.asarray([[*ids, *[empty] * (size - len(ids))] for ids in rounds])
        ids = jnp.where(jnp.any(now), table[jnp.argmax(now)], empty)
        answers = jnp.ones(size, bool) if replied is None else jnp.asarray(replied)
        return Draw(ids, answers & (ids < empty), jnp.ones(size))

    return sample


def always(id: int) -> Sampler:
    return lambda key, sizes: Draw(jnp.array([id]), jnp.ones(1, bool), jnp.ones(1))


def beginning(build: Algorithm, task: Task, data: FederatedData, **options: Any) -> tuple[Simulation, State]:
    run = Simulation(task, build, data, devices=jax.devices()[:1], **options)
    return run, run.init(KEY)


def after(run: Simulation, state: State, rounds: int = 1) -> State:
    return jax.device_get(run.run(state, KEY, rounds)[0])


def w(params: Params) -> Any:
    return params.trainable["w"]


# Absent and silent


def test_the_control_of_scaffold_counts_those_who_replied():
    """c' = c + 2/3 mean(-3, -6); with the dropped client in |S| it would be -4.5, and no longer the mean of all c_i."""
    task, data = quadratics.problem(w=[3.0, 6.0, 9.0])
    build = algorithms.scaffold(task, plans.full_batch(1, 1), lr=0.1)
    state = after(*beginning(build, task, data, cohort=cohorts([0, 1, 2], size=3, replied=[True, True, False])))
    close(state.clients["w"], [-3, -6, 0])
    close(state.server.control["w"], -3)


def with_table(state: State, *models: float) -> State:
    table = Params({"w": jnp.asarray(models, float)})
    return state._replace(server=table, clients=jax.tree.map(jnp.array, table))


def test_fedamp_keeps_the_row_of_a_dropped_client():
    """The others go halfway from the mean of their neighbours, 3 and 2.5, to their centers; it does not become 1.5."""
    task, data = quadratics.problem(w=[3.0, 6.0, 9.0])
    build = algorithms.fedamp(task, solver(), lam=0.0, sigma=1e9)
    run, state = beginning(build, task, data, cohort=cohorts([0, 1, 2], size=3, replied=[True, True, False]))
    state = after(run, with_table(state, 1, 2, 4))
    close(w(state.server), [(3 + 3) / 2, (2.5 + 6) / 2, 4], 1e-7)


def test_a_silent_round_does_not_move_a_server_with_momentum():
    """Uploads of 0 would still roll on: m = 0.9 m."""
    task, data = quadratics.problem(w=[2.0])
    build = algorithms.fedavgm(task, solver(), server_lr=1.0, momentum=0.9)
    run, state = beginning(build, task, data, cohort=cohorts([0], [], [0], size=1))
    state, _ = run.run(state, KEY, 2)
    close(w(jax.device_get(state).server.params), 1.0)
    # m = 0.9 (-1) - 0.5 from w = 1
    close(w(after(run, state).server.params), 1 + 0.9 + 0.5)


def test_a_model_of_ifca_without_members_does_not_roll_on():
    task, data = quadratics.problem(w=[-2.0, 2.0])
    build = algorithms.ifca(task, solver(lr=1.0), clusters=2, server=fedopt(optax.sgd(1.0, momentum=0.9)))
    run, state = beginning(build, task, data, cohort=cohorts([0, 1], [0]))
    models = Params({"w": jnp.array([-1.0, 1.0])})
    state, _ = run.run(beginning_with(state, models), KEY, 1)
    close(w(jax.device_get(state).server.own.params), [-2, 2])
    close(w(after(run, state).server.own.params), [-2.9, 2])


def beginning_with(state: State, models: Params) -> State:
    """The K models of a server with clusters."""
    return state._replace(server=state.server._replace(own=state.server.own._replace(params=models)))


def test_an_empty_slot_never_replies():
    sizes, keys = jnp.full(5, 3), jax.random.split(KEY, 200)
    draw = jax.vmap(lambda key: sampling.dropouts(sampling.poisson(0.3, 5), 0.5)(key, sizes))(keys)
    assert (draw.ids == 5).any()
    assert not (draw.replied & (draw.ids == 5)).any()
    assert (draw.replied & (draw.ids < 5)).any()


# Slow


def test_stragglers_do_their_share_of_the_steps_and_these_are_counted():
    """Halfway to the center in each of 1, 2 and 4 steps; ceil(0.25 * 4) = 1."""
    task, data = quadratics.problem(w=[8.0, 8.0, 8.0])
    plan = plans.full_batch(4, 1)

    def slow(key: jax.Array, sizes: jax.Array) -> Draw:
        return Draw(jnp.arange(3), jnp.ones(3, bool), jnp.array([0.25, 0.5, 1.0]))

    build = algorithms.local_only(task, local.descent(optax.sgd(0.5), plan), participation="cohort")
    state = after(*beginning(build, task, data, cohort=slow))
    close(w(state.clients), [4, 6, 7.5])
    assert engine.simulate(task, build, data, rounds=2, plan=plan, cohort=slow).client_steps == 2 * (1 + 2 + 4)


# Measured


def test_a_client_is_scored_on_its_own_test_examples_and_on_no_padding():
    """w = 0, so the loss of the example c is c^2 / 2; clients of 1, 3 and 70 examples, in batches of 64."""
    task, data = quadratics.problem(w=list(range(1, 78)))
    train, test = np.array([1, 1, 1]), np.array([1, 3, 70])
    rows = type(data.train)
    data = dataclasses.replace(
        data,
        train=rows(np.array([0, 1, 2], np.int32), train.astype(np.int32)),
        test=rows(np.array([3, 4, 7], np.int32), test.astype(np.int32)),
        validation=rows(np.zeros(3, np.int32), np.array([0, 2, 0], np.int32)),
        num_clients=3,
    )
    run, state = beginning(algorithms.fedavg(task, solver(lr=0.0)), task, data)
    scores = run.evaluate(state, KEY)
    centers = np.arange(1.0, 78.0)
    expected = [np.mean(centers[3:4] ** 2 / 2), np.mean(centers[4:7] ** 2 / 2), np.mean(centers[7:77] ** 2 / 2)]
    np.testing.assert_allclose(scores["personal", "test", "loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(scores["global", "test", "loss"], expected, rtol=1e-12)
    np.testing.assert_allclose(scores["personal", "validation", "loss"], [np.nan, (1 + 4) / 4, np.nan], rtol=1e-12)


def test_the_server_of_pfedme_averages_the_statistics_of_theta():
    """One inner step has seen half of each center; the server's step size is not for statistics."""
    task = measuring(q.task())
    build = algorithms.pfedme(task, plans.full_batch(1, 60), inner_steps=1, beta=0.3)
    state = after(*beginning(build, task, q.data()))
    close(state.server.params.stats["seen"], np.mean(q.C / 2, axis=0))


# New


def newcomer(task: Task, data: FederatedData) -> FederatedData:
    """The last client never trains, and is tested on its training examples."""
    return dataclasses.replace(data, test=data.train, num_clients=data.num_clients - 1, num_unseen=1)


PLAN = plans.full_batch(1, 1)


def around(model: float, center: float, pull: float) -> float:
    return (center + pull * model) / (1 + pull)


# name -> (method, deployed after k rounds of onboarding for the center 10)
NEWCOMERS: dict[str, tuple[Callable[[Task], Algorithm], Callable[[int], float]]] = {
    # in each of two steps v <- v + lr alpha (10 - m), m = (v + 2) / 2, deployed m
    "apfl": (
        lambda t: algorithms.apfl(t, optax.sgd(0.5), plans.full_batch(2, 1), alpha=0.5),
        lambda k: 10 - 8 * 0.875 ** (2 * k),
    ),
    "ditto": (
        lambda t: algorithms.ditto(t, solver(), solver(0.25), lam=1.0),
        lambda k: around(2, 10, 1) + 0.5**k * (2 - around(2, 10, 1)),
    ),
    # gradient steps on the proximal problem around w = 2, each onboarding from where the last one ended
    "pfedme": (
        lambda t: algorithms.pfedme(t, plans.full_batch(2, 1), lr=0.1, inner_lr=0.125, lam=3.0, inner_steps=1),
        lambda k: around(2, 10, 3) + 0.25**k * (2 - around(2, 10, 3)),
    ),
    "pfedme, reset": (
        lambda t: algorithms.pfedme(
            t, plans.full_batch(2, 1), lr=0.1, inner_lr=0.125, lam=3.0, inner_steps=1, start="reset"
        ),
        lambda k: around(2, 10, 3) + 0.25**k * (2 - around(2, 10, 3)),
    ),
    # with lr lam = 1 and one inner step w_i becomes theta: w_i <- w_i + (10 - w_i) / 8
    "pfedme, local": (
        lambda t: algorithms.pfedme(
            t, PLAN, lr=1 / 3, inner_lr=0.125, lam=3.0, inner_steps=1, start="reset", deploy="local"
        ),
        lambda k: 10 - 8 * 0.875**k,
    ),
    "local_only": (lambda t: algorithms.local_only(t, solver()), lambda k: 10 - 10 * 0.5**k),
}


@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("method", NEWCOMERS)
def test_each_round_of_onboarding_takes_a_newcomer_further(method: str, rounds: int):
    make, deployed = NEWCOMERS[method]
    task, data = quadratics.problem(w=[2.0, 10.0])
    run, state = beginning(make(task), task, newcomer(task, data), onboard_rounds=rounds)
    if method != "local_only":
        state = state._replace(server=state.server._replace(params=Params({"w": jnp.asarray(2.0)})))
    close(run.evaluate(state, KEY)["unseen_personal", "test", "loss"], (deployed(rounds) - 10) ** 2 / 2, 1e-12)


@pytest.mark.parametrize("start", ["cloud", "own"])
@pytest.mark.parametrize("rounds", [1, 40])
def test_a_newcomer_of_fedamp_solves_around_the_mean_of_all_models(start: Any, rounds: int):
    """The mean of 0 and 6 with a pull of 3: (11 + 3 * 3) / 4 = 5."""
    task, data = quadratics.problem(w=[1.0, 1.0, 11.0])
    build = algorithms.fedamp(task, solver(lr=0.125), lam=1.5, alpha=0.5, sigma=2.0, start=start)
    run, state = beginning(build, task, newcomer(task, data), onboard_rounds=rounds)
    score = run.evaluate(with_table(state, 0, 6), KEY)["unseen_personal", "test", "loss"]
    close(score, (5 - 2 * 0.5**rounds - 11) ** 2 / 2, 1e-9)


@pytest.mark.parametrize("method", ["fedper", "fedrep"])
def test_a_newcomer_fits_its_own_part_while_the_shared_part_rests(method: str):
    """Two steps of lr 1 on the intercept end at mean(y - slope x) with the server's slope, which would move too."""
    task, slope, intercept = q.line(), 0.5, masks.named("intercept")
    solve = solver(lr=1.0, steps=2, capacity=3)
    build = {
        "fedper": algorithms.fedper(task, solve, intercept),
        "fedrep": algorithms.fedrep(task, solver(lr=0.0, capacity=3), solve, intercept),
    }[method]
    run, state = beginning(build, task, newcomer(task, q.line_data()))
    shared = Params({"slope": jnp.asarray(slope), "intercept": None})
    state = state._replace(server=state.server._replace(params=shared))
    off = q.LINE_Y[2] - slope * q.LINE_X[2]
    close(run.evaluate(state, KEY)["unseen_personal", "test", "loss"], np.var(off) / 2)


# Alone

ALONE: dict[str, dict[str, Any]] = {
    "fedadagrad": {"server_lr": 1.0},
    "fedadam": {"server_lr": 0.05},
    "fedyogi": {"server_lr": 0.05},
    "ifca": {"clusters": 2},
    "apfl": {"alpha_lr": 0.01},
    "pfedme": {"lr": 0.1, "inner_lr": 0.1, "lam": 3.0, "inner_steps": 10},
    "heurfedamp": {"self_weight": 0.1},
    "ditto_by_size": {"lam": 2.0},
    "fedmeta": {"server_lr": 0.05},
    "pfedhn_pc": {"weight_decay": 0.0},
}


# VIRTUAL is pulled by its prior, CBFL deploys several models, SuperFed trains mixtures that are drawn.
LONELY = [
    name
    for name, row in algorithms.METHODS.items()
    if not {"class labels", "features"} & {*row.needs} and name not in ("virtual", "cbfl", "superfed")
]


@pytest.mark.parametrize("name", slow_but_for(FIRSTS, LONELY))
def test_a_single_client_of_a_single_example_finds_its_own_center(name: str):
    """Nobody else pulls, so whatever the method does, the client's own optimum is where it ends."""
    task, data = quadratics.problem(body=[2.0], head=[-3.0])
    own = {"a": np.ones(1), "c": {"body": np.array([2.0]), "head": np.array([-3.0])}}
    data = data.with_traits({"group": [0]}).with_public(own)
    model = Model(task.init, None, lambda *args: ((), {}), blocks=("body", "head"), norms=("head",))
    solve = SolverConfig(lr=0.3, plan="full_batch", steps=3)
    made = recipe.build(name, task, model, options=ALONE.get(name, {}), local=solve, tune=solve, capacity=1)
    run = Simulation(task, made.make, data, devices=jax.devices()[:1])
    state, _ = run.run(run.init(KEY, **made.hyper), KEY, 400, **made.hyper)
    models = run.personalized(state, KEY, **made.hyper).trainable
    assert jax.tree.map(np.shape, models) == {"body": (1,), "head": (1,)}
    close(models["body"], [2.0], 1e-3)
    # the head of FedBABU is only tuned, by three steps from its start at 0
    close(models["head"], [-3 * (1 - 0.7**3) if name == "fedbabu" else -3.0], 1e-3)


# Everybody trains


@pytest.mark.parametrize("participation", ["all", "cohort"])
def test_local_training_is_that_of_all_clients_or_of_the_cohort(participation: Any):
    task, data = quadratics.problem(w=[2.0, 4.0, 8.0])
    build = algorithms.local_only(task, solver(), participation=participation)
    state = after(*beginning(build, task, data, cohort=always(1)), 2)
    close(w(state.clients), [1.5, 3, 6] if participation == "all" else [0, 3, 0])


@pytest.mark.parametrize("participation", ["all", "cohort"])
def test_pfedme_averages_the_sampled_and_may_train_everybody(participation: Any):
    """One exact proximal step from 0: theta_i = c_i / (1 + lam), w_1 <- 0 + lr lam theta_1 of the sampled one."""
    task, data = quadratics.problem(w=[4.0, 8.0, 20.0])
    build = algorithms.pfedme(task, PLAN, lr=0.1, inner_lr=0.25, lam=3.0, inner_steps=1, participation=participation)
    result = engine.simulate(task, build, data, rounds=1, cohort=always(1), devices=jax.devices()[:1])
    assert result.bytes_up == 8
    assert result.bytes_down == (24 if participation == "all" else 8)
    state = after(*beginning(build, task, data, cohort=always(1)))
    close(w(state.clients), [1, 2, 5] if participation == "all" else [0, 2, 0])
    close(w(state.server.params), 0.1 * 3 * 2)


def test_who_is_lost_in_a_round_of_everybody_keeps_its_state():
    draw = sampling.everyone(sampling.dropouts(always(2), 1.0))(KEY, jnp.ones(4, int))
    assert draw.ids.tolist() == [0, 1, 2, 3]
    assert draw.replied.tolist() == [True, True, False, True]
    assert not np.any(draw.heard)


# Reductions


def _median(terms: Tree, weights: jax.Array) -> Tree:
    return jax.tree.map(lambda leaf: jnp.median(leaf, axis=0), terms)


MEDIAN = Reduce(lambda upload, weight: upload, _median, summed=False)

REFUSED: dict[str, tuple[Callable[[Task], Algorithm], Reduce]] = {
    "fedamp": (lambda t: algorithms.fedamp(t, solver()), MEDIAN),
    "heurfedamp": (lambda t: algorithms.heurfedamp(t, solver()), mean),
    "fedavg": (lambda t: algorithms.fedavg(t, solver()), stack),
    "scaffold": (lambda t: algorithms.scaffold(t, PLAN), stack),
    "fedper": (lambda t: algorithms.fedper(t, solver(), masks.nothing), stack),
    "ifca": (lambda t: algorithms.ifca(t, solver()), MEDIAN),
}


@pytest.mark.parametrize("method", REFUSED)
def test_a_reduction_that_a_method_cannot_bear_is_refused(method: str):
    make, reduce = REFUSED[method]
    task, data = quadratics.problem(w=[2.0, 4.0, 8.0])
    run, state = beginning(make(task)._replace(reduce=reduce), task, data)
    with pytest.raises(ValueError, match=r"the reduction hands on .* this method needs"):
        run.run(state, KEY, 1)


def test_a_median_serves_methods_with_one_model():
    task, data = quadratics.problem(w=[2.0, 4.0, 9.0])
    state = after(*beginning(reduced_by(algorithms.fedavg(task, solver(lr=1.0)), MEDIAN), task, data))
    close(w(state.server.params), 4.0)


# Choices of IFCA


def test_ifca_chooses_by_the_loss_that_it_would_be_scored_with():
    """In training the models above zero look bad, as they would with dropout; their gradients are the same."""
    plain, data = quadratics.problem(w=[2.0])

    def loss(params: Params, batch: Any, key: jax.Array) -> Any:
        value, stats = plain.loss(params, batch, key)
        return value + jnp.where(params.trainable["w"] > 0, 100.0, 0.0), stats

    task = plain._replace(loss=loss)
    run, state = beginning(algorithms.ifca(task, solver(lr=1.0), clusters=2), task, data)
    state = beginning_with(state, Params({"w": jnp.array([-1.0, 1.0])}))
    close(w(run.personalized(state, KEY)), [1.0])
    close(w(after(run, state).server.own.params), [-1, 2])


def test_equal_weights_are_an_option_of_every_method_that_weighs_by_examples():
    task, data = quadratics.problem(w=[0.0, 6.0], sizes=[1, 2])
    by_n, even = (
        w(
            after(
                *beginning(reduced_by(algorithms.fedprox(task, solver(lr=1.0, capacity=2), mu=0.0), r), task, data)
            ).server.params
        )
        for r in (mean, uniform(mean))
    )
    close((by_n, even), (4, 3))
