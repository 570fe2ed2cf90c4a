"""FLamby's Fed-Heart-Disease: four hospitals, a logistic regression, eleven strategies.

Source: Ogier du Terrail et al., "FLamby", NeurIPS 2022, https://github.com/owkin/FLamby: `config_heart_disease.json`,
`results/results_benchmark_fed_heart_disease` and `personalization_example`, seeds 42 to 46.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pfljax.data import FederatedData, federate, from_clients, load
from pfljax.data.partition import natural
from pfljax.reproduce.claims import Claim, Protocol, Read, Row
from pfljax.results.result import Result

HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (*HOSPITALS, "mean", "pooled test")
_NONE = float("nan")
_ROUNDS = 15

PUBLISHED = {
    "FedAvg": ((73.08, 71.91, 65.00, 64.00, 68.50, 74.80), (2.15, 3.28, 11.35, 5.07, 2.83, 2.68)),
    "FedProx": ((73.08, 71.91, 65.00, 64.00, 68.50, 74.80), (2.15, 3.28, 11.35, 5.07, 2.83, 2.68)),
    "Scaffold": ((72.69, 71.91, 65.00, 64.00, 68.40, 74.80), (1.87, 3.28, 11.35, 5.07, 2.80, 2.68)),
    "Cyclic": ((75.77, 76.18, 71.25, 64.00, 71.80, 78.50), (1.43, 1.46, 9.48, 1.86, 2.87, 1.23)),
    "FedAdagrad": ((75.96, 75.28, 73.75, 67.56, 73.14, 77.87), (1.80, 1.78, 2.80, 4.04, 1.25, 1.53)),
    "FedAdam": ((75.19, 74.61, 73.75, 66.67, 72.55, 77.87), (1.72, 1.88, 2.80, 4.44, 1.38, 1.46)),
    "FedYogi": ((75.96, 75.28, 73.75, 67.56, 73.14, 77.87), (1.80, 1.78, 2.80, 4.04, 1.25, 1.53)),
    "Local 0": ((74.62, 75.96, 72.50, 65.78, 72.21, 78.43), (1.61, 0.62, 7.13, 1.99, 2.11, 0.70)),
    "Local 1": ((74.62, 74.61, 52.50, 49.78, 62.87, 72.68), (1.46, 0.62, 7.13, 1.22, 1.69, 1.29)),
    "Local 2": ((48.08, 39.10, 72.50, 67.11, 56.70, 48.27), (5.44, 4.16, 12.18, 6.36, 5.79, 4.49)),
    "Local 3": ((57.69, 46.74, 80.00, 70.22, 63.66, 61.10), (3.12, 1.28, 8.15, 5.12, 3.86, 3.93)),
    "Pooled": ((78.27, 76.40, 75.00, 64.44, 73.53, 79.53), (1.10, 0.00, 0.00, 0.00, 0.27, 0.28)),
    "FedAvg, lr 0.00316": ((*[_NONE] * 4, 71.78, _NONE), (*[_NONE] * 4, 1.60, _NONE)),
    "FedAvg, fine-tuned": ((*[_NONE] * 4, 73.51, _NONE), (*[_NONE] * 4, 0.86, _NONE)),
}
"""Test accuracy in percent, means and standard deviations over five seeds."""

_NOTES = (
    "Cyclic as it is in FLamby: no model goes from client to client, and the first hospital's is tested",
    "FedAdagrad there has momentum 0.9 on the server, which makes it FedYogi seed for seed; ours has none",
)


def heart(path: str | Path | None) -> Claim:
    """The table of FLamby's benchmark on heart disease.

    Every model is tested on each hospital, whose numbers are scaled by its own training patients, and on all of them,
    scaled by all training patients (`pooled test`).

    Args:
      path: of the data set `heart_disease`, see `pfljax.load`.

    Raises:
      FileNotFoundError, ValueError, ImportError: see there.
    """
    raw = federate(load("heart_disease", path=path), natural(), test="mirror")
    own, pooled = scaled(raw), scaled(raw, pooled=True)
    everybody = _tested(own, own, pooled)

    def alone(place: int) -> FederatedData:
        return _tested(own, own, pooled, trains=place)

    def run(method: str, data: FederatedData = everybody, read: Read = _server, **changed: Any) -> tuple:
        return {**_protocol(), "algorithm": {"name": method}, **changed}, data, read

    once = {"local": {"optimizer": "adam", "lr": 0.001, "epochs": 50, "batch_size": 4}, "run": {"rounds": 1}}
    adaptive = {"form": "paper", "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "server_lr": 0.01}
    adagrad = {"name": "fedadagrad", "form": "paper", "eps": 1e-8, "server_lr": 0.316228}
    tune = _local(0.00316227)
    runs = {
        "FedAvg": run("fedavg"),
        "FedProx": run("fedprox", algorithm={"name": "fedprox", "mu": 0.01}),
        "Scaffold": run("scaffold", algorithm={"name": "scaffold", "lr": 0.001}, wrappers={"reduce": "mean"}),
        "Cyclic": run("fedavg", alone(0), _turned, local=_local(0.01), run={"rounds": 4}),
        "FedAdagrad": run("fedadagrad", algorithm=adagrad, local=_local(0.003162)),
        "FedAdam": run("fedadam", algorithm={"name": "fedadam", **adaptive}, local=_local(0.01)),
        "FedYogi": run("fedyogi", algorithm={"name": "fedyogi", **adaptive}, local=_local(0.003162)),
        **{f"Local {place}": run("fedavg", alone(place), **once) for place in range(len(HOSPITALS))},
        "Pooled": run("centralized", _tested(pooled, own, pooled), **once),
        "FedAvg, lr 0.00316": run("fedavg", read=_mean_of(_server), local=tune),
        "FedAvg, fine-tuned": run("fedavg_finetuned", read=_mean_of(_personal), local=tune, tune=tune),
    }
    rows = {name: Row(*made, *PUBLISHED[name]) for name, made in runs.items()}
    source = "FLamby's repository, results_benchmark_fed_heart_disease and personalization_example"
    protocol = Protocol({**_protocol(), "local": tune, "tune": tune}, own)
    return Claim("Fed-Heart-Disease, test accuracy in %", source, COLUMNS, "mean", 5, rows, protocol, _NOTES)


def scaled(data: FederatedData, *, pooled: bool = False) -> FederatedData:
    """Inputs less their mean, over their standard deviation, in the training examples of each client.

    As FLamby has it: deviations by n - 1, with 1e-9 added to them.

    Args:
      data: the federation.
      pooled: of all clients together.
    """
    places = range(data.num_clients)
    train, test = ([_of(data, split, place) for place in places] for split in ("train", "test"))
    everybody = np.concatenate([x for x, _ in train])

    def brought(x: np.ndarray, place: int) -> np.ndarray:
        fitted = (everybody if pooled else train[place][0]).astype(float)
        return ((x - fitted.mean(axis=0)) / (fitted.std(axis=0, ddof=1) + 1e-9)).astype(np.float32)

    parts = [[(brought(x, place), y) for place, (x, y) in enumerate(part)] for part in (train, test)]
    return from_clients(*parts, num_classes=data.num_classes, names=data.names, name=data.name)


def _local(lr: float) -> dict[str, Any]:
    return {"optimizer": "sgd", "lr": lr, "plan": "steps", "steps": 100, "batch_size": 4}


def _protocol() -> dict[str, Any]:
    """What the rows share: one logit, PyTorch's initial weights, 15 rounds of 100 steps on batches of 4."""
    return {
        "model": {"name": "logistic", "reference": True, "init": "torch"},
        "local": _local(0.001),
        "run": {"rounds": _ROUNDS},
    }


