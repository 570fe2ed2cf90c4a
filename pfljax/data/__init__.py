"""Data sets, and how their examples are dealt to clients."""

from pfljax.data import drift, heterogeneity, lists, partition, published, synthetic
from pfljax.data.dataset import Dataset, from_arrays
from pfljax.data.drift import drifting
from pfljax.data.federated import FederatedData, deal, federate, from_clients
from pfljax.data.groups import featurized, grouped, in_turn, kinds, num_groups
from pfljax.data.partition import Partitioner
from pfljax.data.shifts import shifted
from pfljax.data.sources import load
from pfljax.data.table import from_frame

__all__ = [
    "Dataset",
    "FederatedData",
    "Partitioner",
    "deal",
    "drift",
    "drifting",
    "featurized",
    "federate",
    "from_arrays",
    "from_clients",
    "from_frame",
    "grouped",
    "heterogeneity",
    "in_turn",
    "kinds",
    "lists",
    "load",
    "num_groups",
    "partition",
    "published",
    "shifted",
    "synthetic",
]
