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
from pfljax.algorithms.apple import apple
from pfljax.algorithms.aruba import aruba
from pfljax.algorithms.cbfl import cbfl
from pfljax.algorithms.ccvr import ccvr
from pfljax.algorithms.cda_fedavg import cda_fedavg
from pfljax.algorithms.centralized import centralized
from pfljax.algorithms.cfl import cfl
from pfljax.algorithms.cgpfl import cgpfl
from pfljax.algorithms.chosen_steps import fedavg_chosen_steps, fedavg_common_steps
from pfljax.algorithms.context_clustered import context_clustered
from pfljax.algorithms.dapper import dapper
from pfljax.algorithms.ditto import ditto, ditto_by_size, ditto_validated
from pfljax.algorithms.elastic import elastic_aggregation
from pfljax.algorithms.fcf import fcf
from pfljax.algorithms.fedala import fedala
from pfljax.algorithms.fedamp import fedamp, heurfedamp
from pfljax.algorithms.fedas import fedas
from pfljax.algorithms.fedavg import fedadagrad, fedadam, fedavg, fedavg_finetuned, fedavgm, fedyogi
from pfljax.algorithms.fedbabu import fedbabu
from pfljax.algorithms.fedbn import fedbn
from pfljax.algorithms.fedcac import fedcac
from pfljax.algorithms.fedcl import fedcl
from pfljax.algorithms.fedcp import fedcp
from pfljax.algorithms.fedcurv import fedcurv
from pfljax.algorithms.feddbe import feddbe
from pfljax.algorithms.feddecorr import feddecorr
from pfljax.algorithms.feddf import feddf
from pfljax.algorithms.feddyn import feddyn
from pfljax.algorithms.fedem import fedem
from pfljax.algorithms.fedfomo import fedfomo
from pfljax.algorithms.fedgh import fedgh
from pfljax.algorithms.fedgroup import fedgroup
from pfljax.algorithms.fedhealth import fedhealth
from pfljax.algorithms.fedlc import fedlc
from pfljax.algorithms.fedmd import fedmd
from pfljax.algorithms.fedmeta import fedmeta
from pfljax.algorithms.fednova import fednova
from pfljax.algorithms.fedpac import fedpac
from pfljax.algorithms.fedper import fedper
from pfljax.algorithms.fedphp import fedphp
from pfljax.algorithms.fedproto import fedproto
from pfljax.algorithms.fedprox import fedprox
from pfljax.algorithms.fedrep import fedrep
from pfljax.algorithms.fedrod import fedrod, fedrod_hyper
from pfljax.algorithms.fedsr import fedsr
from pfljax.algorithms.fedtgp import fedtgp
from pfljax.algorithms.fenda import fenda, perfcl
from pfljax.algorithms.fesem import fesem
from pfljax.algorithms.fl_hc import fl_hc
from pfljax.algorithms.gpfl import gpfl
from pfljax.algorithms.hcfl import hcfl
from pfljax.algorithms.hypcluster import hypcluster
from pfljax.algorithms.ifca import ifca
from pfljax.algorithms.knn_per import knn_per
from pfljax.algorithms.l2gd import l2gd, l2sgd_plus
from pfljax.algorithms.lcfed import lcfed
from pfljax.algorithms.lg_fedavg import lg_fedavg
from pfljax.algorithms.local_only import local_only
from pfljax.algorithms.mapper import mapper
from pfljax.algorithms.mocha import mocha, mocha_primal
from pfljax.algorithms.moon import moon
from pfljax.algorithms.mr_mtl import mr_mtl
from pfljax.algorithms.per_fedavg import per_fedavg
from pfljax.algorithms.pfedhn import pfedhn, pfedhn_pc
from pfljax.algorithms.pfedme import pfedme
from pfljax.algorithms.pfedsim import pfedsim
from pfljax.algorithms.reptile import reptile
from pfljax.algorithms.salvaging import fedavg_distilled, fedavg_ewc
from pfljax.algorithms.scaffold import scaffold
from pfljax.algorithms.superfed import superfed
from pfljax.algorithms.virtual import virtual
from pfljax.checks import Bounds
from pfljax.printing import in_brief
from pfljax.types import Algorithm

