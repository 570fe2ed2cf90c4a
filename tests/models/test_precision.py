"""What is computed in a lower precision, and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import models
from pfljax.models.precision import Precision
from tests.zoo import FEATURES, MODEL

KEY = jax.random.key(0)
PARAMS = MODEL.init(KEY)
X = jax.random.normal(KEY, (5, FEATURES))


def gradient(precision: Precision) -> Any:
    """A function of the parameters: the gradient of the sum of squared outputs, and the new statistics."""
    model = models.compute_in(MODEL, precision)

    def loss(trainable: Any) -> tuple[jax.Array, Any]:
        outputs, stats = model.apply(PARAMS._replace(trainable=trainable), X, train=True)
        return jnp.sum(outputs**2), (outputs, stats)

    return jax.grad(loss, has_aux=True)


def products(jaxpr: Any) -> Iterator[Any]:
    """Every matrix product, wherever it is."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda value: hasattr(value, "eqns")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from products(getattr(inner, "jaxpr", inner))


def test_bfloat16_is_inside_only():
    found = list(products(jax.make_jaxpr(gradient("bfloat16"))(PARAMS.trainable).jaxpr))
    assert found
    assert {var.aval.dtype for eqn in found for var in eqn.invars} == {jnp.dtype(jnp.bfloat16)}
    rough, (outputs, stats) = gradient("bfloat16")(PARAMS.trainable)
    exact, (expected, means) = gradient("default")(PARAMS.trainable)
    assert {leaf.dtype for leaf in jax.tree.leaves((rough, outputs, stats))} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(outputs, expected, atol=0.05)
    assert np.any(outputs != expected), "nothing was rounded"
    for a, b in zip(jax.tree.leaves((rough, stats)), jax.tree.leaves((exact, means)), strict=True):
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max() + 0.05)


@pytest.mark.parametrize(("precision", "wanted"), [("tf32", "tensorfloat32"), ("float32", "highest")])
def test_products_ask_for_their_precision(precision: Precision, wanted: str):
    found = list(products(jax.make_jaxpr(gradient(precision))(PARAMS.trainable).jaxpr))
    assert found
    with jax.default_matmul_precision(wanted):
        like = next(products(jax.make_jaxpr(jnp.dot)(X, X.T).jaxpr)).params["precision"]
    assert {str(eqn.params["precision"]) for eqn in found} == {str(like)}


def test_an_unknown_precision():
    with pytest.raises(ValueError, match="precision='bf16'"):
        models.compute_in(MODEL, "bf16")  # pyright: ignore[reportArgumentType]
