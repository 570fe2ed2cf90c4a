"""The engine: a round is one jitted, donated call; a run is a loop of rounds between two evaluations."""

from __future__ import annotations

import dataclasses
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import accounting, executors, hosts, memory, sampling, sharding, store, tree
from pfljax.checkpoint import Checkpoints, Record
from pfljax.data import FederatedData
from pfljax.executors import Executor
from pfljax.memory import Shortage
from pfljax.programs import Programs
from pfljax.results import Result
from pfljax.rounds import Rounds
from pfljax.sampling import Sampler
from pfljax.sharding import Device
from pfljax.types import Algorithm, Array, Params, Plan, State, Task, Tree

Build = Algorithm | Callable[..., Algorithm]
"""An algorithm, or what makes one from hyperparameters `**hyper`, which are then traced."""

Log = dict[str, np.ndarray]
"""`ids`, `replied`, `work`, `heard`, `finite`: [rounds, M]; `server_finite`: [rounds]."""

Store = Literal["auto", "device", "host"]
"""Where the clients' states live."""

# On an accelerator the states may take this share of the free memory; the rest is for training.
_DEVICE_SHARE = 0.4


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
      ValueError: if executor or store are unknown.
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
        onboard_rounds: int = 5,
    ):
        executors.check(executor)
        if store not in ("auto", "device", "host"):
            raise ValueError(f"store={store!r}: choose 'auto', 'device' or 'host'")
        if store == "host" and hosts.together():
            raise ValueError("store='host' serves one process; several spread the client states over their devices")
        if devices is None:
            sharding.hint()
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

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._programs.seconds

    def algorithm(self, hyper: dict[str, Any]) -> Algorithm:
        """The algorithm at these hyperparameters."""
        return self._build if isinstance(self._build, Algorithm) else self._build(**hyper)

    def init(self, key: Array, **hyper: Array | float) -> State:
        """The state before the first round. Leaves of `clients` are [N, ...]."""
        values = floats(hyper)
        if self._lives_on_host(values):
            return self._init_on_host(key, values)

        def init(key: Array, hyper: dict[str, Array]) -> State:
            return self.rounds.init(self.algorithm(hyper), key, self.train.num_clients)

        return self._programs.call("init", init, key, values, out=State(*self._placement()))

    def run(self, state: State, key: Array, rounds: int, **hyper: Array | float) -> tuple[State, Log]:
        """Advances by `rounds` rounds. `state` is donated: use the returned one.

        Raises:
          ValueError: if `rounds` is below 1.
        """
        if rounds < 1:
            raise ValueError(f"rounds={rounds}: it must be at least 1")
        return self.advance(state, key, rounds, 1 << (rounds - 1).bit_length(), **hyper)

    def advance(self, state: State, key: Array, rounds: int, at_most: int, **hyper: Array | float) -> tuple[State, Log]:
        """`run` by a program that serves any number of rounds up to `at_most`."""
        if isinstance(state.clients, store.Hosted):
            return self._advance_on_host(state, key, rounds, at_most, floats(hyper))

        def advance(state: State, key: Array, hyper: dict[str, Array], train: FederatedData, rounds: Array) -> Tree:
            return self.rounds.advance(self.algorithm(hyper), state, key, train, rounds, at_most)

        args = self._place(state), key, floats(hyper), self.train, jnp.asarray(rounds)
        out = State(*self._placement()), self._everywhere
        state, logs = self._programs.call(("rounds", at_most), advance, *args, donate=(0,), out=out)
        return state, {name: np.asarray(leaf)[:rounds] for name, leaf in logs.items()}

    def evaluate(self, state: State, key: Array, **hyper: Array | float) -> dict[str, np.ndarray]:
        """Scores of every client on its own examples, by each model that there is.

        Returns:
          `"{model}/{split}/{metric}" -> [clients]`, NaN for a client without examples in that split. Models are
          `personal` (after adaptation), `global` (before, where the method has a common model), and the two again for
          clients that never trained: `unseen_personal`, `unseen_global`.
        """
        values = floats(hyper)
        if isinstance(state.clients, store.Hosted):

            def unseen(server: Tree, number: Array, key: Array, hyper: dict[str, Array], data: FederatedData) -> Tree:
                return self.rounds.unseen(self.algorithm(hyper), server, number, key, data)

            scores = self._over_host("scores", Rounds.scores, state, key, values)
            scores |= self._programs.call("unseen", unseen, state.server, state.round, key, values, self.data)
        else:

            def evaluate(state: State, key: Array, hyper: dict[str, Array], data: FederatedData) -> Tree:
                return self.rounds.evaluate(self.algorithm(hyper), state, key, data)

            args = self._place(state), key, values, self.data
            scores = self._programs.call("evaluation", evaluate, *args, out=self._everywhere)
        return {name: np.asarray(score) for name, score in scores.items()}

    def personalized(self, state: State, key: Array, **hyper: Array | float) -> Params:
        """The models that the clients deploy, leaves [N, ...]; in host memory if the states are."""
        values = floats(hyper)
        if isinstance(state.clients, store.Hosted):
            return self._over_host("personalized", Rounds.personalized, state, key, values)

        def personalized(state: State, key: Array, hyper: dict[str, Array], data: FederatedData) -> Params:
            server, clients, number = state
            ids = jnp.arange(data.num_clients)
            return self.rounds.personalized(self.algorithm(hyper), server, clients, ids, number, key, data)

        return self._programs.call("personalized", personalized, self._place(state), key, values, self.data)

    def result(self, record: Record, *, method: str, seed: int, hyper: dict[str, float], plan: Plan | None) -> Result:
        """What a run has recorded, as a result."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): rows for name, rows in record.items() if name.startswith(prefix)}

        if self._wire_bytes is None:
            self._wire_bytes = accounting.wire_bytes(self.algorithm(floats(hyper)), self.train)
        down, up = self._wire_bytes
        log = part("log:")
        sampled = log["ids"] < self.train.num_clients
        return Result(
            method=method,
            hyper=hyper,
            seed=seed,
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
        )

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

    def _row(self, values: dict[str, Array]) -> Tree:
        """Shapes of one client's state."""

        def first(key: Array) -> Tree:
            algorithm = self.algorithm(values)
            server = self.rounds.server(algorithm, key, self.train.num_clients)
            return self.rounds.clients(algorithm, server, jnp.zeros(1, int), key)

        rows = jax.eval_shape(first, jax.random.key(0))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)

    def _lives_on_host(self, values: dict[str, Array]) -> bool:
        if self._store != "auto" or hosts.together():
            return self._store == "host"
        free = None if self._devices[0].platform == "cpu" else memory.available(self._devices[0])
        return free is not None and self.train.num_clients * tree.nbytes(self._row(values)) > _DEVICE_SHARE * free

    def _init_on_host(self, key: Array, values: dict[str, Array]) -> State:
        def server(key: Array, hyper: dict[str, Array]) -> Tree:
            return self.rounds.server(self.algorithm(hyper), key, self.train.num_clients)

        def clients(key: Array, hyper: dict[str, Array], server: Tree, ids: Array) -> Tree:
            return self.rounds.clients(self.algorithm(hyper), server, ids, key)

        row = self._row(values)
        common = self._programs.call("server", server, key, values, out=self._everywhere)
        rows = store.allocate(row, self.train.num_clients)
        for ids in store.chunks(row, self.train.num_clients):
            store.write(rows, ids, self._programs.call("clients", clients, key, values, common, ids))
        return State(common, rows, jax.device_put(jnp.asarray(0), self._everywhere))

    def _advance_on_host(
        self, state: State, key: Array, rounds: int, at_most: int, values: dict[str, Array]
    ) -> tuple[State, Log]:
        def seat(key: Array, first: Array, hyper: dict[str, Array], train: FederatedData) -> Tree:
            def one(number: Array) -> Tree:
                draw = self.rounds.draw(self.algorithm(hyper), key, number, train)
                return draw, self.rounds.seat(draw, train)

            return jax.lax.map(one, first + jnp.arange(at_most))

        def train(
            server: Tree, rows: Tree, before: Tree, places: Array, number: Array, *rest: Tree
        ) -> tuple[Tree, Tree, Tree, Array]:
            draw, seats, key, hyper, train = rest
            rows, algorithm = store.patched(rows, before, places), self.algorithm(hyper)
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
        self, name: str, function: Callable[..., Tree], state: State, key: Array, values: dict[str, Array]
    ) -> Tree:
        """`function` of all clients, a chunk at a time."""

        def of(
            server: Tree,
            rows: Tree,
            ids: Array,
            number: Array,
            key: Array,
            hyper: dict[str, Array],
            data: FederatedData,
        ) -> Tree:
            return function(self.rounds, self.algorithm(hyper), server, rows, ids, number, key, data)

        parts = []
        for ids in store.chunks(self._row(values), self.train.num_clients):
            args = state.server, store.read(state.clients, ids), ids, state.round, key, values, self.data
            parts.append(jax.tree.map(np.asarray, self._programs.call(name, of, *args)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: self.train.num_clients], *parts)


