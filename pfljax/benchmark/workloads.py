"""What is timed: named workloads as plain data, so that any contender can read them.

The unit is a round of 20 clients with 500 examples of 28x28, batches of 10, one epoch: 1,000 client-steps, aggregation
included, evaluation not. Examples are random numbers of the right shape (`examples.py`): time does not depend on
what they show. `lr` keeps every method finite on them.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pfljax import checks
from pfljax.algorithms import METHODS
from pfljax.benchmark import examples

Measures = Literal["round", "sweep", "startup", "cold", "warm"]
Group = Literal["quick", "default", "all", "methods"]
GROUPS: tuple[Group, ...] = ("quick", "default", "all", "methods")


@dataclass(frozen=True)
class Workload:
    """One thing to time.

    Args:
      name: how it is called.
      about: one sentence.
      method: of the table of methods.
      options: of the method.
      model: name of the model.
      model_options: of the model.
      shape: of one example, (height, width[, channels]) or (length,) of a text.
      classes: number of labels, or of tokens.
      clients: the population, N.
      sizes: examples of each client, see `examples.sizes`.
      cohort: clients of a round, M, drawn uniformly if fewer than N.
      batch_size: examples of a local step.
      epochs: local epochs.
      lr: of local SGD.
      seed: of the examples and sizes.
      measures: rounds; a whole sweep against separate runs; the time from the start of a process to its first round,
        with compiled programs in the cache; or a command that finds no compiled programs, `cold`, or all, `warm`.
      points, rounds: of a sweep.
      command: of `pfljax`, see `stopwatch`.
      group: the smallest selection that it belongs to; `methods` is one by itself.
      source: where the setting was published, if it was.
    """

    name: str
    about: str
    method: str = "fedavg"
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str = "mlp"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = (28, 28)
    classes: int = 10
    clients: int = 20
    sizes: Mapping[str, Any] = field(default_factory=lambda: {"kind": "equal", "examples": 500})
    cohort: int = 20
    batch_size: int = 10
    epochs: int = 1
    lr: float = 0.005
    seed: int = 0
    measures: Measures = "round"
    points: int = 0
    rounds: int = 0
    command: tuple[str, ...] = ()
    group: Group = "default"
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)

    @property
    def client_steps(self) -> float:
        """Local steps of a round."""
        return examples.client_steps(self.to_dict())


_PFEDME = {"inner_lr": 0.005, "lam": 15.0, "inner_steps": 5}
_SKEWED = {"kind": "power_law", "mean": 100, "exponent": 0.99}
_FEW = {"kind": "equal", "examples": 20}
_CIFAR = (32, 32, 3)
_SEVEN = ("compare", "--quiet", "--methods=local_only,fedavg,fedavg_finetuned,fedper,per_fedavg,pfedme,ditto")
_TABLE = ("compare", "--quiet", "--methods={table}", "--config.run.rounds=2", "--config.run.eval_every=1")
_PFLLIB = "https://github.com/TsingZ0/PFLlib (README and the defaults of system/main.py)"
_BLAZEFL = "https://github.com/blazefl/blazefl/blob/main/benchmarks/blazefl-case/main.py"
_FLUTE = "https://github.com/microsoft/msrflute (README, benchmark table)"
_PFL_RESEARCH = "https://github.com/apple/pfl-research/tree/develop/publications/pfl (Table 1 of arXiv:2404.06430)"

_ALL = (
    Workload("logistic", "FedAvg, logistic regression 784-10", model="logistic", group="quick"),
    Workload("mlp", "FedAvg, MLP 784-100-10", group="quick"),
    Workload("cnn", "FedAvg, CNN of two 5x5 convolutions (32, 64) and 512-10", model="cnn", group="quick"),
    Workload("ditto", "Ditto, MLP", method="ditto", options={"lam": 0.5}),
    Workload("per_fedavg", "Per-FedAvg with exact second order, MLP", method="per_fedavg", options={"alpha": 0.005}),
    Workload(
        "per_fedavg_first", "Per-FedAvg of first order, MLP, two epochs (a round of PFLlib's)", method="per_fedavg",
        options={"alpha": 0.005, "order": "first"}, batch_size=20, epochs=2,
    ),
    Workload("pfedme", "pFedMe with 5 inner steps, MLP", method="pfedme", options=_PFEDME),
    Workload("fedper", "FedPer with a personal last layer, MLP", method="fedper"),
    Workload("apfl", "APFL, MLP", method="apfl"),
    Workload("scaffold", "SCAFFOLD, MLP", method="scaffold"),
    Workload("fedamp", "FedAMP, MLP", method="fedamp"),
    Workload(
        "resnet8", "FedAvg, ResNet-8 with group norm on 32x32x3", model="resnet8", shape=_CIFAR,
        clients=10, cohort=10, sizes={"kind": "equal", "examples": 100},
    ),
    Workload(
        "char_lstm", "FedAvg, two LSTM layers of 256 on texts of 80 characters", model="char_lstm", shape=(80,),
        classes=80, clients=10, cohort=10, sizes={"kind": "equal", "examples": 50},
    ),
    Workload(
        "power_law", "FedAvg, MLP, 100 clients of very different size: mean 100, largest about 1,900",
        clients=100, cohort=100, sizes=_SKEWED,
    ),
    Workload(
        "no_waste", "the same number of batches as in power_law, dealt evenly to as many clients",
        clients=100, cohort=100, sizes={"kind": "balanced", "of": _SKEWED},
    ),
    *(
        Workload(
            f"population_{name}", f"Ditto, logistic regression, 20 of {clients:,} clients a round, each with a state",
            method="ditto", options={"lam": 0.5}, model="logistic", clients=clients, sizes=_FEW,
            group="all" if clients > 10_000 else "default",
        )
        for name, clients in (("1k", 1_000), ("10k", 10_000), ("100k", 100_000))
    ),
    *(
        Workload(
            f"cohort_{cohort}", f"FedAvg, logistic regression, {cohort} of 1,000 clients with 100 examples",
            model="logistic", clients=1_000, cohort=cohort, sizes={"kind": "equal", "examples": 100},
        )
        for cohort in (10, 100, 1_000)
    ),
    Workload(
        "sweep", "32 points (8 seeds, 4 learning rates) of FedAvg, MLP, 20 rounds: one sweep against separate runs",
        sizes={"kind": "equal", "examples": 100}, measures="sweep", points=32, rounds=20, group="all",
    ),
    Workload("startup", "from the start of a process to its first round: MLP, warm cache", measures="startup"),
    Workload(
        "compile_seven", "the demo's seven methods from an empty cache of programs, a process from start to end",
        measures="cold", command=_SEVEN,
    ),
    Workload("compile_seven_warm", "the same with all programs in the cache", measures="warm", command=_SEVEN),
    Workload(
        "compile_table", "every method of the table from an empty cache: two rounds, two evaluations", measures="cold",
        command=_TABLE, group="all",
    ),
    Workload(
        "pfllib_quickstart", "PFLlib's first example: MNIST, 20 clients by Dirichlet(0.1), CNN, 3/4 of the data",
        model="cnn", sizes={"kind": "dirichlet", "mean": 2625, "alpha": 0.1}, group="all", source=_PFLLIB,
    ),
    Workload(
        "blazefl_cifar10", "BlazeFL's benchmark: CIFAR-10, 100 clients with 500 examples, its CNN, 5 epochs; published "
        "times are of 5 such rounds", model="lenet", shape=_CIFAR, clients=100, cohort=100, batch_size=50, epochs=5,
        lr=0.1, group="all", source=_BLAZEFL,
    ),
    Workload(
        "flute_femnist", "FLUTE's benchmark: FEMNIST, 10 of 3,400 clients, 197 examples on average (here each), CNN",
        model="small_cnn", classes=62, clients=3_400, cohort=10, sizes={"kind": "equal", "examples": 197},
        batch_size=20, lr=0.1, group="all", source=_FLUTE,
    ),
    Workload(
        "pfl_research_cifar10", "pfl-research's benchmark: CIFAR-10, 50 of 1,000 clients with 50 examples, CNN",
        model="small_cnn", shape=_CIFAR, clients=1_000, cohort=50, sizes={"kind": "equal", "examples": 50}, lr=0.1,
        group="all", source=_PFL_RESEARCH,
    ),
)  # fmt: skip

_METHODS = tuple(
    Workload(
        f"method_{name}", f"{name}, MLP", method=name, group="methods",
        model_options={"norm": "layer"} if "norm layers" in row.needs else {},
    )
    for name, row in METHODS.items() if row.prepare is None
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in (*_ALL, *_METHODS)}
"""The workloads by name."""


def select(names: Iterable[str | Workload]) -> list[Workload]:
    """Workloads by name, pattern (`population_*`) or group (`quick`, `default`, `all`, `methods`), in their order.

    What is a `Workload` itself comes after them.

    Raises:
      ValueError: if a name is unknown; the message suggests the nearest.

    >>> [workload.name for workload in select(["cohort_*", "mlp"])]
    ['mlp', 'cohort_10', 'cohort_100', 'cohort_1000']
    """
    given, chosen = list(names), set()
    for name in given:
        if isinstance(name, Workload):
            continue
        if name in GROUPS:
            wider = GROUPS[: GROUPS.index(name) + 1] if name != "methods" else (name,)
            found = [key for key, workload in WORKLOADS.items() if workload.group in wider]
        else:
            found = fnmatch.filter(WORKLOADS, name)
        if not found:
            raise ValueError(f"unknown workload {name!r}: {checks.nearest(name, [*WORKLOADS, *GROUPS])}")
        chosen |= set(found)
    values = [workload for workload in given if isinstance(workload, Workload)]
    return [workload for name, workload in WORKLOADS.items() if name in chosen] + values
