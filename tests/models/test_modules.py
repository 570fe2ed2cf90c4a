"""Modules of nnx: the same network by hand, the key of dropout, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import pfljax as pfl
from pfljax import models

KEY = jax.random.key(0)


class Network(nnx.Module):
    def __init__(self, rngs, rate=0.0):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.above = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.above(self.drop(nnx.relu(self.norm(self.first(x)))))


def made(kind):
    """What makes a module of a kind."""

    def module(rngs):
        return kind(rngs)

    return module


def test_parts_are_those_of_the_network():
    model = models.from_nnx(made(Network), (3,))
    assert model.blocks == ("first", "norm", "above")
    assert model.norms == ("norm",)
    params, x = model.init(KEY), np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    w = jax.tree.map(np.asarray, params.trainable)
    z = x @ w["first"]["kernel"] + w["first"]["bias"]
    z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-6)
    z = np.maximum(z, 0)
    np.testing.assert_allclose(model.features(params, x)[0], z, atol=1e-5)  # pyright: ignore
    np.testing.assert_allclose(model.apply(params, x)[0], z @ w["above"]["kernel"] + w["above"]["bias"], atol=1e-5)
    other = model.init(jax.random.key(1)).trainable
    assert not np.array_equal(other["first"]["kernel"], w["first"]["kernel"])
    np.testing.assert_allclose(model.apply(pfl.Params(other), x)[0], Network(nnx.Rngs(jax.random.key(1)))(x), atol=1e-6)


def test_dropout_is_fed_by_the_key():
    model = models.from_nnx(lambda rngs: Network(rngs, 0.5), (3,))
    params, x = model.init(KEY), jnp.ones((4, 3))
    trained = [model.apply(params, x, train=True, key=jax.random.key(n))[0] for n in (1, 1, 2)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert not np.array_equal(trained[0], trained[2])
    np.testing.assert_array_equal(*(model.apply(params, x, key=jax.random.key(n))[0] for n in (1, 2)))


def test_methods_find_the_head():
    def network(rngs):
        return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), nnx.relu, nnx.Linear(6, 2, rngs=rngs))

    model = models.from_nnx(network, (4,))
    assert (model.blocks, model.features_shape) == (("layers/0", "layers/2"), (6,))
    draw = np.random.default_rng(1)
    x = draw.normal(size=(60, 4)).astype(np.float32)
    data = pfl.federate(pfl.from_arrays(x, (x[:, 0] > 0).astype(int)), pfl.iid(3))
    result = pfl.simulate(data, model, "fedper", rounds=3, local={"lr": 0.3, "epochs": 5})
    own = [result.models[name].params.trainable["layers"] for name in ("0", "1")]  # pyright: ignore
    np.testing.assert_array_equal(own[0]["0"]["kernel"], own[1]["0"]["kernel"])
    assert not np.array_equal(own[0]["2"]["kernel"], own[1]["2"]["kernel"])
    assert result.curve()[-1] > 0.8


def test_modules_that_cannot_be_meant():
    def normed(rngs):
        return nnx.Sequential(nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs))

    class Doubled(Network):
        def __call__(self, x):
            return 2 * super().__call__(x)

    class Counting(Network):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.seen = nnx.Variable(jnp.zeros(()))

    assert models.from_nnx(made(Doubled), (3,)).features is None
    with pytest.raises(ValueError, match="batch norm of nnx counts padded rows"):
        models.from_nnx(normed, (3,))
    with pytest.raises(ValueError, match=r"module keeps \['Variable'\]"):
        models.from_nnx(made(Counting), (3,))
    with pytest.raises(ValueError, match="head='frist': did you mean 'first'"):
        models.from_nnx(made(Network), (3,), head="frist")
