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
from pfljax.algorithms.fedcp import fedcp
from pfljax.algorithms.feddbe import feddbe
from pfljax.algorithms.feddf import feddf
from pfljax.algorithms.fedem import fedem
from pfljax.algorithms.fedfomo import fedfomo
from pfljax.algorithms.fedgh import fedgh
from pfljax.algorithms.fedpac import fedpac
from pfljax.algorithms.fedper import fedper
from pfljax.algorithms.fedproto import fedproto
from pfljax.algorithms.fedprox import fedprox
from pfljax.algorithms.fedrep import fedrep
from pfljax.algorithms.fedrod import fedrod, fedrod_hyper
from pfljax.algorithms.fedtgp import fedtgp
from pfljax.algorithms.gpfl import gpfl
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
    "fedcp",
    "feddbe",
    "feddf",
    "fedem",
    "fedfomo",
    "fedgh",
    "fedpac",
    "fedper",
    "fedproto",
    "fedprox",
    "fedrep",
    "fedrod",
    "fedrod_hyper",
    "fedtgp",
    "fedyogi",
    "gpfl",
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
    """One row of the table.

    Args:
      factory: makes the algorithm.
      family: of methods that are shown together.
      sweep: the usual ranges of what may be tuned.
      needs: client state, norm layers, features, class labels, validation examples, groups, public data.
      bounds: of numbers, where they are not at least 0, and counts at least 1.
      prepare: a federation -> the one that trains; None: itself.
      down, up: numbers that a client receives in a round, and sends: formulas of the numbers of a model `w`, of its
        `head`, its `norms` and their statistics `stats`, of `features`, `clients`, `classes`, `groups`, and of options.
      variant_of: another row whose clients do the same.
      example: options that make it small.
    """

    factory: Callable[..., Algorithm]
    family: str
    sweep: Mapping[str, tuple[float, float]] = {}
    needs: tuple[str, ...] = ()
    bounds: Mapping[str, Bounds] = {}
    prepare: Callable[[Any], Any] | None = None
    down: str = "w"
    up: str = "w"
    variant_of: str = ""
    example: Mapping[str, Any] = {}

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
_ADAPTIVE = {"server_lr": (1e-3, 1.0), "eps": (1e-8, 1e-1)}

