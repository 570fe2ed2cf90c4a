"""`pfljax data describe`: what a configured federation is, how far its clients differ, and what to start with."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from pfljax.data import FederatedData, figures
from pfljax.data.advice import advise
from pfljax.data.heterogeneity import Estimate, heterogeneity, input_skew, noised, quantity_skew

_MEASURES = {
    "tv": "labels: total variation from those of all",
    "js": "labels: Jensen-Shannon divergence, natural logarithms",
    "w1": "labels: 1-Wasserstein distance, if they are ordered",
    "labels": "labels of a client",
    "gini": "sizes: Gini, 0 is equal",
    "cv": "sizes: standard deviation over mean",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `pfljax data describe`."""
    parser.add_argument("--config", metavar="FILE[:ARG]", help="whose data are described; the digits if left out")
    parser.add_argument("--draw", metavar="FILE", help="figures of who holds what, such as partition.png")
    parser.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="measure again, from label counts with noise and from sketches of inputs, and tell the error",
    )
    parser.epilog = "override any field: --config.data.partition.alpha=0.5"


def described(data: FederatedData, epsilon: float | None = None) -> Iterator[str]:
    """All about a federation, in lines.

    Args:
      data: the federation.
      epsilon: of the noise with which the measures are taken again; None: they are not.

    Raises:
      ValueError: if it has no test examples, or `epsilon` is not above 0.
    """
    yield f"{data!r}"
    yield f"fingerprint {data.fingerprint}"
    sizes = data.sizes()[: data.num_clients]
    yield f"training examples of a client: {sizes.min():,} to {sizes.max():,}, {sizes.mean():,.0f} on average"
    yield ""
    classes = data.num_classes is not None
    found = heterogeneity(data) if classes else quantity_skew(sizes)
    yield from (f"  {text:<54}{found[name]:8.3f}" for name, text in _MEASURES.items() if name in found)
    inputs = input_skew(data) if hasattr(data.examples.x, "dtype") else None
    if inputs is not None:
        yield f"  {'inputs: squared distance of the Gaussian kernel':<54}{inputs.truth:8.3f}"
    if epsilon is not None:
        yield ""
        yield f"without the examples, epsilon={epsilon:g}: estimate, and its error"
        told: dict[str, Estimate] = noised(data, epsilon) if classes else {}
        yield from (_estimated(_MEASURES[name], of) for name, of in told.items() if name in _MEASURES)
        if inputs is not None:
            yield _estimated("inputs: squared distance of the Gaussian kernel", inputs)
    yield ""
    yield str(advise(data))


def save(data: FederatedData, path: str) -> str:
    """Draws the federation into a file, and says so."""
    return f"drawn in {figures.save(data, path)}"


def _estimated(text: str, of: Estimate) -> str:
    return f"  {text:<54}{of.value:8.3f} {of.error:+8.3f}"
