"""The table of methods: name -> what makes it, what may be swept, what it needs.

Tests, configs, the command line and the documentation read this table. A factory's parameters without a default are
its ingredients; they are made by name from a configuration (`pfljax.experiment.recipe`).
"""

from collections.abc import Callable, Mapping
from operator import methodcaller
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args

from pfljax import checks
from pfljax.algorithms.apfl import apfl
from pfljax.algorithms.centralized import centralized
from pfljax.algorithms.context_clustered import context_clustered
from pfljax.algorithms.ditto import ditto
from pfljax.algorithms.fedamp import fedamp, heurfedamp
from pfljax.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavg_finetuned, fedavgm, fedyogi
from pfljax.algorithms.fedbabu import fedbabu
from pfljax.algorithms.fedbn import fedbn
from pfljax.algorithms.fedfomo import fedfomo
from pfljax.algorithms.fedper import fedper
from pfljax.algorithms.fedprox import fedprox
from pfljax.algorithms.fedrep import fedrep
from pfljax.algorithms.fedrod import fedrod, fedrod_hyper
from pfljax.algorithms.ifca import ifca
from pfljax.algorithms.knn_per import knn_per
from pfljax.algorithms.lg_fedavg import lg_fedavg
from pfljax.algorithms.local_only import local_only
from pfljax.algorithms.per_fedavg import per_fedavg
from pfljax.algorithms.pfedme import pfedme
from pfljax.algorithms.reptile import reptile
from pfljax.algorithms.scaffold import scaffold
from pfljax.checks import Bounds
from pfljax.printing import in_brief
from pfljax.types import Algorithm

__all__ = [
    "METHODS",
    "Method",
    "apfl",
    "centralized",
    "context_clustered",
    "ditto",
    "fedadagrad",
    "fedadam",
    "fedamp",
    "fedavg",
    "fedavg_finetuned",
    "fedavgm",
    "fedbabu",
    "fedbn",
    "fedfomo",
    "fedper",
    "fedprox",
    "fedrep",
    "fedrod",
    "fedrod_hyper",
    "fedyogi",
    "heurfedamp",
    "ifca",
    "knn_per",
    "lg_fedavg",
    "local_only",
    "method",
    "per_fedavg",
    "pfedme",
    "reptile",
    "scaffold",
]


@in_brief
class Method(NamedTuple):
    """One row of the table."""

    factory: Callable[..., Algorithm]
    family: str
    sweep: Mapping[str, tuple[float, float]] = {}
    needs: tuple[str, ...] = ()  # of "client state", "norm layers", "features", "class labels",
    # "validation examples", "groups"
    bounds: Mapping[str, Bounds] = {}  # of numbers, other than at least 0 and of counts at least 1
    prepare: Callable[[Any], Any] | None = None  # a federation -> the one that trains; None: itself

    def hints(self) -> dict[str, Any]:
        """The type hints of the factory's parameters, with the bounds of its numbers."""
        numbers = {float: Bounds(least=0), int: Bounds(least=1)}
        hints = {}
        for name, hint in checks.hints(self.factory).items():
            kind = next((kind for kind in numbers if kind in (hint, *get_args(hint))), None)
            hints[name] = hint
            if kind is not None:
                bounded: Any = Annotated[kind, self.bounds.get(name, numbers[kind])]
                hints[name] = bounded | None if NoneType in get_args(hint) else bounded
        return hints


POOLED = methodcaller("pooled")
"""What `prepare` is where a single client trains on all data, so that nobody is drawn."""

_STATE = ("client state",)
_FEATURES = ("features", "class labels")
_UNIT = (0.0, 1.0)
_SHARE, _BELOW_1, _POSITIVE = Bounds(least=0, most=1), Bounds(least=0, below=1), Bounds(above=0)
_MOMENTS = {"beta1": _BELOW_1, "beta2": _BELOW_1, "eps": _POSITIVE}