def _tested(
    train: FederatedData, test: FederatedData, pooled: FederatedData, trains: int | None = None
) -> FederatedData:
    """The hospitals, or one of them, train; each is tested, and so is one that never trains: all of them, scaled alike.

    Args:
      train: whose training examples count.
      test: whose test examples each hospital has.
      pooled: whose test examples count together.
      trains: the only hospital that trains, all if None.
    """
    places = range(train.num_clients)
    held = [_of(train, "train", place) for place in places]
    if trains is not None:
        held = [(x, y) if place == trains else (x[:0], y[:0]) for place, (x, y) in enumerate(held)]
    nobody = held[0][0][:0], held[0][1][:0]
    tested = [_of(test, "test", place) for place in places]
    x, y = zip(*(_of(pooled, "test", place) for place in places), strict=True)
    names = [*HOSPITALS, "pooled"]
    return from_clients(
        [*held, nobody],
        [*tested, (np.concatenate(x), np.concatenate(y))],
        unseen=1,
        num_classes=2,
        names=names,
        name="heart",
    )


def _of(data: FederatedData, split: str, place: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples of a client."""
    rows = getattr(data, split)
    taken = slice(int(rows.start[place]), int(rows.start[place] + rows.size[place]))
    return np.asarray(data.examples.x)[taken], np.asarray(data.examples.y)[taken]


def _server(result: Result, at: int = -1) -> np.ndarray:
    """How the server model does on each hospital, on average, and on all together."""
    hospitals = 100 * result.scores["global", "test", "accuracy"][at]
    return np.array([*hospitals, hospitals.mean(), *100 * result.scores["unseen_global", "test", "accuracy"][at]])


def _personal(result: Result) -> np.ndarray:
    """How what each hospital deploys does on its own patients."""
    hospitals = 100 * result.scores["personal", "test", "accuracy"][-1]
    return np.array([*hospitals, hospitals.mean(), _NONE])


def _mean_of(read: Read) -> Read:
    """The mean alone, where nothing else was published."""
    return lambda result: np.where(np.arange(len(COLUMNS)) == COLUMNS.index("mean"), read(result), _NONE)


def _turned(result: Result) -> np.ndarray:
    """After the first hospital's turns: clients are permuted at the beginning of each cycle of four rounds."""
    draw = np.random.default_rng(result.seed)
    order = np.concatenate([draw.permutation(len(HOSPITALS)) for _ in range(4)])[:_ROUNDS]
    return _server(result, int(np.sum(order == 0)) - 1)