__all__ = [
    "FAMILIES",
    "METHODS",
    "Method",
    "apfl",
    "apple",
    "aruba",
    "cbfl",
    "ccvr",
    "cda_fedavg",
    "centralized",
    "cfl",
    "cgpfl",
    "context_clustered",
    "dapper",
    "ditto",
    "ditto_by_size",
    "ditto_validated",
    "elastic_aggregation",
    "fcf",
    "fedadagrad",
    "fedadam",
    "fedala",
    "fedamp",
    "fedas",
    "fedavg",
    "fedavg_chosen_steps",
    "fedavg_common_steps",
    "fedavg_distilled",
    "fedavg_ewc",
    "fedavg_finetuned",
    "fedavgm",
    "fedbabu",
    "fedbn",
    "fedcac",
    "fedcl",
    "fedcp",
    "fedcurv",
    "feddbe",
    "feddecorr",
    "feddf",
    "feddyn",
    "fedem",
    "fedfomo",
    "fedgh",
    "fedgroup",
    "fedhealth",
    "fedlc",
    "fedmd",
    "fedmeta",
    "fednova",
    "fedpac",
    "fedper",
    "fedphp",
    "fedproto",
    "fedprox",
    "fedrep",
    "fedrod",
    "fedrod_hyper",
    "fedsr",
    "fedtgp",
    "fedyogi",
    "fenda",
    "fesem",
    "fl_hc",
    "gpfl",
    "hcfl",
    "heurfedamp",
    "hypcluster",
    "ifca",
    "knn_per",
    "l2gd",
    "l2sgd_plus",
    "lcfed",
    "lg_fedavg",
    "local_only",
    "mapper",
    "method",
    "mocha",
    "mocha_primal",
    "moon",
    "mr_mtl",
    "per_fedavg",
    "perfcl",
    "pfedhn",
    "pfedhn_pc",
    "pfedme",
    "pfedsim",
    "reptile",
    "scaffold",
    "superfed",
    "virtual",
]