METHODS: dict[str, Method] = {
    "centralized": Method(centralized, "baseline", prepare=POOLED),
    "local_only": Method(local_only, "baseline", needs=_STATE),
    "fedavg": Method(fedavg, "averaging"),
    "fedavgm": Method(
        fedavgm, "averaging", {"server_lr": (0.1, 1.0), "momentum": (0.0, 0.99)}, bounds={"momentum": _BELOW_1}
    ),
    "fedadagrad": Method(fedadagrad, "averaging", {"server_lr": (1e-3, 1.0), "eps": (1e-8, 1e-1)}, bounds=_MOMENTS),
    "fedadam": Method(fedadam, "averaging", {"server_lr": (1e-3, 1.0), "eps": (1e-8, 1e-1)}, bounds=_MOMENTS),
    "fedyogi": Method(fedyogi, "averaging", {"server_lr": (1e-3, 1.0), "eps": (1e-8, 1e-1)}, bounds=_MOMENTS),
    "fedavg_finetuned": Method(fedavg_finetuned, "averaging"),
    "fedprox": Method(fedprox, "proximal", {"mu": (1e-3, 1.0)}),
    "scaffold": Method(scaffold, "control variates", {"lr": (1e-3, 1.0), "server_lr": (0.1, 1.0)}, _STATE),
    "fedper": Method(fedper, "partial sharing", needs=_STATE),
    "fedrep": Method(fedrep, "partial sharing", needs=_STATE),
    "fedbabu": Method(fedbabu, "partial sharing", needs=_STATE),
    "lg_fedavg": Method(lg_fedavg, "partial sharing", needs=_STATE),
    "fedbn": Method(fedbn, "partial sharing", needs=(*_STATE, "norm layers")),
    "fedrod": Method(fedrod, "partial sharing", {"gamma": (0.0, 2.0)}, (*_STATE, *_FEATURES)),
    "fedrod_hyper": Method(fedrod_hyper, "partial sharing", {"gamma": (0.0, 2.0)}, _FEATURES),
    "per_fedavg": Method(per_fedavg, "meta-learning", {"alpha": (1e-3, 0.1)}),
    "reptile": Method(reptile, "meta-learning", {"server_lr": (0.1, 1.0)}),
    "pfedme": Method(
        pfedme, "proximal", {"lr": (1e-3, 0.1), "inner_lr": (1e-3, 0.1), "lam": (1.0, 30.0), "beta": (0.5, 4.0)}, _STATE
    ),
    "ditto": Method(ditto, "proximal", {"lam": (0.01, 2.0)}, _STATE),
    "apfl": Method(apfl, "mixture", {"alpha": _UNIT, "alpha_lr": (0.0, 0.1)}, _STATE, {"alpha": _SHARE}),
    "ifca": Method(ifca, "clustering"),
    "context_clustered": Method(context_clustered, "clustering", needs=("groups",)),
    "knn_per": Method(
        knn_per, "memory", {"lam": _UNIT, "scale": (0.1, 10.0)}, _FEATURES, {"lam": _SHARE, "scale": _POSITIVE}
    ),
    "fedamp": Method(fedamp, "attention", {"lam": (0.01, 10.0)}, _STATE, {"sigma": _POSITIVE}),
    "heurfedamp": Method(
        heurfedamp,
        "attention",
        {"lam": (0.1, 10.0), "sigma": (1.0, 100.0), "self_weight": _UNIT},
        _STATE,
        {"sigma": _POSITIVE, "self_weight": _SHARE},
    ),
    "fedfomo": Method(fedfomo, "attention", {"epsilon": _UNIT}, (*_STATE, "validation examples"), {"epsilon": _SHARE}),
}
METHODS = {name: row._replace(factory=checks.by_hints(known=row.hints())(row.factory)) for name, row in METHODS.items()}
globals().update({name: row.factory for name, row in METHODS.items()})  # these are exported


def method(name: str) -> Method:
    """The row of `name`.

    Raises:
      ValueError: if there is none; the message suggests the nearest.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: {checks.nearest(name, METHODS)}")
    return METHODS[name]
