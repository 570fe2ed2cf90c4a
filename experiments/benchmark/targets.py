"""The project's public goals over its rivals."""

from pfljax import benchmark
from pfljax.benchmark import Target, over

_RIVALS = {
    "pfllib": {"logistic": (55, 80), "mlp": (16, 25), "cnn": (1.8, 2.5)},
    "pytorch": {"logistic": (26, 40), "mlp": (9, 14), "cnn": (1.6, 2.4)},
    "fedjax": {"logistic": (10, 15), "mlp": (4, 6), "cnn": (2, 2.8)},
}
_PERSONAL = ("ditto", "per_fedavg_first", "pfedme", "fedper")

TARGETS: tuple[Target, ...] = (
    *(
        Target(f"{workload} over {rival}", over(workload, rival), *goal)
        for rival, goals in _RIVALS.items()
        for workload, goal in goals.items()
    ),
    *(Target(f"{method} over pfllib", over(method, "pfllib"), 16, 30) for method in _PERSONAL),
    *benchmark.TARGETS,
)
"""What the project wants to reach on one machine in one run."""