@in_brief
class Method(NamedTuple):
    """One row of the table.

    Args:
      factory: makes the algorithm.
      family: of methods that are shown together.
      sweep: the usual ranges of what may be tuned.
      needs: client state, norm layers, features, class labels, validation examples, groups, public data,
        lasting examples (those of a client never change).
      bounds: of numbers, where they are not at least 0, and counts at least 1.
      prepare: a federation -> the one that trains; None: itself.
      down, up: numbers that a client receives in a round, and sends: formulas of the numbers of a model `w`, of its
        `head`, its `norms` and their statistics `stats`, of its trained `leaves`, of `inputs`, `features`, `clients`,
        `classes`, `groups`, and of options.
      variant_of: another row whose clients do the same.
      draws: clients draw random numbers besides their minibatches.
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
    draws: bool = False
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

FAMILIES = {
    "baseline": "what every comparison needs: each client alone, and all data in one place",
    "averaging": "clients are alike, or one model has to do",
    "proximal": "clients drift apart on many local steps; personal models near a common one, by lam",
    "control variates": "one model, many local steps on clients that differ",
    "meta-learning": "a start from which a few steps on little data suffice, newcomers too",
    "adaptation": "a good server model is there, and each client has data to adapt it",
    "partial sharing": "labels differ, inputs do not (personal heads), or the other way round (personal bodies, norms)",
    "prototypes": "classes mean the same everywhere, and clients have few of them; networks may differ",
    "features": "what clients see differs in ways that a part of the network can take out",
    "mixture": "clients mix common and own, each to its own degree",
    "clustering": "there are groups of clients, known or to be found",
    "relational": "some clients help each other more than others, which is to be learned",
    "multi-task": "each client is a task, and the relations between tasks are learned",
    "distillation": "examples that everybody may see; networks may differ",
    "memory": "clients have examples at hand when they predict",
}
"""The families of methods, in the order in which they are shown: when to try one."""

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
    "fedavg_chosen_steps": Method(
        fedavg_chosen_steps,
        "adaptation",
        needs=("validation examples",),
        bounds={"passes": Bounds(least=0)},
        example={"passes": 2},
    ),
    "fedavg_common_steps": Method(
        fedavg_common_steps,
        "adaptation",
        needs=("validation examples",),
        bounds={"passes": Bounds(least=0)},
        down="w + passes + 1",
        up="w + passes + 1",
        example={"passes": 2},
    ),
    "fedavg_distilled": Method(
        fedavg_distilled,
        "adaptation",
        sweep={"alpha": _UNIT, "temperature": (1.0, 10.0)},
        needs=("class labels",),
        bounds={"alpha": _SHARE, "temperature": _POSITIVE},
        example={"alpha": 0.5},
    ),
    "fedavg_ewc": Method(fedavg_ewc, "adaptation", {"lam": (1.0, 1e4)}, example={"lam": 1.0}),
    "fedhealth": Method(
        fedhealth,
        "adaptation",
        sweep={"lam": (1e-3, 10.0)},
        needs=("public data", "features"),
        example={"lam": 1.0},
    ),
    "cda_fedavg": Method(
        cda_fedavg,
        "adaptation",
        needs=_STATE,
        bounds={"threshold": _POSITIVE},
        up="w + 1",
    ),
    "ccvr": Method(
        ccvr,
        "averaging",
        needs=_FEATURES,
        down="w + head",
        bounds={"power": _POSITIVE},
        up="w + classes * (1 + features + features**2)",
        example={"samples": 3},
    ),
    "fedlc": Method(fedlc, "averaging", {"tau": (0.1, 2.0)}, _FEATURES),
    "feddecorr": Method(feddecorr, "averaging", {"beta": (0.01, 1.0)}, ("features",)),
    "elastic_aggregation": Method(
        elastic_aggregation,
        "averaging",
        sweep={"tau": (0.1, 1.0)},
        bounds={"mu": _BELOW_1, "share": _BELOW_1},
        up="w + leaves",
    ),
    "fedsr": Method(
        fedsr,
        "averaging",
        sweep={"alpha": (1e-3, 0.1), "beta": (1e-5, 1e-2)},
        needs=_FEATURES,
        down="w + features * (features + 1 + 2 * classes)",
        up="w + features * (features + 1 + 2 * classes)",
        draws=True,
    ),
    "fedprox": Method(fedprox, "proximal", {"mu": (1e-3, 1.0)}),
    "scaffold": Method(
        scaffold,
        "control variates",
        sweep={"lr": (1e-3, 1.0), "server_lr": (0.1, 1.0)},
        needs=_STATE,
        down="2 * w - stats",
        up="2 * w - stats",
    ),
    "feddyn": Method(feddyn, "control variates", {"alpha": (1e-3, 1.0)}, _STATE, {"alpha": _POSITIVE}),
    "fednova": Method(fednova, "averaging", {"mu": (0.0, 1.0)}, up="w + 1"),
    "fedcurv": Method(
        fedcurv,
        "proximal",
        sweep={"lam": (1e-3, 10.0)},
        needs=_STATE,
        down="3 * w - 2 * stats + 1",
        up="3 * w - 2 * stats",
    ),
    "fedcl": Method(fedcl, "proximal", {"lam": (1e-2, 10.0)}, ("public data",), down="2 * w - stats"),
    "moon": Method(moon, "proximal", {"mu": (1e-3, 10.0)}, (*_STATE, *_FEATURES), {"temperature": _POSITIVE}),
    "fenda": Method(fenda, "partial sharing", needs=(*_STATE, *_FEATURES), down="w - head", up="w - head"),
    "perfcl": Method(
        perfcl,
        "proximal",
        sweep={"mu": (0.1, 10.0), "gamma": (0.1, 10.0)},
        needs=(*_STATE, *_FEATURES),
        bounds={"temperature": _POSITIVE},
        down="w - head",
        up="w - head",
    ),
    "fedper": Method(fedper, "partial sharing", needs=_STATE, down="w - head", up="w - head"),
    "fedas": Method(
        fedas,
        "partial sharing",
        needs=(*_STATE, *_FEATURES),
        down="w - head",
        up="w - head + 1",
        example={"batch_size": 5},
    ),
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
    "fedmeta": Method(
        fedmeta,
        "meta-learning",
        sweep={"alpha": (1e-3, 0.5), "server_lr": (1e-4, 1e-1)},
        bounds={"support": Bounds(above=0, most=1)},
        down="2 * w - stats",
        up="2 * w - stats",
        example={"server_lr": 1e-4},  # of a gradient that is 0 but for rounding, Adam makes a step
    ),
    "aruba": Method(
        aruba,
        "meta-learning",
        sweep={"lr": (1e-2, 1.0), "zeta": (1e-2, 10.0), "coefficient": (0.0, 1.0)},
        bounds={"lr": _POSITIVE, "zeta": _POSITIVE},
        down="3 * w - 2 * stats",
        up="2 * w - stats",
    ),
    "reptile": Method(reptile, "meta-learning", {"server_lr": (0.1, 1.0)}),
    "pfedme": Method(
        pfedme,
        "proximal",
        sweep={"lr": (1e-3, 0.1), "inner_lr": (1e-3, 0.1), "lam": (1.0, 30.0), "beta": (0.5, 4.0)},
        needs=_STATE,
        example={"inner_steps": 2, "lam": 2.0},
    ),
    "ditto": Method(ditto, "proximal", {"lam": (0.01, 2.0)}, _STATE),
    "ditto_by_size": Method(ditto_by_size, "proximal", {"lam": (1.0, 100.0)}, _STATE, variant_of="ditto"),
    "ditto_validated": Method(
        ditto_validated, "proximal", needs=(*_STATE, "validation examples"), example={"lams": (0.1, 2.0)}
    ),
    "mr_mtl": Method(mr_mtl, "proximal", {"lam": (0.01, 2.0)}, _STATE),
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
    "mapper": Method(mapper, "mixture", needs=(*_STATE, "validation examples"), example={"grid": (0.25, 0.75)}),
    "dapper": Method(
        dapper,
        "mixture",
        needs=("validation examples", "public data"),
        example={"grid": (0.25, 1.0), "public_batch_size": 6},
    ),
    "l2gd": Method(
        l2gd,
        "mixture",
        sweep={"lr": (1e-3, 0.1), "lam": (0.01, 10.0), "p": (0.05, 0.5)},
        needs=_STATE,
        bounds={"p": Bounds(above=0, below=1)},
        down="w + 2",
        example={"lr": 0.05, "p": 0.4},
    ),
    "l2sgd_plus": Method(
        l2sgd_plus,
        "mixture",
        sweep={"lr": (1e-3, 0.1), "lam": (0.01, 10.0), "p": (0.05, 0.5)},
        needs=_STATE,
        bounds={"p": Bounds(above=0, below=1)},
        down="2 * w - stats + 2",
        up="2 * w - stats",
        example={"lr": 0.05, "p": 0.4},
    ),
    "superfed": Method(
        superfed,
        "mixture",
        sweep={"mu": (1e-3, 0.1), "nu": (0.1, 2.0), "lam": _UNIT},
        needs=_STATE,
        bounds={"lam": _SHARE},
        down="w + 1",
        draws=True,
        example={"start": 1.0},
    ),
    "fedala": Method(
        fedala,
        "mixture",
        sweep={"weight_lr": (0.01, 1.0)},
        needs=_STATE,
        bounds={"share": _SHARE},
        example={"passes": 3},
    ),
    "fedphp": Method(
        fedphp,
        "mixture",
        sweep={"mu": _UNIT, "lam": (1e-3, 0.5)},
        needs=(*_STATE, "features"),
        bounds={"mu": _SHARE, "lam": _SHARE},
    ),
    "apple": Method(
        apple,
        "relational",
        sweep={"relation_lr": (1e-4, 0.1), "mu": (1e-3, 1.0)},
        needs=_STATE,
        bounds={"focus": _POSITIVE},
        down="(clients if downloads is None else downloads) * w + clients",
    ),
    "ifca": Method(
        ifca,
        "clustering",
        sweep={"hysteresis": (0.0, 0.5)},
        needs=_STATE,
        down="clusters * w + (starts > 1) * (starts + 1 / 4)",
        up="w + 1 + (starts > 1) * starts * clusters",
        example={"clusters": 2},
    ),
    "hypcluster": Method(
        hypcluster,
        "clustering",
        sweep={"hysteresis": (0.0, 0.5)},
        needs=_STATE,
        down="clusters * w + (starts > 1) * (starts + 1 / 4)",
        up="w + 1 + (starts > 1) * starts * clusters",
        example={"clusters": 2, "split": "validation"},
    ),
    "fesem": Method(fesem, "clustering", {"hysteresis": (0.0, 0.5)}),
    "cfl": Method(
        cfl,
        "clustering",
        sweep={"eps1": (0.01, 1.0), "eps2": (0.1, 5.0)},
        bounds={"gamma": _SHARE, "warm_up": Bounds(least=0)},
        example={"clusters": 3, "eps1": 10.0, "eps2": 0.0, "warm_up": 0},
    ),
    "fl_hc": Method(
        fl_hc,
        "clustering",
        bounds={"warm_up": Bounds(least=0)},
        example={"clusters": 3, "warm_up": 0},
    ),
    "fedgroup": Method(fedgroup, "clustering", {"inter_lr": (0.0, 0.1)}, example={"clusters": 2}),
    "cbfl": Method(
        cbfl,
        "clustering",
        sweep={"noise": (0.0, 1.0)},
        down="inputs * (2 * code + 1) + code + clusters * (w + code)",
        up="inputs * (2 * code + 1) + 2 * code + clusters * (w + 1)",
        example={"clusters": 2, "code": 3, "warm_up": 1},
    ),
    "cgpfl": Method(cgpfl, "clustering", {"mu": (0.01, 10.0)}),
    "lcfed": Method(lcfed, "clustering", {"mu": (0.01, 10.0), "lam": (0.01, 10.0)}, down="2 * w - head"),
    "hcfl": Method(
        hcfl,
        "clustering",
        sweep={"mu": (1e-3, 1.0), "lam": _UNIT},
        bounds={"lam": _SHARE, "warm_up": Bounds(least=0)},
        example={"clusters": 3, "warm_up": 0},
    ),
    "context_clustered": Method(context_clustered, "clustering", needs=("groups",), up="w + 1"),
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
    "fedmd": Method(
        fedmd,
        "distillation",
        sweep={"digest_lr": (1e-4, 1e-2)},
        needs=(*_STATE, *_FEATURES, "public data"),
        down="alignment * classes + 3",
        up="alignment * classes",
        example={"alignment": 4, "digest_lr": 0.01},
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
    "fedamp": Method(fedamp, "relational", {"lam": (0.01, 10.0)}, _STATE, {"sigma": _POSITIVE}),
    "heurfedamp": Method(
        heurfedamp,
        "relational",
        sweep={"lam": (0.1, 10.0), "sigma": (1.0, 100.0), "self_weight": _UNIT},
        needs=_STATE,
        bounds={"sigma": _POSITIVE, "self_weight": _SHARE},
        variant_of="fedamp",
    ),
    "fedfomo": Method(
        fedfomo,
        "relational",
        sweep={"epsilon": _UNIT},
        needs=(*_STATE, "validation examples"),
        bounds={"epsilon": _SHARE},
        down="candidates * w",
        up="w + candidates",
    ),
    "pfedhn": Method(
        pfedhn,
        "relational",
        sweep={"server_lr": (1e-3, 0.1)},
        bounds={"layers": Bounds(least=0), "momentum": _BELOW_1, "clip": _POSITIVE},
        example={"hidden": 5, "layers": 1},
    ),
    "pfedhn_pc": Method(
        pfedhn_pc,
        "relational",
        sweep={"server_lr": (1e-3, 0.1)},
        needs=_STATE,
        bounds={"layers": Bounds(least=0), "momentum": _BELOW_1, "clip": _POSITIVE},
        example={"hidden": 5, "layers": 1},
        down="w - head",
        up="w - head",
    ),
    "pfedsim": Method(
        pfedsim,
        "relational",
        needs=_STATE,
        bounds={"warmup": Bounds(least=0)},
        down="w + 1",
        example={"warmup": 1},
    ),
    "fedcac": Method(
        fedcac,
        "relational",
        sweep={"tau": _UNIT, "beta": (10.0, 1000.0)},
        bounds={"tau": _SHARE, "beta": _POSITIVE},
        example={"beta": 4.0},
    ),
    "mocha": Method(
        mocha,
        "multi-task",
        sweep={"lam": (1e-3, 10.0)},
        needs=(*_STATE, *_FEATURES, "lasting examples"),
        bounds={"lam": _POSITIVE, "omega_every": Bounds(least=0)},
        down="head + 1",
        up="head",
        example={"omega_every": 2},
    ),
    "mocha_primal": Method(
        mocha_primal, "multi-task", sweep={"lam": (1e-3, 1.0)}, needs=_STATE, down="w + 1", example={"omega_every": 2}
    ),
    "virtual": Method(
        virtual,
        "multi-task",
        sweep={"prior": (1.0, 1e4), "beta": (0.01, 1.0), "damping": (0.05, 1.0)},
        needs=_STATE,
        bounds={"prior": _POSITIVE, "damping": _SHARE},
        down="2 * (w - head) - stats",
        up="2 * (w - head) - stats",
        draws=True,
    ),
    "fcf": Method(
        fcf,
        "relational",
        sweep={"lam": (1e-2, 10.0), "server_lr": (1e-3, 1.0)},
        needs=("features",),
        bounds={"lam": _POSITIVE},
        down="w - head",
        up="(w - head) * (1 if step == 'adam' else 1 + features)",
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
