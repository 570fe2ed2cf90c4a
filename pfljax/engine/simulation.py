"""The engine: a round is one jitted, donated call; a run is a loop of rounds between two evaluations."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks, files
from pfljax.data import FederatedData, groups
from pfljax.engine import accounting, blocks, census, hosts, mesh, process
from pfljax.engine.blocks import Executor
from pfljax.engine.checkpoint import Record
from pfljax.engine.course import Course, Log
from pfljax.engine.mesh import Device
from pfljax.engine.residence import Residence, Store, choose, part
from pfljax.engine.rounds import Rounds
from pfljax.engine.site import Build, Hyper, Site, Traced, traced
from pfljax.federation import sampling
from pfljax.federation.sampling import Sampler
from pfljax.learning import schedules, tasks
from pfljax.printing import brief
from pfljax.results.deployed import Deploy, Deployed
from pfljax.results.result import Result
from pfljax.results.scores import Scores
from pfljax.types import Algorithm, Array, Plan, Selector, State, Task, Tree


@checks.by_hints()
class Simulation:
    """One method on one federation, compiled once for any hyperparameter values, keys and numbers of rounds.

    Args:
      task: the model, for predictions; one for each kind of clients where they are of several (`federation.kinds`),
        whose trait `kind` says which.
      build: an algorithm, or a function `(**hyper) -> Algorithm`.
      data: the federation that is evaluated.
      train: the federation that trains, `data` if None (centralized training uses `data.pooled()`).
      cohort: who takes part in a round; a selector learns it from what the clients report.
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
        task: Task | Sequence[Task],
        build: Build,
        data: FederatedData,
        *,
        train: FederatedData | None = None,
        cohort: Sampler | Selector | None = None,
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
        of_kinds = (task,) if isinstance(task, Task) else tuple(task)
        kinds, counts = census.taken(data, data if train is None else train, len(of_kinds))
        for one in of_kinds:
            tasks.check(one, data)
        axis = mesh.clients(devices)
        everywhere, spread = mesh.placements(axis, devices)
        local = sorted(everywhere.addressable_devices, key=lambda device: device.id)
        placed = mesh.put(data, everywhere)
        training = placed if train is None else mesh.put(train, everywhere)
        rounds = Rounds(
            tasks=of_kinds,
            selector=sampling.selector(sampling.full() if cohort is None else cohort),
            blocks=tuple(blocks.size(executor, one, n, local) for one, (n, _) in zip(of_kinds, counts, strict=True)),
            axis=axis,
            onboard_rounds=onboard_rounds,
            capacity=max(data.most("validation"), data.most("test")),
            census=counts if len(of_kinds) > 1 else (),
        )
        self.site = Site(build, placed, training, rounds, local, kinds, everywhere, spread, executor == "auto")
        self._store: Store = store
        self._residence: Residence | None = None
        self._wire_bytes: list[tuple[int, int]] | None = None

    def __repr__(self) -> str:
        build = self.site.build
        made = build.client_update if isinstance(build, Algorithm) else build
        devices = ", ".join(str(device) for device in self.site.devices)
        return f"Simulation({brief(made)}, {self.data}, {', '.join(map(str, self.rounds.blocks))} at once on {devices})"

    @property
    def data(self) -> FederatedData:
        """The federation that is evaluated, on the devices."""
        return self.site.data

    @property
    def rounds(self) -> Rounds:
        """The rounds that are compiled."""
        return self.site.rounds

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self.site.programs.seconds

    def init(self, key: Array, **hyper: Hyper) -> State:
        """The state before the first round. Leaves of `clients` are [N, ...]."""
        values = traced(hyper)
        return self._home(values).init(key, values)

    def run(self, state: State, key: Array, rounds: int, **hyper: Hyper) -> tuple[State, Log]:
        """Advances by `rounds` rounds. `state` is donated: use the returned one.

        Raises:
          ValueError: if `rounds` is below 1.
        """
        checks.each(checks.Count, rounds=rounds)
        return self.advance(state, key, rounds, 1 << (rounds - 1).bit_length(), **hyper)

    def advance(self, state: State, key: Array, rounds: int, at_most: int, **hyper: Hyper) -> tuple[State, Log]:
        """`run` by a program that serves any number of rounds up to `at_most`."""
        values = traced(hyper)
        return self._home(values).advance(state, key, rounds, at_most, values)

    def evaluate(self, state: State, key: Array, **hyper: Hyper) -> Scores:
        """Scores of every client on its own examples, by each model that there is.

        Returns:
          `(model, split, metric) -> [clients]`, NaN for a client without examples in that split. Models are
          `personal` (after adaptation), `global` (before, where the method has a common model), and the two again for
          clients that never trained: `unseen_personal`, `unseen_global`.
        """
        values = traced(hyper)
        scores = self._home(values).evaluate(state, key, values)
        return {name: np.asarray(score) for name, score in scores.items()}

    def personalized(self, state: State, key: Array, **hyper: Hyper) -> Tree:
        """What the clients deploy, leaves [N, ...]; in host memory if the states are."""
        values = traced(hyper)
        return self._home(values).personalized(state, key, values)

    def model(self, state: State, key: Array, client: int, **hyper: Hyper) -> Tree:
        """What one client deploys; clients from N on are the unseen ones, which are onboarded first."""
        ids, values, kind = np.array([client], np.int32), traced(hyper), int(self.site.kinds[client])
        if client >= self.data.num_clients:
            made = part(self.site, "unseen model", Rounds.unseen_personalized, state, ids, kind, key, values)
        else:
            own = ids, self._home(values).rows(state, ids, kind)
            made = part(self.site, "model", Rounds.personalized, state, own, kind, key, values)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[0], made)

    def deploy(self, state: State, key: Array, **hyper: Hyper) -> Deploy:
        """What makes the deployed model of a client by its number, see `model`."""
        algorithm = self.site.deployed(traced(hyper), state.round)
        outputs = [jax.jit(algorithm.of(n).predict or task.predict) for n, task in enumerate(self.rounds.tasks)]
        example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), self.data.examples.x)

        def deploy(client: int) -> Deployed:
            own = outputs[self.site.kinds[client]]
            params, called = self.model(state, key, client, **hyper), self.data.called
            return Deployed(self.data.names[client], params, own, example, called.classes, called.inputs, client)

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
            algorithm = self.site.algorithm(traced(hyper))
            kinds = range(len(self.rounds.tasks))
            self._wire_bytes = [accounting.wire_bytes(algorithm.of(kind), self.site.train) for kind in kinds]
        log = part("log:")
        sampled = log["ids"] < self.site.train.num_clients
        down, up = np.array(self._wire_bytes)[self.site.kinds[np.where(sampled, log["ids"], 0)]].transpose(2, 0, 1)
        done = int(record["rounds"][-1])
        last = self.data.after(done)
        return Result(
            method=method,
            hyper={name: schedules.plain(value) for name, value in hyper.items()},
            seed=seed,
            reason=reason,
            rounds=record["rounds"],
            scores=part("score:"),
            sizes={split: last.sizes(split) for split in ("train", "validation", "test")},
            log=log,
            seconds=float(record["seconds"]),
            compile_seconds=float(record["compile_seconds"]),
            client_steps=0 if plan is None else self._steps(log, done, plan),
            bytes_up=int(up[log["heard"]].sum()),
            bytes_down=int(down[sampled].sum()),
            fingerprint=self.data.fingerprint,
            names=self.data.names,
            groups=() if (known := groups.truth(self.data)) is None else known.tolist(),
        )

    def program(self, **hyper: Hyper) -> str:
        """A digest of what a round and an evaluation compute, however they are shared out; values of `hyper` aside."""
        rounds = dataclasses.replace(self.rounds, blocks=(1,) * len(self.rounds.blocks), axis=None)

        def whole(key: Array, hyper: Traced, train: FederatedData, data: FederatedData) -> Tree:
            algorithm = self.site.algorithm(hyper)
            state = rounds.init(algorithm, key, train)
            state, _ = rounds.round(algorithm, state, key, train)
            return rounds.evaluate(algorithm, state, key, data)

        args = jax.random.key(0), traced(hyper), self.site.train, self.data
        args = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
        text = str(jax.make_jaxpr(whole)(*args))
        return files.digest({"program": re.sub(r" at 0x\w+", "", text)})

    def _steps(self, log: Log, done: int, plan: Plan) -> int:
        """Local steps of the rounds up to `done`: those of the clients that replied."""

        def count(ids: Array, work: Array, numbers: Array, train: FederatedData) -> Array:
            def steps(id: Array, work: Array, number: Array) -> Array:
                return plan.steps(train.at(number).client(id)._replace(work=work))

            return jax.vmap(steps)(ids, work, numbers)

        rounds, seats = log["ids"].shape
        numbers = np.repeat(np.arange(done - rounds, done, dtype=np.int32), seats)
        ids, work = log["ids"].ravel(), jnp.asarray(np.where(log["replied"], log["work"], 0).ravel(), float)
        counts = self.site.programs.call(("steps", ids.size), count, ids, work, numbers, self.site.train, quick=True)
        return int(np.asarray(counts, np.int64).sum())

    def _home(self, hyper: Traced) -> Residence:
        if self._residence is None:
            self._residence = choose(self._store, self.site, hyper)
        return self._residence
