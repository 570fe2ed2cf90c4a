"""The engine: a round is one jitted, donated call; a run is a loop of rounds between two evaluations."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pfljax import accounting, local, memory, sampling, sharding, tree
from pfljax.checkpoint import Checkpoints, Record
from pfljax.data import FederatedData
from pfljax.results import Result
from pfljax.sampling import Draw, Sampler
from pfljax.sharding import Device
from pfljax.types import Algorithm, Array, ClientData, Cohort, Params, Plan, State, Task, Tree

Build = Algorithm | Callable[..., Algorithm]
"""An algorithm, or what makes one from hyperparameters `**hyper`, which are then traced."""

Executor = Literal["auto", "vmap", "sequential"] | int
"""All clients at once, one by one, or blocks of so many."""

Log = dict[str, np.ndarray]
"""`ids`, `replied`, `work`, `finite`: [rounds, M]; `server_finite`: [rounds]."""

_INIT, _COHORT, _CLIENTS, _SERVER, _EVALUATION = 2**32 - 1, 0, 1, 2, 3


# On a CPU small models gain from a few clients at once, large ones from staying in the cache.
_CPU_BLOCK, _CACHED_PARAMS = 8, 100_000


def _client_key(key: Array, id: Array) -> Array:
    return jax.random.fold_in(jax.random.fold_in(key, _CLIENTS), id)


class Simulation:
    """One method on one federation, compiled once for any hyperparameter values, keys and numbers of rounds.

    Args:
      task: the model, for predictions.
      build: an algorithm, or a function `(**hyper) -> Algorithm`.
      data: the federation that is evaluated.
      train: the federation that trains, `data` if None (centralized training uses `data.pooled()`).
      cohort: who takes part in a round.
      executor: `"vmap"`, `"sequential"`, a block size, or `"auto"`. Results are the same.
      devices: share the cohort over these devices; all that there are if None.
      onboard_rounds: rounds of onboarding for each unseen client.

    Raises:
      ValueError: if the executor is unknown.
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
        devices: Sequence[Device] | None = None,
        onboard_rounds: int = 5,
    ):
        if not (executor in ("auto", "vmap", "sequential") or (isinstance(executor, int) and executor > 0)):
            raise ValueError(f"executor={executor!r}: choose 'auto', 'vmap', 'sequential' or a positive block size")
        self.task = task
        self._mesh = sharding.mesh(devices)
        self.data = jax.device_put(data, self._everywhere)
        self.train = self.data if train is None else jax.device_put(train, self._everywhere)
        self.compile_seconds = 0.0
        self._build = build
        self._cohort = sampling.full() if cohort is None else cohort
        self._executor = executor
        self._onboard_rounds = onboard_rounds
        self._programs: dict[tuple[str, int], Any] = {}

    def algorithm(self, hyper: dict[str, Any]) -> Algorithm:
        """The algorithm at these hyperparameters."""
        return self._build if isinstance(self._build, Algorithm) else self._build(**hyper)

    def init(self, key: Array, **hyper: Array | float) -> State:
        """The state before the first round. Leaves of `clients` are [N, ...]."""

        def init(key: Array, hyper: dict[str, Array]) -> State:
            algorithm = self.algorithm(hyper)
            key = jax.random.fold_in(key, _INIT)
            server = algorithm.init_server(key, self.train.num_clients)
            clients = jax.vmap(lambda id: algorithm.init_client(algorithm.download(server, id), id, key))(
                jnp.arange(self.train.num_clients)
            )
            return State(server, clients, jnp.asarray(0))

        return self._program("init", 0, init, out=self._placement())(key, _floats(hyper))

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

        def advance(
            state: State, train: FederatedData, key: Array, hyper: dict[str, Array], rounds: Array
        ) -> tuple[State, Tree]:
            algorithm = self.algorithm(hyper)

            def step(number: Array, carry: tuple[State, Tree]) -> tuple[State, Tree]:
                state, logs = carry
                state, log = self._round(algorithm, state, train, key)
                return state, jax.tree.map(lambda all, new: all.at[number].set(new), logs, log)

            return jax.lax.fori_loop(0, rounds, step, (state, self._logs(at_most)))

        program = self._program("advance", at_most, advance, donate=(0,), out=(self._placement(), self._everywhere))
        state = self._place(state)
        state, logs = program(state, self.train, key, _floats(hyper), jnp.asarray(rounds))
        return state, {name: np.asarray(leaf)[:rounds] for name, leaf in logs.items()}

    def evaluate(self, state: State, key: Array, **hyper: Array | float) -> dict[str, np.ndarray]:
        """Scores of every client on its own examples, by each model that there is.

        Returns:
          `"{model}/{split}/{metric}" -> [clients]`, NaN for a client without examples in that split. Models are
          `personal` (after adaptation), `global` (before, where the method has a common model), and the two again for
          clients that never trained: `unseen_personal`, `unseen_global`.
        """

        def evaluate(state: State, data: FederatedData, key: Array, hyper: dict[str, Array]) -> Tree:
            algorithm = self.algorithm(hyper)
            scores = self._scores(algorithm, state, data, key, unseen=False)
            if data.num_unseen:
                unseen = self._scores(algorithm, state, data, key, unseen=True)
                scores |= {f"unseen_{name}": score for name, score in unseen.items()}
            return scores

        scores = self._program("evaluate", 0, evaluate)(state, self.data, key, _floats(hyper))
        return {name: np.asarray(score) for name, score in scores.items()}

    def personalized(self, state: State, key: Array, **hyper: Array | float) -> Params:
        """The models that the clients deploy, leaves [N, ...]."""

        def personalized(state: State, data: FederatedData, key: Array, hyper: dict[str, Array]) -> Params:
            algorithm = self.algorithm(hyper)
            deploy = self._deployed(algorithm, state, data, key, unseen=False)
            return self._over_clients(lambda id, row: deploy(id, row)[0], state.clients, data, unseen=False)

        return self._program("personalized", 0, personalized)(state, self.data, key, _floats(hyper))

    def result(self, record: Record, *, method: str, seed: int, hyper: dict[str, float], plan: Plan | None) -> Result:
        """What a run has recorded, as a result."""

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): rows for name, rows in record.items() if name.startswith(prefix)}

        log = part("log:")
        down, up = accounting.wire_bytes(self.algorithm(_floats(hyper)), self.train)
        replied = log["replied"]
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
            bytes_up=up * int(replied.sum()),
            bytes_down=down * int(sampled.sum()),
            fingerprint=self.data.fingerprint,
        )

    def _steps(self, log: Log, plan: Plan) -> int:
        """Local steps of a run: those of the clients that replied."""
        work = jnp.asarray(np.where(log["replied"], log["work"], 0).ravel(), float)

        def one(id: Array, work: Array) -> Array:
            return plan.steps(self.train.client(id)._replace(work=work))

        return int(jax.jit(jax.vmap(one))(jnp.asarray(log["ids"].ravel()), work).sum())

    @property
    def _everywhere(self) -> Any:
        return None if self._mesh is None else NamedSharding(self._mesh, PartitionSpec())

    def _placement(self) -> Any:
        """The shardings of a `State`: client rows are spread over the devices if their number allows it."""
        if self._mesh is None:
            return None
        spread = self.train.num_clients % self._mesh.size == 0
        rows = NamedSharding(self._mesh, PartitionSpec(sharding.AXIS)) if spread else self._everywhere
        return State(self._everywhere, rows, self._everywhere)

    def _program(
        self, name: str, length: int, function: Callable, donate: tuple[int, ...] = (), out: Any = None
    ) -> Callable:
        """`function` compiled once, its compilation timed."""

        def call(*args: Tree) -> Tree:
            if (name, length) not in self._programs:
                start = time.perf_counter()
                jitted = jax.jit(function, donate_argnums=donate, out_shardings=out)
                self._programs[name, length] = jitted.lower(*args).compile()
                self.compile_seconds += time.perf_counter() - start
                clients = self.train.num_clients
                memory.check(self._programs[name, length], jax.local_devices()[0], self._block(clients))
            return self._programs[name, length](*args)

        return call

    def _place(self, state: State) -> State:
        """`state` where `run` expects it."""
        placement = self._placement()
        if placement is None:
            return state
        server, clients, number = (jax.device_put(part, where) for part, where in zip(state, placement, strict=True))
        return State(server, clients, number)

    def _logs(self, length: int) -> dict[str, Array]:
        draw = jax.eval_shape(self._cohort, jax.random.key(0), self.train.train.size[: self.train.num_clients])
        one = draw._asdict() | {"finite": draw.replied, "server_finite": jax.ShapeDtypeStruct((), bool)}
        return {name: jnp.zeros((length, *leaf.shape), leaf.dtype) for name, leaf in one.items()}

    def _block(self, cohort: int) -> int:
        """Clients at once."""
        if isinstance(self._executor, int):
            return self._executor
        if self._executor != "auto":
            return {"vmap": cohort, "sequential": 1}[self._executor]
        if jax.default_backend() != "cpu":
            return cohort
        params = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(self.task.init, jax.random.key(0))))
        return max(1, min(_CPU_BLOCK, _CACHED_PARAMS // params))

    def _round(self, algorithm: Algorithm, state: State, train: FederatedData, key: Array) -> tuple[State, dict]:
        key = jax.random.fold_in(key, state.round)
        num_clients = train.num_clients
        sizes = train.train.size[:num_clients]
        draw = self._cohort(jax.random.fold_in(key, _COHORT), sizes)
        draw = draw._replace(replied=draw.replied & (jnp.take(sizes, draw.ids, mode="clip") > 0))
        cohort = draw.ids.shape[0]
        plan = sharding.layout(cohort, self._block(cohort), self._mesh)

        padding = plan.slots - cohort
        ids, replied, work = Draw(
            jnp.pad(draw.ids, (0, padding), constant_values=num_clients),
            jnp.pad(draw.replied, (0, padding)),
            jnp.pad(draw.work, (0, padding)),
        )
        weights = jnp.where(replied, jnp.take(sizes, ids, mode="clip"), 0).astype(float)
        order = sharding.order(weights * work, plan)
        rows = jax.tree.map(lambda leaf: jnp.take(leaf, ids[order], axis=0, mode="clip"), state.clients)

        def one(shared: Tree, row: Tree) -> tuple[Tree, Tree]:
            server, train, key = shared
            (id, replied, work, weight), client = row
            data = train.client(id)._replace(work=jnp.where(replied, work, 0))
            reply = algorithm.client_update(algorithm.download(server, id), client, data, _client_key(key, id))
            finite = tree.finite(reply) | ~replied
            upload = jax.tree.map(lambda leaf: jnp.where(replied, leaf, 0), reply.upload)
            term = algorithm.reduce.lift(upload, weight)
            kept = tree.where(replied, reply.client, client), finite
            return (term, kept) if algorithm.reduce.summed else ((), (kept, term))

        slots = (ids[order], replied[order], work[order], weights[order])
        total, kept = sharding.walk(one, (state.server, train, key), (slots, rows), plan)
        back = jnp.argsort(order)
        if algorithm.reduce.summed:
            (rows, finite), terms = kept, total
        else:
            (rows, finite), terms = kept
            terms = jax.tree.map(lambda leaf: leaf[back][:cohort], terms)
        weights = weights[:cohort]
        view = Cohort(draw.ids, algorithm.reduce.lower(terms, weights), weights)
        server = algorithm.server_update(state.server, view, jax.random.fold_in(key, _SERVER))
        server = tree.where(jnp.any(weights > 0), server, state.server)
        clients = jax.tree.map(lambda leaf, new: leaf.at[ids[order]].set(new, mode="drop"), state.clients, rows)
        log = draw._asdict() | {"finite": finite[back][:cohort], "server_finite": tree.finite(server)}
        return State(server, clients, state.round + 1), log

    def _deployed(
        self, algorithm: Algorithm, state: State, data: FederatedData, key: Array, *, unseen: bool
    ) -> Callable[[Array, Tree], tuple[Params, Params | None]]:
        """`(id, row) -> (personal model, common model)` of one client."""
        first = jax.random.fold_in(key, _INIT)
        key = jax.random.fold_in(jax.random.fold_in(key, state.round), _EVALUATION)

        def deployed(id: Array, client: Tree) -> tuple[Params, Params | None]:
            download, view, own = algorithm.download(state.server, id), data.client(id), _client_key(key, id)
            if unseen:
                client = algorithm.init_client(download, id, first)
                client = jax.lax.fori_loop(
                    0,
                    self._onboard_rounds,
                    lambda number, client: algorithm.onboard(download, client, view, jax.random.fold_in(own, number)),
                    client,
                )
            common = algorithm.server_model(download, client) if algorithm.server_model else None
            return algorithm.personalize(download, client, view, own), common

        return deployed

    def _scores(
        self, algorithm: Algorithm, state: State, data: FederatedData, key: Array, *, unseen: bool
    ) -> dict[str, Array]:
        deploy = self._deployed(algorithm, state, data, key, unseen=unseen)

        def score(params: Params, view: ClientData) -> dict[str, Array]:
            def of(batch: Any) -> dict[str, Array]:
                measured = self.task.measure(self.task.predict(params, batch.x), batch.y)
                return {k: jnp.sum(v * batch.mask) / jnp.maximum(jnp.sum(batch.mask), 1) for k, v in measured.items()}

            means = local.average(of, view, batch_size=64)
            return jax.tree.map(lambda mean: jnp.where(view.size > 0, mean, jnp.nan), means)

        def one(id: Array, row: Tree) -> dict[str, Array]:
            personal, common = deploy(id, row)
            models = {"personal": personal} | ({} if common is None else {"global": common})
            return {
                f"{model}/{split}/{metric}": value
                for model, params in models.items()
                for split in ("validation", "test")
                for metric, value in score(params, data.client(id, split)).items()
            }

        return self._over_clients(one, state.clients, data, unseen=unseen)

    def _over_clients(
        self, one: Callable[[Array, Tree], Tree], clients: Tree, data: FederatedData, *, unseen: bool
    ) -> Tree:
        first, count = (data.num_clients, data.num_unseen) if unseen else (0, data.num_clients)
        plan = sharding.layout(count, self._block(count), self._mesh)
        ids = first + jnp.arange(plan.slots)
        rows = jax.tree.map(lambda leaf: jnp.take(leaf, ids, axis=0, mode="clip"), clients)
        _, kept = sharding.walk(lambda _, row: ((), one(*row)), (), (ids, rows), plan)
        return jax.tree.map(lambda leaf: leaf[:count], kept)


def _floats(hyper: Mapping[str, Array | float]) -> dict[str, Array]:
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
        _check_finite(log, done)
        scores = simulation.evaluate(state, key, **hyper)
        seconds += time.perf_counter() - start - (simulation.compile_seconds - compiled)
        record = _extended(record, int(state.round), scores, log)
        record |= {"seconds": np.asarray(seconds), "compile_seconds": np.asarray(simulation.compile_seconds)}
        if checkpoints is not None:
            checkpoints.save(state, record)
        if progress is not None:
            progress(int(state.round), scores)
    return simulation.result(record, method=method, seed=seed, hyper=hyper, plan=plan)


def _check_finite(log: Log, done: int) -> None:
    bad = ~(log["finite"].all(axis=1) & log["server_finite"])
    if bad.any():
        number = int(np.argmax(bad))
        clients = log["ids"][number][~log["finite"][number]].tolist()
        who = f"clients {clients}" if clients else "the server"
        raise Diverged(f"round {done + number + 1}: the model of {who} is no longer finite; try a smaller lr")


def _extended(record: Record, done: int, scores: dict[str, np.ndarray], log: Log) -> Record:
    """`record` with one more evaluation and the rounds before it."""
    fresh = {"rounds": np.asarray([done])}
    fresh |= {f"score:{name}": score[None] for name, score in scores.items()}
    fresh |= {f"log:{name}": rows for name, rows in log.items()}
    return {name: np.concatenate([record[name], rows]) if name in record else rows for name, rows in fresh.items()}
