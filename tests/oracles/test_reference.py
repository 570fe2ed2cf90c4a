"""The reference itself: its gradients against differences of its losses, its methods against published numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.oracles import numpy_reference as reference
from tests.oracles import quadratics as q

ROWS = [
    ({"A": np.repeat(a[None], n, 0), "c": np.repeat(c[None], n, 0)}, np.zeros(n))
    for a, c, n in zip(q.A, q.C, q.N, strict=True)
]
ZERO = {"w": np.zeros(2)}


def _federation(rounds: int = 1, steps: int = q.STEPS) -> reference.Federation:
    return reference.Federation(
        reference.quadratic_gradient,
        reference.quadratic_loss,
        lambda t, i, phase: [ROWS[i]] * steps,
        [[0, 1, 2]] * rounds,
        ROWS,
    )


def _examples() -> list[tuple]:
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(6, 3)), generator.integers(0, 4, 6)
    top = {"W2": generator.normal(size=(5, 4)), "b2": generator.normal(size=4)}
    deep = {"W1": generator.normal(size=(3, 5)), "b1": generator.normal(size=5), **top}
    flat = {"W2": generator.normal(size=(3, 4)), "b2": generator.normal(size=4)}
    return [
        (reference.quadratic_loss, reference.quadratic_gradient, {"w": generator.normal(size=2)}, ROWS[2]),
        (reference.network_loss, reference.network_gradient, flat, (x, y)),
        (reference.network_loss, reference.network_gradient, deep, (x, y)),
    ]


@pytest.mark.parametrize("case", range(3), ids=["quadratic", "softmax", "network"])
def test_gradients_are_slopes_and_curvatures_are_slopes_of_gradients(case):
    loss, gradient, w, rows = _examples()[case]
    v = {name: np.random.default_rng(1).normal(size=np.shape(leaf)) for name, leaf in w.items()}
    h = 1e-5
    up, down = reference.axpy(h, v, w), reference.axpy(-h, v, w)
    slope = (loss(up, rows) - loss(down, rows)) / (2 * h)
    reference.close(reference.inner(gradient(w, rows), v), slope, 1e-8)
    curved, g, g2 = reference.hessian_vector(gradient, w, rows, v), gradient(up, rows), gradient(down, rows)
    for name in w:
        reference.close(curved[name], (g[name] - g2[name]) / (2 * h), 1e-8)


def test_published_numbers():
    f = _federation()
    for result, expected in [
        (reference.fedavg(f, ZERO, lr=q.LR), (-0.127869427083, 0.395256666667)),
        (reference.fedavg(f, ZERO, lr=q.LR, by_n=False), (0.0057559375, 0.354506666667)),
        (reference.fedavg(f, ZERO, lr=q.LR, mu=1.0), (-0.105149427083, 0.324152916667)),
        (reference.fedavg(f, ZERO, lr=q.LR, by_n=False, server_lr=0.5), (0.00287796875, 0.177253333333)),
        (reference.scaffold(_federation(2), ZERO, lr=q.LR)[0], (-0.021894504115, 0.507088656669)),
    ]:
        reference.close(result["w"], expected)
    for start, expected in [("reset", (-0.128077721348, 0.08028842232)), ("warm", (-0.131428956747, 0.083939991664))]:
        own = reference.pfedme(_federation(steps=2), ZERO, [ZERO] * 3, lr=0.1, inner_lr=0.1, lam=3.0, start=start)[2]
        reference.close(own[2]["w"], expected)
    for order, expected in [
        ("exact", (0.76875, -0.49375)),
        ("first", (0.875, -0.5)),
        ("hessian_free", (0.76875, -0.49375)),
    ]:
        direction = reference.meta_gradient(reference.quadratic_gradient, ZERO, ROWS[2], 0.1, order)
        reference.close(direction["w"], expected, 1e-11)
    local = reference.local_only(f, [ZERO] * 3, lr=q.LR)
    reference.close(
        reference.fedamp_weights(local, alpha=1, sigma=2)[0],
        (0.319340208879, 0.328771177008, 0.351888614113),
        1e-12,
    )
    reference.close(
        reference.heurfedamp_weights(local, sigma=1, self_weight=1 / 3)[2],
        (0.134261410444, 0.532405256223, 1 / 3),
        1e-12,
    )
