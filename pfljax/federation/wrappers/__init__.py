"""Wrappers: an algorithm made of another one, whatever the method.

| wrapper | what it does |
|---|---|
| `attacked` | some clients upload something else |
| `colluding` | some clients, who know what others upload, agree on something else |
| `clipped` | no upload is longer than a bound |
| `noised` | `clipped`, and Gaussian noise on the sum or on each upload |
| `compressed` | what arrives of an upload that is compressed, with error feedback |
| `reduced_by` | another reduction |
| `persistent` | solvers go on with the optimizer states of the client's last round |

Uploads are differences `received - result` in every method of the table: a model, or the part of it that is shared.
SCAFFOLD's hold its control variate beside it, which counts as part of the same vector; IFCA's hold the cluster, which
is left alone; local training alone uploads nothing, which any wrapper leaves as it is. Running statistics and whole
numbers are left alone everywhere.

They compose, the innermost first: `reduced_by(clipped(attacked(algorithm, ...), 1.0), reduce.median)` clips what
attackers send. The order of a configuration is compressed, attacked, clipped, noised, colluding, reduced.
`persistent` is the innermost, since it makes the algorithm; `skeletons.fine_tuned` is one too, of what is deployed.
"""

from pfljax.federation.wrappers.attacks import (
    alie,
    attacked,
    colluding,
    gaussian,
    inner_product,
    scaling,
    sign_flip,
    some,
)
from pfljax.federation.wrappers.compression import Compressor, compressed, quantized, random_k, sign, top_k
from pfljax.federation.wrappers.persistence import persistent
from pfljax.federation.wrappers.privacy import clipped, noised
from pfljax.federation.wrappers.reduction import reduced_by

__all__ = [
    "Compressor",
    "alie",
    "attacked",
    "clipped",
    "colluding",
    "compressed",
    "gaussian",
    "inner_product",
    "noised",
    "persistent",
    "quantized",
    "random_k",
    "reduced_by",
    "scaling",
    "sign",
    "sign_flip",
    "some",
    "top_k",
]
