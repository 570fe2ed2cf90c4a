"""The engine: a round is one jitted, donated call; a run is a loop of rounds between two evaluations."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks, files, tree
from pfljax.data import FederatedData
from pfljax.engine import accounting, executors, hosts, memory, process, sharding, store
from pfljax.engine.checkpoint import Checkpoints, Record
from pfljax.engine.course import Course, Log
from pfljax.engine.executors import Executor
from pfljax.engine.memory import Shortage
from pfljax.engine.programs import Programs
from pfljax.engine.rounds import Rounds
from pfljax.engine.sharding import Device
from pfljax.federation import sampling
from pfljax.federation.sampling import Sampler
from pfljax.learning import schedules, tasks
from pfljax.printing import brief
from pfljax.results.deployed import Deploy, Deployed, Models
from pfljax.results.result import Result, versions
from pfljax.types import Algorithm, Array, Plan, State, Task, Tree

P = ParamSpec("P")

Build = Algorithm | Callable[..., Algorithm]
"""An algorithm, or what makes one from hyperparameters `**hyper`, which are then traced."""

Hyper: TypeAlias = Any
"""A hyperparameter: a number, or a function of the round."""

Traced = dict[str, Tree]
"""Hyperparameters by name, their numbers as arrays."""

Store = Literal["auto", "device", "host"]
"""Where the clients' states live."""

# Another version of these writes the same program in other words.
_TRACERS = ("pfljax", "jax")

# On an accelerator the states may take this share of the free memory; the rest is for training.
_DEVICE_SHARE = 0.4