METHODS: dict[str, Method] = {
    "centralized": Method(centralized, "baseline", prepare=POOLED, down="0", up="0"),
    "local_only": Method(local_only, "baseline", needs=_STATE, down="0", up="0", example={"participation": "cohort"}),
    "fedavg": Method(fedavg, "averaging"),
    "fedavgm": Method(
        fedavgm,
        "averaging",
        sweep={"server_lr": (0.1, 1.0), "momentum": (0.0, 0.99)},
        bounds={"momentum": _BELOW_1},
        variant_of="fedavg",
    ),
    "fedadagrad": Method(fedadagrad, "averaging", _ADAPTIVE, bounds=_MOMENTS, variant_of="fedavg"),
    "fedadam": Method(fedadam, "averaging", _ADAPTIVE, bounds=_MOMENTS, variant_of="fedavg"),
    "fedyogi": Method(fedyogi, "averaging", _ADAPTIVE, bounds=_MOMENTS, variant_of="fedavg"),
    "fedavg_finetuned": Method(fedavg_finetuned, "averaging"),
    "fedprox": Method(fedprox, "proximal", {"mu": (1e-3, 1.0)}),
    "scaffold": Method(
        scaffold,
        "control variates",
        sweep={"lr": (1e-3, 1.0), "server_lr": (0.1, 1.0)},
        needs=_STATE,
        down="2 * w - stats",
        up="2 * w - stats",
    ),
    "fedper": Method(fedper, "partial sharing", needs=_STATE, down="w - head", up="w - head"),
    "fedrep": Method(fedrep, "partial sharing", needs=_STATE, down="w - head", up="w - head"),
    "fedbabu": Method(fedbabu, "partial sharing", needs=_STATE, down="w - head", up="w - head"),
    "lg_fedavg": Method(lg_fedavg, "partial sharing", needs=_STATE, down="head", up="head"),
    "fedbn": Method(fedbn, "partial sharing", needs=(*_STATE, "norm layers"), down="w - norms", up="w - norms"),
    "fedrod": Method(fedrod, "partial sharing", {"gamma": (0.0, 2.0)}, (*_STATE, *_FEATURES)),
    "fedrod_hyper": Method(
        fedrod_hyper,
        "partial sharing",
        sweep={"gamma": (0.0, 2.0)},
        needs=_FEATURES,
        down="w + (hidden + 1) * head + (classes + 1) * hidden",
        up="w + (hidden + 1) * head + (classes + 1) * hidden",
    ),
    "per_fedavg": Method(per_fedavg, "meta-learning", {"alpha": (1e-3, 0.1)}),
    "reptile": Method(reptile, "meta-learning", {"server_lr": (0.1, 1.0)}),
    "pfedme": Method(
        pfedme,
        "proximal",
        sweep={"lr": (1e-3, 0.1), "inner_lr": (1e-3, 0.1), "lam": (1.0, 30.0), "beta": (0.5, 4.0)},
        needs=_STATE,
        example={"inner_steps": 2, "lam": 2.0},
    ),
    "ditto": Method(ditto, "proximal", {"lam": (0.01, 2.0)}, _STATE),
    "apfl": Method(
        apfl,
        "mixture",
        sweep={"alpha": _UNIT, "alpha_lr": (0.0, 0.1)},
        needs=_STATE,
        bounds={"alpha": _SHARE},
        example={"alpha_lr": 0.1},
    ),
    "fedem": Method(
        fedem,
        "mixture",
        needs=(*_STATE, "class labels"),
        down="components * w",
        up="components * w",
        example={"components": 2},
    ),
    "ifca": Method(ifca, "clustering", down="clusters * w", up="w + 1", example={"clusters": 2}),
    "context_clustered": Method(context_clustered, "clustering", needs=("groups",), down="groups * w", up="w + 1"),
    "knn_per": Method(
        knn_per,
        "memory",
        sweep={"lam": _UNIT, "scale": (0.1, 10.0)},
        needs=_FEATURES,
        bounds={"lam": _SHARE, "scale": _POSITIVE},
    ),
    "feddf": Method(
        feddf,
        "distillation",
        sweep={"distil_lr": (1e-4, 1e-2)},
        needs=("public data", "class labels"),
        bounds={"distil_steps": Bounds(least=0)},
        example={"distil_steps": 2, "distil_batch_size": 4, "distil_lr": 0.01},
    ),
    "fedproto": Method(
        fedproto,
        "prototypes",
        sweep={"lam": (0.1, 10.0)},
        needs=(*_STATE, *_FEATURES),
        down="classes * (features + 1)",
        up="classes * (features + 1)",
    ),
    "fedtgp": Method(
        fedtgp,
        "prototypes",
        sweep={"lam": (0.1, 10.0), "server_lr": (1e-3, 0.1)},
        needs=(*_STATE, *_FEATURES),
        down="classes * (features + 1)",
        up="classes * (features + 1)",
        example={"server_epochs": 2, "server_batch_size": 64},
    ),
    "fedgh": Method(
        fedgh,
        "prototypes",
        sweep={"server_lr": (1e-3, 1.0)},
        needs=(*_STATE, *_FEATURES),
        down="head",
        up="classes * (features + 1)",
        example={"server_epochs": 2, "server_batch_size": 64},
    ),
    "fedpac": Method(
        fedpac,
        "prototypes",
        sweep={"lam": (0.1, 10.0)},
        needs=_FEATURES,
        down="w + classes * (features + 1)",
        up="w + classes * (2 * features + 1) + 1",
    ),
    "feddbe": Method(
        feddbe,
        "features",
        sweep={"kappa": (0.1, 100.0), "mu": _UNIT},
        needs=(*_STATE, *_FEATURES),
        bounds={"mu": _SHARE},
        down="w + features + 1",
        up="w + features",
    ),
    "fedcp": Method(
        fedcp,
        "features",
        sweep={"lam": (0.1, 10.0)},
        needs=(*_STATE, *_FEATURES),
        down="w + 2 * features**2 + 6 * features",
        up="w + 2 * features**2 + 6 * features",
    ),
    "gpfl": Method(
        gpfl,
        "features",
        sweep={"lam": (1e-4, 1.0), "mu": (1e-3, 1.0)},
        needs=(*_STATE, *_FEATURES),
        down="w - head + classes * features + 2 * features**2 + 6 * features",
        up="w - head + classes * features + 2 * features**2 + 6 * features",
    ),
    "fedamp": Method(fedamp, "attention", {"lam": (0.01, 10.0)}, _STATE, {"sigma": _POSITIVE}),
    "heurfedamp": Method(
        heurfedamp,
        "attention",
        sweep={"lam": (0.1, 10.0), "sigma": (1.0, 100.0), "self_weight": _UNIT},
        needs=_STATE,
        bounds={"sigma": _POSITIVE, "self_weight": _SHARE},
        variant_of="fedamp",
    ),
    "fedfomo": Method(
        fedfomo,
        "attention",
        sweep={"epsilon": _UNIT},
        needs=(*_STATE, "validation examples"),
        bounds={"epsilon": _SHARE},
        down="candidates * w",
        up="w + candidates",
    ),
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
