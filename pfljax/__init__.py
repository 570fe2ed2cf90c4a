"""pfljax: a vectorized simulator for personalized federated learning.

`import pfljax as pfl`, then: `load` a data set, `federate` it with a partitioner, make a `model` and its task, build
algorithms from solvers, `simulate` or `compare` them. README.md shows it in fifteen lines.
"""

from pfljax import algorithms, masks, models, tree
from pfljax.algorithms import METHODS
from pfljax.data import FederatedData, federate, from_arrays, from_clients, from_frame, grouped, load
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
from pfljax.engine.checkpoint import Checkpoints
from pfljax.engine.course import Diverged
from pfljax.engine.ensemble import Ensemble, Point, simulate_many
from pfljax.engine.process import configure
from pfljax.engine.simulation import Simulation
from pfljax.experiment import callbacks, sweeps
from pfljax.experiment.config import Config
from pfljax.experiment.door import compare, simulate
from pfljax.experiment.runs import run
from pfljax.experiment.studies import compare_methods, resume
from pfljax.experiment.sweeps import Sweep, spaces, sweep
from pfljax.federation import reduce, sampling, wrappers
from pfljax.federation.kinds import of_kinds
from pfljax.federation.server import fedopt
from pfljax.federation.skeletons import averaging, decoupled, fine_tuned
from pfljax.learning import losses, metrics, schedules, tasks
from pfljax.learning.local import descent, only, proximal_descent
from pfljax.learning.plans import epochs, full_batch, same, steps
from pfljax.learning.tasks import classification, multilabel, ordinal, regression
from pfljax.results import plots, statistics
from pfljax.results.comparison import Comparison
from pfljax.results.result import Result
from pfljax.types import (
    Algorithm,
    Batch,
    ClientData,
    Cohort,
    Draw,
    Examples,
    Metric,
    Model,
    Params,
    Plan,
    Reduce,
    Reply,
    Selector,
    State,
    Task,
)

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
    "Draw",
    "Ensemble",
    "Examples",
    "FederatedData",
    "Metric",
    "Model",
    "Params",
    "Plan",
    "Point",
    "Reduce",
    "Reply",
    "Result",
    "Selector",
    "Simulation",
    "State",
    "Sweep",
    "Task",
    "algorithms",
    "averaging",
    "by_index",
    "callbacks",
    "classes_per_client",
    "classification",
    "compare",
    "compare_methods",
    "configure",
    "decoupled",
    "descent",
    "dirichlet",
    "dirichlet_client",
    "epochs",
    "federate",
    "fedopt",
    "fine_tuned",
    "from_arrays",
    "from_clients",
    "from_frame",
    "full_batch",
    "grouped",
    "iid",
    "load",
    "losses",
    "masks",
    "metrics",
    "models",
    "multilabel",
    "natural",
    "of_kinds",
    "only",
    "ordinal",
    "plots",
    "power_law",
    "proximal_descent",
    "reduce",
    "regression",
    "resume",
    "run",
    "same",
    "sampling",
    "schedules",
    "shards",
    "simulate",
    "simulate_many",
    "spaces",
    "statistics",
    "steps",
    "sweep",
    "sweeps",
    "synthetic",
    "synthetic_v2",
    "tasks",
    "tree",
    "wrappers",
]