@checks.by_hints()
class Simulation:
    """One method on one federation, compiled once for any hyperparameter values, keys and numbers of rounds.

    Args:
      task: the model, for predictions.
      build: an algorithm, or a function `(**hyper) -> Algorithm`.
      data: the federation that is evaluated.
      train: the federation that trains, `data` if None (centralized training uses `data.pooled()`).
      cohort: who takes part in a round.
      executor: `"vmap"`, `"sequential"`, a block size, or `"auto"`. Results are the same.
      store: the clients' states on the `"device"`, or in `"host"` memory, from which each cohort is fetched while the
        one before it trains; `"auto"` where they fit. Results are the same.
      devices: share the cohort over these devices; all that there are, of all processes, if None.
      onboard_rounds: rounds of onboarding for each unseen client.

    Raises:
      ValueError: if an argument is not what it should be, or the model does not fit the data.
    """

    def __init__(
        self,
        task: Task,
        build: Build,
        data: FederatedData,
        *,
        train: FederatedData | None = None,
        cohort: Sampler | None = None,
        executor: Executor = "auto",
        store: Store = "auto",
        devices: Sequence[Device] | None = None,
        onboard_rounds: checks.Size = 5,
    ):
        if devices is not None and not devices:
            raise ValueError("devices=[]: give at least one, such as jax.devices()[:1], or None for all")
        if store == "host" and hosts.together():
            raise ValueError("store='host' serves one process; several spread the client states over their devices")
        process.begin(warn=devices is None)
        tasks.check(task, data)
        self._build, self._executor, self._store = build, executor, store
        axis = sharding.clients(devices)
        self._everywhere, self._spread = sharding.placements(axis, devices)
        self._devices = sorted(self._everywhere.addressable_devices, key=lambda device: device.id)
        self.data = sharding.put(data, self._everywhere)
        self.train = self.data if train is None else sharding.put(train, self._everywhere)
        self.rounds = Rounds(
            task=task,
            cohort=sampling.full() if cohort is None else cohort,
            block=executors.block(executor, task, self.train.num_clients, self._devices),
            axis=axis,
            onboard_rounds=onboard_rounds,
        )
        self._programs = Programs(self._devices, self._shrink)
        self._wire_bytes: tuple[int, int] | None = None

    def __repr__(self) -> str:
        made = self._build.client_update if isinstance(self._build, Algorithm) else self._build
        devices = ", ".join(str(device) for device in self._devices)
        return f"Simulation({brief(made)}, {self.data}, {self.rounds.block} at once on {devices})"

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._programs.seconds

    def algorithm(self, hyper: Mapping[str, Tree], number: Array | int = 0) -> Algorithm:
        """The algorithm of round `number`, from hyperparameters as `traced` makes them.

        Raises:
          ValueError: if they are not those that make it.
        """
        if not isinstance(self._build, Algorithm):
            return checks.spelled()(self._build)(**schedules.at(hyper, number))
        if hyper:
            raise ValueError(
                f"hyper={', '.join(hyper)}: an Algorithm has its numbers already; to trace them give a function, such "
                "as lambda lam: pfl.ditto(task, local, local, lam=lam)"
            )
        return self._build

    def deployed(self, hyper: Mapping[str, Tree], number: Array) -> Algorithm:
        """The algorithm that models are deployed by after `number` rounds: that of the last of them."""
        return self.algorithm(hyper, jnp.maximum(number - 1, 0))

    def init(self, key: Array, **hyper: Hyper) -> State:
        """The state before the first round. Leaves of `clients` are [N, ...]."""
        values = traced(hyper)
        if self._lives_on_host(values):
            return self._init_on_host(key, values)

        def init(key: Array, hyper: Traced) -> State:
            return self.rounds.init(self.algorithm(hyper), key, self.train.num_clients)

        return self._programs.call("init", init, key, values, out=State(*self._placement()))

    def run(self, state: State, key: Array, rounds: int, **hyper: Hyper) -> tuple[State, Log]:
        """Advances by `rounds` rounds. `state` is donated: use the returned one.

        Raises:
          ValueError: if `rounds` is below 1.
        """
        checks.each(checks.Count, rounds=rounds)
        return self.advance(state, key, rounds, 1 << (rounds - 1).bit_length(), **hyper)

    def advance(self, state: State, key: Array, rounds: int, at_most: int, **hyper: Hyper) -> tuple[State, Log]:
        """`run` by a program that serves any number of rounds up to `at_most`."""
        if isinstance(state.clients, store.Hosted):
            return self._advance_on_host(state, key, rounds, at_most, traced(hyper))

        def advance(state: State, key: Array, hyper: Traced, train: FederatedData, rounds: Array) -> Tree:
            def algorithm(number: Array) -> Algorithm:
                return self.algorithm(hyper, number)

            return self.rounds.advance(algorithm, state, key, train, rounds, at_most)

        args = self._place(state), key, traced(hyper), self.train, jnp.asarray(rounds)
        out = State(*self._placement()), self._everywhere
        state, logs = self._programs.call(("rounds", at_most), advance, *args, donate=(0,), out=out)
        return state, {name: np.asarray(leaf)[:rounds] for name, leaf in logs.items()}

    def evaluate(self, state: State, key: Array, **hyper: Hyper) -> dict[str, np.ndarray]:
        """Scores of every client on its own examples, by each model that there is.

        Returns:
          `"{model}/{split}/{metric}" -> [clients]`, NaN for a client without examples in that split. Models are
          `personal` (after adaptation), `global` (before, where the method has a common model), and the two again for
          clients that never trained: `unseen_personal`, `unseen_global`.
        """
        values = traced(hyper)
        if isinstance(state.clients, store.Hosted):
            scores = self._over_host("scores", Rounds.scores, state, key, values)
            if self.data.num_unseen:
                scores |= self._over_host("unseen", Rounds.unseen, state, key, values, unseen=True)
        else:

            def evaluate(state: State, key: Array, hyper: Traced, data: FederatedData) -> Tree:
                return self.rounds.evaluate(self.deployed(hyper, state.round), state, key, data)

            args = self._place(state), key, values, self.data
            scores = self._programs.call("evaluation", evaluate, *args, out=self._everywhere)
        return {name: np.asarray(score) for name, score in scores.items()}

    def personalized(self, state: State, key: Array, **hyper: Hyper) -> Tree:
        """What the clients deploy, leaves [N, ...]; in host memory if the states are."""
        values = traced(hyper)
        if isinstance(state.clients, store.Hosted):
            return self._over_host("personalized", Rounds.personalized, state, key, values)

        def personalized(state: State, key: Array, hyper: Traced, data: FederatedData) -> Tree:
            server, rows, number = state
            clients = jnp.arange(data.num_clients), rows
            return self.rounds.personalized(self.deployed(hyper, number), server, clients, number, key, data)

        return self._programs.call("personalized", personalized, self._place(state), key, values, self.data)

    def model(self, state: State, key: Array, client: int, **hyper: Hyper) -> Tree:
        """What one client deploys; clients from N on are the unseen ones, which are onboarded first."""
        ids, values = np.array([client], np.int32), traced(hyper)
        if client >= self.data.num_clients:
            made = self._part("unseen model", Rounds.unseen_personalized, state, ids, key, values)
        else:
            rows = state.clients.rows if isinstance(state.clients, store.Hosted) else state.clients
            own = ids, jax.tree.map(lambda leaf: leaf[ids], rows)
            made = self._part("model", Rounds.personalized, state, own, key, values)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], made)

    def deploy(self, state: State, key: Array, **hyper: Hyper) -> Deploy:
        """What makes the deployed model of a client by its number, see `model`."""
        outputs = jax.jit(self.deployed(traced(hyper), state.round).predict or self.rounds.task.predict)
        example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data.examples.x)

        def deploy(client: int) -> Deployed:
            return Deployed(self.data.names[client], self.model(state, key, client, **hyper), outputs, example)

        return deploy

    def course(
        self,
        rounds: int,
        eval_every: int,
        patience: int | None,
        *,
        method: str,
        seed: int,
        hyper: Mapping[str, Hyper],
        plan: Plan | None,
    ) -> Course:
        """A run that begins; arguments as in `simulate`."""

        def result(record: Record, *, reason: str | None = None, steps: bool = True) -> Result:
            counted = plan if steps else None
            return self.result(record, method=method, seed=seed, hyper=hyper, plan=counted, reason=reason)

        return Course(rounds, eval_every, patience, result)

    def result(
        self,
        record: Record,
        *,
        method: str,
        seed: int,
        hyper: Mapping[str, Hyper],
        plan: Plan | None,
        reason: str | None = None,
    ) -> Result:
        """What a run has recorded, as a result."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): rows for name, rows in record.items() if name.startswith(prefix)}

        if self._wire_bytes is None:
            self._wire_bytes = accounting.wire_bytes(self.algorithm(traced(hyper)), self.train)
        down, up = self._wire_bytes
        log = part("log:")
        sampled = log["ids"] < self.train.num_clients
        return Result(
            method=method,
            hyper={name: schedules.plain(value) for name, value in hyper.items()},
            seed=seed,
            reason=reason,
            rounds=record["rounds"],
            scores=part("score:"),
            sizes={split: self.data.sizes(split) for split in ("train", "validation", "test")},
            log=log,
            seconds=float(record["seconds"]),
            compile_seconds=float(record["compile_seconds"]),
            client_steps=0 if plan is None else self._steps(log, plan),
            bytes_up=up * int(log["heard"].sum()),
            bytes_down=down * int(sampled.sum()),
            fingerprint=self.data.fingerprint,
            names=self.data.names,
        )

    def program(self, **hyper: Hyper) -> str:
        """A digest of what a round and an evaluation compute, however they are shared out; values of `hyper` aside."""
        rounds = dataclasses.replace(self.rounds, block=1, axis=None)

        def whole(key: Array, hyper: Traced, train: FederatedData, data: FederatedData) -> Tree:
            algorithm = self.algorithm(hyper)
            state = rounds.init(algorithm, key, train.num_clients)
            state, _ = rounds.round(algorithm, state, key, train)
            return rounds.evaluate(algorithm, state, key, data)

        args = jax.random.key(0), traced(hyper), self.train, self.data
        args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
        text = str(jax.make_jaxpr(whole)(*args))
        return files.digest({"program": re.sub(r" at 0x\w+", "", text)})

    def _steps(self, log: Log, plan: Plan) -> int:
        """Local steps of a run: those of the clients that replied."""

        def count(ids: Array, work: Array, train: FederatedData) -> Array:
            return jax.vmap(lambda id, work: plan.steps(train.client(id)._replace(work=work)))(ids, work)

        ids, work = log["ids"].ravel(), jnp.asarray(np.where(log["replied"], log["work"], 0).ravel(), float)
        counts = self._programs.call(("steps", ids.size), count, ids, work, self.train)
        return int(np.asarray(counts, np.int64).sum())

    def _shrink(self, lacking: Shortage) -> None:
        """Takes fewer clients at once where the user left that open."""
        block = self.rounds.block
        fitting = max(1, block * lacking.free // lacking.need)
        if self._executor == "auto" and fitting < block:
            self.rounds = dataclasses.replace(self.rounds, block=fitting)
            return
        remedy = f"executor={fitting}" if fitting < block else "a smaller model or fewer clients"
        raise MemoryError(
            f"the run needs about {lacking.need / 1e9:.1f} GB and {lacking.free / 1e9:.1f} GB are free: try {remedy}"
        )

    def _placement(self) -> tuple[Any, Any, Any]:
        """The shardings of a `State`'s parts: client rows are spread over the devices if their number allows it."""
        even = self.train.num_clients % len(self._everywhere.device_set) == 0
        return self._everywhere, self._spread if even else self._everywhere, self._everywhere

    def _place(self, state: State) -> State:
        """`state` where the programs expect it."""
        return State(*(jax.device_put(part, where) for part, where in zip(state, self._placement(), strict=True)))

    def _row(self, values: Traced) -> Tree:
        """Shapes of one client's state."""

        def first(key: Array) -> Tree:
            algorithm = self.algorithm(values)
            server = self.rounds.server(algorithm, key, self.train.num_clients)
            return self.rounds.clients(algorithm, server, jnp.zeros(1, int), key)

        rows = jax.eval_shape(first, jax.random.key(0))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)

    def _lives_on_host(self, values: Traced) -> bool:
        if self._store != "auto" or hosts.together():
            return self._store == "host"
        free = None if self._devices[0].platform == "cpu" else memory.available(self._devices[0])
        return free is not None and self.train.num_clients * tree.nbytes(self._row(values)) > _DEVICE_SHARE * free

    def _init_on_host(self, key: Array, values: Traced) -> State:
        def server(key: Array, hyper: Traced) -> Tree:
            return self.rounds.server(self.algorithm(hyper), key, self.train.num_clients)

        def clients(key: Array, hyper: Traced, server: Tree, ids: Array) -> Tree:
            return self.rounds.clients(self.algorithm(hyper), server, ids, key)

        row = self._row(values)
        common = self._programs.call("server", server, key, values, out=self._everywhere)
        rows = store.allocate(row, self.train.num_clients)
        for ids in store.chunks(row, self.train.num_clients):
            store.write(rows, ids, self._programs.call("clients", clients, key, values, common, ids))
        return State(common, rows, jax.device_put(jnp.asarray(0), self._everywhere))

    def _advance_on_host(
        self, state: State, key: Array, rounds: int, at_most: int, values: Traced
    ) -> tuple[State, Log]:
        def seat(key: Array, first: Array, hyper: Traced, train: FederatedData) -> Tree:
            def one(number: Array) -> Tree:
                draw = self.rounds.draw(self.algorithm(hyper, number), key, number, train)
                return draw, self.rounds.seat(draw, train)

            return jax.lax.map(one, first + jnp.arange(at_most))

        def train(
            server: Tree, rows: Tree, before: Tree, places: Array, number: Array, *rest: Tree
        ) -> tuple[Tree, Tree, Tree, Array]:
            draw, seats, key, hyper, train = rest
            rows, algorithm = store.patched(rows, before, places), self.algorithm(hyper, number)
            server, rows, log = self.rounds.seated_round(algorithm, server, rows, number, draw, seats, key, train)
            return server, rows, log, number + 1

        args = key, state.round, values, self.train
        cohorts = self._programs.call(("seats", at_most), seat, *args, out=self._everywhere)
        draws, seatings = jax.tree.map(np.asarray, cohorts)
        ids = seatings.ids
        out = self._everywhere, self._spread, self._everywhere, self._everywhere
        server, clients, number = state
        logs, stored, before, previous = [], [], None, np.full_like(ids[0], -1)
        with store.Courier(clients) as courier:
            fetched = courier.fetch(ids[0])
            for n in range(rounds):
                rows = jax.device_put(fetched.result(), self._spread)
                if n + 1 < rounds:
                    fetched = courier.fetch(ids[n + 1])
                places = store.places(ids[n], previous, self.train.num_clients)
                draw, seats = (jax.tree.map(operator.itemgetter(n), part) for part in (draws, seatings))
                args = server, rows, rows if before is None else before, places, number, draw, seats
                args = *args, key, values, self.train
                server, before, log, number = self._programs.call("round", train, *args, out=out)
                stored.append(courier.store(ids[n], before))
                previous = ids[n]
                logs.append(log)
        for done in stored:
            done.result()
        log = jax.tree.map(lambda *rows: np.stack([np.asarray(row) for row in rows]), *logs)
        return State(server, clients, number), log

    def _over_host(
        self,
        name: str,
        function: Callable[..., Tree],
        state: State,
        key: Array,
        values: Traced,
        *,
        unseen: bool = False,
    ) -> Tree:
        """`function` of all clients, or of those that never train, a chunk at a time."""

        first, count = (self.data.num_clients, self.data.num_unseen) if unseen else (0, self.train.num_clients)
        parts = []
        for ids in store.chunks(self._row(values), count):
            clients = first + ids if unseen else (ids, store.read(state.clients, ids))
            parts.append(jax.tree.map(np.asarray, self._part(name, function, state, clients, key, values)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)

    def _part(
        self, name: Hashable, function: Callable[..., Tree], state: State, clients: Tree, key: Array, values: Traced
    ) -> Tree:
        """`function` of `clients`, ids and states or, of those that never train, ids alone."""

        def of(server: Tree, clients: Tree, number: Array, key: Array, hyper: Traced, data: FederatedData) -> Tree:
            return function(self.rounds, self.deployed(hyper, number), server, clients, number, key, data)

        return self._programs.call(name, of, state.server, clients, state.round, key, values, self.data)


def traced(hyper: Mapping[str, Hyper]) -> Traced:
    """Hyperparameters as trees of arrays.

    Raises:
      ValueError: if one is neither a finite number nor a schedule.
    """
    for name, value in hyper.items():
        if not callable(value) and not isinstance(value, Array):
            checks.value(value, float, name)
    return {name: schedules.traced(value) for name, value in hyper.items()}


def check_length(data: FederatedData, rounds: int, eval_every: int, patience: int | None) -> None:
    """Refuses a run that cannot begin or end.

    Raises:
      ValueError: for counts below 1, or patience without validation examples.
    """
    checks.each(checks.Count, rounds=rounds, eval_every=eval_every)
    checks.each(checks.Count | None, patience=patience)
    if patience is not None and not data.sizes("validation").any():
        raise ValueError(
            f"patience={patience}: no client has validation examples; ask for some when the data are dealt, as "
            "validation=0.2 does"
        )


def _alone(run: Callable[P, Result]) -> Callable[P, Result]:
    """Keeps other processes out of the folder of the checkpoints."""

    @functools.wraps(run)
    def held(*args: P.args, **options: P.kwargs) -> Result:
        checkpoint: Any = options.get("checkpoint")
        with contextlib.nullcontext() if checkpoint is None or not hosts.leads() else files.held(checkpoint):
            return run(*args, **options)

    return held


@checks.by_hints(rest=Simulation)
@_alone
def simulate(
    task: Task,
    build: Build,
    data: FederatedData,
    *,
    rounds: checks.Count,
    eval_every: checks.Count = 1,
    patience: checks.Count | None = None,
    seed: checks.Seed = 0,
    hyper: Mapping[str, Hyper] | None = None,
    method: str = "",
    plan: Plan | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Callable[[int, dict[str, np.ndarray]], None] | None = None,
    **options: Any,
) -> Result:
    """A whole run: rounds, an evaluation after every `eval_every` of them and at the end, checkpoints beside those.

    Args:
      task: the model, for predictions.
      build: an algorithm, or a function `(**hyper) -> Algorithm`.
      data: the federation.
      rounds: how many in total.
      eval_every: rounds between two evaluations.
      patience: end after so many evaluations in a row that are no better on validation examples, None: do all rounds.
      seed: of initial models, cohorts and minibatches.
      hyper: hyperparameters for `build`: numbers, or functions of the round (see `schedules`).
      method: name for the result.
      plan: the local minibatches, to count local steps.
      checkpoint: a folder for checkpoints, or None.
      resume: continue from the newest checkpoint, bit for bit as if never interrupted; `rounds` may have grown.
      identity: plain values by which the run is told from others, besides data, method, seed and `hyper`; the program
        if None.
      progress: called as `progress(rounds done, scores)` after every evaluation.
      **options: of `Simulation`.

    Returns:
      Scores [evaluation, client], traffic and times.

    Raises:
      Diverged: if a model is no longer finite; the message names the round and the clients, `result` the evaluations
        before, and the last checkpoint is from before.
      ValueError: if an argument is not what it should be or would have no effect, for a checkpoint of another run or of
        more rounds.
      FileExistsError: if the folder holds checkpoints and `resume` is false.
      BlockingIOError: if another process uses the folder.
    """
    if resume and checkpoint is None:
        raise ValueError("resume=True needs the folder to go on from: give checkpoint=...")
    hyper = hyper or {}
    check_length(data, rounds, eval_every, patience)
    simulation = Simulation(task, build, data, **options)
    course = simulation.course(rounds, eval_every, patience, method=method, seed=seed, hyper=hyper, plan=plan)
    key = jax.random.key(seed)
    state = simulation.init(key, **hyper)
    checkpoints = None
    if checkpoint is not None:
        told = {"method": method, "seed": seed, "hyper": {name: schedules.plain(each) for name, each in hyper.items()}}
        if identity is None:
            traced_by = " and ".join(f"{name} {version}" for name, version in versions().items() if name in _TRACERS)
            identity = {f"the algorithm, as traced by {traced_by},": simulation.program(**hyper)}
        checkpoints = Checkpoints(checkpoint, told | {"data": data.fingerprint} | dict(identity))
        if done := checkpoints.rounds():
            if not resume:
                raise FileExistsError(f"{checkpoint} holds checkpoints: resume the run, or choose another folder")
            check_rounds(rounds, done[-1], checkpoint)
            state, course.record = checkpoints.restore(state)
    at_most = min(eval_every, rounds)
    while not course.over:
        start, compiled = time.perf_counter(), simulation.compile_seconds
        state, log = simulation.advance(state, key, course.fresh, at_most, **hyper)
        scores = simulation.evaluate(state, key, **hyper)
        seconds = time.perf_counter() - start - (simulation.compile_seconds - compiled)
        course.report(log, scores, seconds, simulation.compile_seconds)
        if course.diverged:
            break
        if checkpoints is not None:
            checkpoints.save(state, course.record)
        if progress is not None:
            progress(course.done, scores)
    result = course.end()
    kept = None if hosts.together() else jax.tree.map(np.asarray, state)

    def again() -> Deploy:
        if kept is None:
            raise ValueError("several processes hold these clients: give the folder to pfljax.resume in a single one")
        return Simulation(task, build, data, **options).deploy(kept, key, **hyper)

    return dataclasses.replace(result, models=Models(data.names, again))


def check_rounds(rounds: int, done: int, where: str | Path) -> None:
    """Raises `ValueError` if a run in folder `where` has done more rounds than it shall have."""
    if done > rounds:
        raise ValueError(f"rounds={rounds}: the run in {where} has done {done}; ask for at least {done}")
