"""pfljax as a contender of its own benchmark, used as anybody's script would, with the defaults of everything."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pfljax import data, engine
from pfljax.algorithms import method
from pfljax.benchmark import flops
from pfljax.benchmark.examples import Clients, sizes
from pfljax.benchmark.networks import network
from pfljax.data import FederatedData
from pfljax.engine import ensemble
from pfljax.engine.simulation import Simulation
from pfljax.engine.site import Hyper
from pfljax.experiment import recipe
from pfljax.experiment.recipe import Recipe, SolverConfig
from pfljax.federation import sampling
from pfljax.learning import tasks
from pfljax.types import Array, ClientData, Cohort, Examples, Rows, Task, Tree

_FEW, _GROUPS = 100, 2

_AT_MOST = 32
"""Rounds of one dispatch, as many as a program of `engine.simulate(eval_every=32)` runs."""


def about() -> dict[str, str]:
    """Versions and devices."""
    from pfljax import __version__

    versions = {name: metadata.version(name) for name in ("jax", "flax", "optax")}
    devices = jax.devices()
    return {"pfljax": __version__, **versions, "device": devices[0].device_kind, "devices": str(len(devices))}


class _Rounds:
    """Rounds, as many as are asked for."""

    counts = True

    def __init__(self, simulation: Simulation, hyper: Mapping[str, Hyper]):
        self._simulation, self._hyper = simulation, hyper
        self._key = jax.random.key(0)
        self._state = simulation.init(self._key, **hyper)

    @property
    def compile_seconds(self) -> float:
        return self._simulation.compile_seconds

    def __call__(self, count: int = 1) -> None:
        while count:
            now = min(count, _AT_MOST)
            self._state, _ = self._simulation.advance(self._state, self._key, now, _AT_MOST, **self._hyper)
            count -= now
        jax.block_until_ready(self._state)


def prepare(workload: dict[str, Any], examples: Callable[[], Clients], source: str | None) -> Callable[..., None]:
    """The rounds of a workload; a whole sweep if that is what it measures.

    Args:
      workload: what to run.
      examples: the clients' arrays.
      source: `"separate"` for a sweep whose points are compiled and run one by one.
    """
    task, made = _method(workload)
    federation = _federation(workload, examples())
    if workload["measures"] == "sweep":
        return functools.partial(_sweep, workload, task, made, federation, source == "separate")
    simulation = Simulation(task, made.make, federation, cohort=_cohort(workload))
    return _Rounds(simulation, made.hyper)


def _federation(workload: dict[str, Any], clients: Clients) -> FederatedData:
    """The clients, with what the method needs: examples to validate on, such as everybody sees, groups."""
    needs = method(workload["method"]).needs
    few = [(x[:_FEW], y[:_FEW]) for x, y in clients] if "validation examples" in needs else None
    made = data.from_clients(clients, validation=few, num_classes=workload["classes"], name=workload["name"])
    made = made.with_traits({"group": np.arange(len(clients)) % _GROUPS}) if "groups" in needs else made
    return made.with_public(clients[0][0][:_FEW]) if "public data" in needs else made


def _method(workload: dict[str, Any]) -> tuple[Task, Recipe]:
    model = network(workload["model"], workload["shape"], workload["classes"], workload["model_options"])
    task = tasks.classification(model)
    local = SolverConfig(lr=workload["lr"], epochs=workload["epochs"], batch_size=workload["batch_size"])
    options = dict(workload["options"])
    if "lr" in method(workload["method"]).sweep:
        options.setdefault("lr", workload["lr"])
    known: dict[str, Any] = {"capacity": int(sizes(workload).max()), "groups": _GROUPS}
    return task, recipe.build(workload["method"], task, model, options=options, local=local, **known)


def _cohort(workload: dict[str, Any]) -> sampling.Sampler:
    everyone = workload["cohort"] == workload["clients"]
    return sampling.full() if everyone else sampling.uniform(workload["cohort"])


def _sweep(workload: dict[str, Any], task: Task, made: Recipe, federation: FederatedData, separate: bool) -> None:
    """All points: in one call, or each from scratch."""
    points = list(_points(workload, made))
    settings = {"rounds": workload["rounds"], "eval_every": workload["rounds"], "cohort": _cohort(workload)}
    if not separate:
        for _ in ensemble.simulate_many(task, made.make, federation, points, **settings):
            pass
        return
    for point in points:
        jax.clear_caches()
        engine.simulate(task, made.make, federation, seed=point.seed, hyper=dict(point.hyper), **settings)


def _points(workload: dict[str, Any], made: Recipe) -> Iterator[ensemble.Point]:
    """Seeds, each with four learning rates."""
    for number in range(workload["points"]):
        lr = workload["lr"] * 2.0 ** -(number % 4)
        yield ensemble.Point(number // 4, {**made.hyper, "local.lr": lr})


def details(workload: dict[str, Any]) -> dict[str, Any]:
    """`params` of the model, and the `flops` of a round."""
    task, made = _method(workload)
    params = jax.eval_shape(task.init, jax.random.key(0)).trainable
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"params": count, "flops": _round_flops(workload, made)}


def _round_flops(workload: dict[str, Any], made: Recipe) -> float | None:
    """Operations in the matrix products of a round: downloads and updates of the cohort, its mean over cohorts, and the
    server's update.

    Counted in the method itself, for each number of batches that a client has; None where the length of a loop depends
    on the training.
    """
    algorithm = made.make(**made.hyper)
    clients = sizes(workload)
    rows = int(clients.sum())
    x: Any = jax.ShapeDtypeStruct((rows, *workload["shape"]), np.uint8)
    y: Any = jax.ShapeDtypeStruct((rows,), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    server = jax.eval_shape(lambda key: algorithm.init_server(key, len(clients)), key)

    def view(examples: Examples, size: Any) -> ClientData:
        few, traits = Rows(jnp.asarray(0), jnp.asarray(_FEW)), {"group": jnp.asarray(0)}
        return ClientData(examples, jnp.asarray(0), size, jnp.asarray(0), traits=traits, validation=few, public=few)

    def client(size: Array, server: Tree, examples: Examples, key: Array) -> Tree:
        own = view(examples, size)
        download = algorithm.download(server, own.id)
        return algorithm.client_update(download, algorithm.init_client(download, own.id, key), own, key).upload

    def update(server: Tree, upload: Tree, examples: Examples, key: Array) -> Tree:
        weights = jnp.ones(workload["cohort"])
        terms = jax.vmap(algorithm.reduce.lift, (None, 0))(upload, weights)
        if algorithm.reduce.summed:
            terms = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), terms)
        ids, uploads = jnp.arange(workload["cohort"]), algorithm.reduce.lower(terms, weights)
        return algorithm.server_update(server, Cohort(ids, uploads, weights, view(examples, jnp.asarray(_FEW))), key)

    batches, counts = np.unique(-(-clients // workload["batch_size"]), return_counts=True)
    full = [int(number) * workload["batch_size"] for number in batches]
    examples = Examples(x, y)
    upload = jax.eval_shape(client, 0, server, examples, key)
    try:
        each = [flops.count(client, 0, server, examples, key, known={0: size}) for size in full]
        once = flops.count(update, server, upload, examples, key)
    except flops.Unknown:
        return None
    return workload["cohort"] * float(np.average(each, weights=counts)) + once