def floats(hyper: Mapping[str, Array | float]) -> dict[str, Array]:
    """Hyperparameters as arrays."""
    return {name: jnp.asarray(value, float) for name, value in hyper.items()}


class Diverged(RuntimeError):
    """A model became NaN or infinite."""


def simulate(
    task: Task,
    build: Build,
    data: FederatedData,
    *,
    rounds: int,
    eval_every: int = 1,
    seed: int = 0,
    hyper: dict[str, float] | None = None,
    method: str = "",
    plan: Plan | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
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
      seed: of initial models, cohorts and minibatches.
      hyper: hyperparameters for `build`.
      method: name for the result.
      plan: the local minibatches, to count local steps.
      checkpoint: a folder for checkpoints, or None.
      resume: continue from the newest checkpoint, bit for bit as if never interrupted.
      progress: called as `progress(rounds done, scores)` after every evaluation.
      **options: of `Simulation`.

    Returns:
      Scores [evaluation, client], traffic and times.

    Raises:
      Diverged: if a model is no longer finite; the message names the round and the clients, and the last checkpoint is
        from before.
      ValueError: for counts below 1.
    """
    if rounds < 1 or eval_every < 1:
        raise ValueError(f"rounds={rounds}, eval_every={eval_every}: both must be at least 1")
    hyper = hyper or {}
    simulation = Simulation(task, build, data, **options)
    key = jax.random.key(seed)
    state = simulation.init(key, **hyper)
    record: Record = {}
    checkpoints = None if checkpoint is None else Checkpoints(checkpoint)
    if checkpoints is not None and resume and checkpoints.rounds():
        state, record = checkpoints.restore(state)
    seconds, at_most = float(record.get("seconds", 0.0)), min(eval_every, rounds)
    while (done := int(state.round)) < rounds:
        start, compiled = time.perf_counter(), simulation.compile_seconds
        state, log = simulation.advance(state, key, min(eval_every, rounds - done), at_most, **hyper)
        check_finite(log, done)
        scores = simulation.evaluate(state, key, **hyper)
        seconds += time.perf_counter() - start - (simulation.compile_seconds - compiled)
        record = extended(record, int(state.round), scores, log)
        record |= {"seconds": np.asarray(seconds), "compile_seconds": np.asarray(simulation.compile_seconds)}
        if checkpoints is not None:
            checkpoints.save(state, record)
        if progress is not None:
            progress(int(state.round), scores)
    return simulation.result(record, method=method, seed=seed, hyper=hyper, plan=plan)


def check_finite(log: Log, done: int) -> None:
    """Raises `Diverged` at the first round of `log`, which begins after `done` rounds, that left a model not finite."""
    bad = ~(log["finite"].all(axis=1) & log["server_finite"])
    if bad.any():
        number = int(np.argmax(bad))
        clients = log["ids"][number][~log["finite"][number]].tolist()
        who = f"clients {clients}" if clients else "the server"
        raise Diverged(f"round {done + number + 1}: the model of {who} is no longer finite; try a smaller lr")


def extended(record: Record, done: int, scores: dict[str, np.ndarray], log: Log) -> Record:
    """`record` with one more evaluation and the rounds before it."""
    fresh = {"rounds": np.asarray([done])}
    fresh |= {f"score:{name}": score[None] for name, score in scores.items()}
    fresh |= {f"log:{name}": rows for name, rows in log.items()}
    return {name: np.concatenate([record[name], rows]) if name in record else rows for name, rows in fresh.items()}
