"""Many runs as one program: points of hyperparameter values and seeds along a leading axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import checks
from pfljax.data import FederatedData
from pfljax.engine import blocks, mesh, process, walk
from pfljax.engine.course import Course, Diverged, Log, follow
from pfljax.engine.memory import Shortage
from pfljax.engine.mesh import Device
from pfljax.engine.programs import Programs
from pfljax.engine.runs import check_length
from pfljax.engine.simulation import Simulation
from pfljax.engine.site import Build, Hyper, Traced, traced
from pfljax.results.result import Result
from pfljax.results.scores import Scores
from pfljax.types import Algorithm, Array, Plan, State, Task, Tree


class Point(NamedTuple):
    """One run of an ensemble."""

    seed: int
    hyper: Mapping[str, Hyper]


@checks.by_hints(rest=Simulation)
class Ensemble:
    """Runs of one method on one federation, compiled once for any number of points: waves, spread over the devices.

    Where a wave has fewer points than there are devices, each point's clients are spread over several.

    On one device, one after the other, each point gives the bits that it gives alone there; spread over devices or
    vmapped, the same up to the order of sums. What a point gives does not depend on the others.

    Args:
      task, build, data, rounds, eval_every, patience, method, plan: see `engine.simulate`.
      at_once: points of a wave. If None: on a CPU one of the first points for each device, because small models are
        fastest from the cache; on an accelerator, vmapped, as many of them as its memory should hold.
      devices: those that share the points and their clients; all of this process if None.
      **options: of `engine.Simulation`.

    Raises:
      ValueError: if counts are below 1.
    """

    def __init__(
        self,
        task: Task | Sequence[Task],
        build: Build,
        data: FederatedData,
        *,
        rounds: int,
        eval_every: int = 1,
        patience: int | None = None,
        method: str = "",
        plan: Plan | None = None,
        at_once: checks.Count | None = None,
        devices: Sequence[Device] | None = None,
        **options: Any,
    ):
        check_length(data, rounds, eval_every, patience)
        self._rounds, self._eval_every, self._patience = rounds, eval_every, patience
        self._method, self._plan = method, plan
        process.begin(warn=devices is None)
        self._devices = mesh.usable(jax.local_devices()) if devices is None else list(devices)
        self._simulation = Simulation(task, build, data, devices=self._devices[:1], **options)
        self._at_once = at_once
        self._wave: _Wave | None = None

    def __repr__(self) -> str:
        return f"Ensemble({self._simulation}, {self._rounds} rounds)"

    def run(self, points: Sequence[Point]) -> Iterator[tuple[int, Result | Diverged]]:
        """Runs points, which all name the same hyperparameters.

        Yields:
          `(place in points, outcome)`, as waves end. A point that diverges yields the error; the others of its wave go
          on. `seconds` and `compile_seconds` of a result are its share of the wave's and of all compilation.

        Raises:
          ValueError: if points name different hyperparameters.
          MemoryError: if even a single point does not fit.
        """
        if not points:
            return
        for point in points:
            checks.each(checks.Seed, seed=point.seed)
        kinds = {jax.tree.structure(traced(point.hyper)): sorted(point.hyper) for point in points}
        if len(kinds) > 1:
            named = " and ".join(map(str, kinds.values()))
            raise ValueError(f"points name different hyperparameters: {named}, or schedules of different kinds")
        if self._wave is None:
            size = self._at_once or self._fitting(len(points))
            self._wave = _Wave(self._simulation, size, self._devices, min(self._eval_every, self._rounds))
        wave, compiled = self._wave, self._wave.compile_seconds
        for first in range(0, len(points), wave.size):
            members = range(first, min(first + wave.size, len(points)))
            courses = [self._course(point) for point in (points[n] for n in members)]
            wave.run([points[n] for n in members], courses)
            for member, course in zip(members, courses, strict=True):
                course.record["compile_seconds"] = np.asarray((wave.compile_seconds - compiled) / len(points))
                yield member, course.diverged or course.end()

    def _course(self, point: Point) -> Course:
        of_run = self._rounds, self._eval_every, self._patience
        return self._simulation.course(*of_run, method=self._method, plan=self._plan, **point._asdict())

    def _fitting(self, points: int) -> int:
        """Points of a wave."""
        devices, clients = self._devices, self._simulation.site.train.num_clients
        if devices[0].platform == "cpu":
            return min(points, len(devices))
        share = -(-points // len(devices))
        tasks = self._simulation.rounds.tasks
        block = min(blocks.size("auto", task, clients * share, devices[:1]) for task in tasks)
        return min(points, len(devices) * max(1, block // clients))


@checks.by_hints(rest=Ensemble)
def simulate_many(
    task: Task | Sequence[Task],
    build: Build,
    data: FederatedData,
    points: Sequence[Point],
    *,
    rounds: int,
    **options: Any,
) -> Iterator[tuple[int, Result | Diverged]]:
    """`engine.simulate` of every point, compiled once for all.

    Args:
      task, build, data: see `engine.simulate`.
      points: seeds and hyperparameter values; all name the same hyperparameters.
      rounds, **options: of `Ensemble`, which serves more points later.

    Yields:
      `(place in points, outcome)`, as waves end. See `Ensemble.run`.

    Raises:
      ValueError, MemoryError: see `Ensemble`.
    """
    yield from Ensemble(task, build, data, rounds=rounds, **options).run(points)


class _Wave:
    """Points of one program, on their devices."""

    def __init__(self, simulation: Simulation, size: int, devices: Sequence[Device], at_most: int) -> None:
        over, within = mesh.grid(devices, size)
        if over is not None:
            devices = list(over.mesh.devices.flat)
        self.size = size
        self._simulation, self._at_most = simulation, at_most
        self._rounds = dataclasses.replace(simulation.rounds, axis=within)
        self._plan = walk.layout(size, size, over)
        self._everywhere, self._spread = mesh.placements(over, devices)
        self._data, self._train = mesh.put((simulation.data, simulation.site.train), self._everywhere)
        self._programs = Programs(devices, self._refuse)

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._programs.seconds + self._simulation.compile_seconds

    def run(self, points: Sequence[Point], courses: Sequence[Course]) -> None:
        """The course of each point to its end."""
        site, rounds, at_most = self._simulation.site, self._rounds, self._at_most
        padded = [*points, *[points[-1]] * (self._plan.slots - len(points))]
        keys = jnp.stack([jax.random.key(point.seed) for point in padded])
        hypers = jax.tree.map(lambda *values: jnp.stack(values), *[traced(point.hyper) for point in padded])
        keys, hypers = jax.device_put((keys, hypers), self._spread)

        def init(train: FederatedData, key: Array, hyper: Traced) -> State:
            return rounds.init(site.algorithm(hyper), key, train)

        def advance(shared: Tree, state: State, key: Array, hyper: Traced) -> Tree:
            train, count = shared

            def algorithm(number: Array) -> Algorithm:
                return site.algorithm(hyper, number)

            return rounds.advance(algorithm, state, key, train, count, at_most)

        def evaluate(data: FederatedData, state: State, key: Array, hyper: Traced) -> Tree:
            return rounds.evaluate(site.deployed(hyper, state.round), state, key, data)

        states = self._call("init", init, self._train, keys, hypers, quick=True)

        def step(count: int) -> Iterator[tuple[Log, Scores]]:
            nonlocal states
            shared = self._train, jax.device_put(jnp.asarray(count), self._everywhere)
            states, logs = self._call("rounds", advance, shared, states, keys, hypers, donate=(1,))
            scores = jax.tree.map(np.asarray, self._call("evaluation", evaluate, self._data, states, keys, hypers))
            logs = {name: np.asarray(rows)[:, :count] for name, rows in logs.items()}
            for n in range(len(points)):
                log, mine = ({name: rows[n] for name, rows in of.items()} for of in (logs, scores))
                yield log, mine

        follow(courses, step, lambda: self._programs.seconds)

    def _call(self, name: str, function: Callable[..., Tree], shared: Tree, *rows: Tree, **options: Any) -> Tree:
        """`function(shared, *row)` of every point, leaves [points, ...]; `options` as in `Programs.call`."""

        def over(shared: Tree, *rows: Tree) -> Tree:
            return walk.walk(lambda shared, row: ((), function(shared, *row)), shared, rows, self._plan)[1]

        return self._programs.call(name, over, shared, *rows, out=self._spread, **options)

    def _refuse(self, lacking: Shortage) -> None:
        points = self._plan.slots
        fitting = max(1, points * lacking.free // lacking.need)
        remedy = f"at_once={fitting}" if fitting < points else "a smaller model or fewer clients"
        raise MemoryError(
            f"{points} points at once need about {lacking.need / 1e9:.1f} GB and {lacking.free / 1e9:.1f} GB are free: "
            f"try {remedy}"
        )
