"""pfljax: a vectorized simulator for personalized federated learning.

`import pfljax as pfl`, then: `load` a data set, `federate` it with a partitioner, make a `model` and its task, build
algorithms from solvers, `simulate` or `compare` them. README.md shows it in fifteen lines.
"""

import contextlib

from pfljax import losses, masks, metrics, models, plots, programs, reduce, sampling, schedules, sharding, sweeps, tree
from pfljax.algorithms import (
    METHODS,
    apfl,
    centralized,
    ditto,
    fedadagrad,
    fedadam,
    fedamp,
    fedavg,
    fedavg_finetuned,
    fedavgm,
    fedbabu,
    fedbn,
    fedper,
    fedprox,
    fedrep,
    fedyogi,
    heurfedamp,
    ifca,
    lg_fedavg,
    local_only,
    per_fedavg,
    pfedme,
    reptile,
    scaffold,
)
from pfljax.checkpoint import Checkpoints
from pfljax.course import Diverged
from pfljax.data import FederatedData, federate, from_arrays, from_clients, load
from pfljax.data.partition import (
    by_index,
    classes_per_client,
    dirichlet,
    dirichlet_client,
    iid,
    natural,
    power_law,
    shards,
)
from pfljax.data.synthetic import synthetic, synthetic_v2
from pfljax.engine import Simulation, simulate
from pfljax.ensemble import Ensemble, Point, simulate_many
from pfljax.experiment import Config, compare, compare_methods, run
from pfljax.local import descent, epochs, full_batch, only, proximal_descent, same, steps
from pfljax.results import Comparison, Result
from pfljax.server import fedopt
from pfljax.skeletons import averaging, decoupled, fine_tuned
from pfljax.sweeps import Sweep, spaces, sweep
from pfljax.tasks import classification, regression
from pfljax.types import (
    Algorithm,
    Batch,
    ClientData,
    Cohort,
    Examples,
    Model,
    Params,
    Plan,
    Reduce,
    Reply,
    State,
    Task,
)

with contextlib.suppress(RuntimeError):  # JAX has computed already; a simulation says so
    sharding.use_cores()
programs.keep()

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "Algorithm",
    "Batch",
    "Checkpoints",
    "ClientData",
    "Cohort",
    "Comparison",
    "Config",
    "Diverged",
    "Ensemble",
    "Examples",
    "FederatedData",
    "Model",
    "Params",
    "Plan",
    "Point",
    "Reduce",
    "Reply",
    "Result",
    "Simulation",
    "State",
    "Sweep",
    "Task",
    "apfl",
    "averaging",
    "by_index",
    "centralized",
    "classes_per_client",
    "classification",
    "compare",
    "compare_methods",
    "decoupled",
    "descent",
    "dirichlet",
    "dirichlet_client",
    "ditto",
    "epochs",
    "fedadagrad",
    "fedadam",
    "fedamp",
    "fedavg",
    "fedavg_finetuned",
    "fedavgm",
    "fedbabu",
    "fedbn",
    "federate",
    "fedopt",
    "fedper",
    "fedprox",
    "fedrep",
    "fedyogi",
    "fine_tuned",
    "from_arrays",
    "from_clients",
    "full_batch",
    "heurfedamp",
    "ifca",
    "iid",
    "lg_fedavg",
    "load",
    "local_only",
    "losses",
    "masks",
    "metrics",
    "models",
    "natural",
    "only",
    "per_fedavg",
    "pfedme",
    "plots",
    "power_law",
    "proximal_descent",
    "reduce",
    "regression",
    "reptile",
    "run",
    "same",
    "sampling",
    "scaffold",
    "schedules",
    "shards",
    "simulate",
    "simulate_many",
    "spaces",
    "steps",
    "sweep",
    "sweeps",
    "synthetic",
    "synthetic_v2",
    "tree",
]
