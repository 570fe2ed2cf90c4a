"""What a partitioner returns: who holds which rows, and perhaps how each client's rows are split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pfljax.data.dataset import Dataset


class Parts(NamedTuple):
    """The rows of a client that are split already, in their order.

    Rows count the examples of a data set as they were given, and go on with those of its official test set. Clients may
    share rows, as long as none is tested on what it trains on itself.
    """

    train: Any
    test: Any = ()


Held = Sequence[Any] | np.ndarray | Mapping[Any, Any]
"""Row numbers of each client, or its `Parts`, in a list, or in a dictionary by the clients' names."""

Partitioner = Callable[[Dataset, np.random.Generator], Held]
"""`(dataset, generator) ->` row numbers of each client."""
