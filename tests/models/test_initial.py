"""How layers start: bounds and distributions by the formulas of PyTorch, Glorot and He, with the fan-ins by hand."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats

import pfljax as pfl
from pfljax import experiment, models

pytestmark = pytest.mark.usefixtures("strict")
KEY = jax.random.key(3)


def kaiming_uniform(fan_in, a=5**0.5):
    """The bound of `torch.nn.init.kaiming_uniform_(w, a)`, which `reset_parameters` of Linear and Conv call."""
    gain = (2 / (1 + a**2)) ** 0.5
    return 3**0.5 * gain / fan_in**0.5


def flat(model, key=KEY):
    leaves = jax.tree_util.tree_leaves_with_path(jax.jit(model.init)(key).trainable)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in leaves}


def uniform_within(values, bound):
    """Whether values are uniform in [-bound, bound]."""
    values = values.ravel()
    full = 1 - 8 / values.size < np.abs(values).max() / bound < 1  # the chance of none beyond is e^-8
    return full and stats.kstest(values, "uniform", (-bound, 2 * bound)).pvalue > 1e-3


FANS = [
    ("cnn", models.cnn((28, 28), 10, init="torch"), {"Conv_0": 25, "Conv_1": 800, "Dense_0": 1024, "classifier": 512}),
    ("mlp", models.mlp((7, 3), 5, (40,), init="torch"), {"Dense_0": 21, "classifier": 40}),
    ("logistic", models.logistic((13,), 2, reference=True, init="torch"), {"classifier": 13}),
    ("apart", models.from_linen(nn.Conv(12, (3, 3), feature_group_count=6), (4, 4, 6), init="torch"), {"": 9}),
]  # fmt: skip


@pytest.mark.parametrize(("model", "fans"), [fans[1:] for fans in FANS], ids=[fans[0] for fans in FANS])
def test_torch_is_uniform_within_its_bound(model, fans):
    leaves = flat(model)
    for layer, fan_in in fans.items():
        assert kaiming_uniform(fan_in) == pytest.approx(fan_in**-0.5)
        parts = [leaf for name, leaf in leaves.items() if name.rpartition("/")[0] == layer]
        assert len(parts) == 2
        for leaf in parts:
            assert uniform_within(leaf, fan_in**-0.5), layer


@pytest.mark.slow
def test_biases_of_torch_are_drawn_anew_with_every_key():
    draws = np.concatenate([flat(models.logistic((9,), 4, init="torch"), jax.random.key(n))["classifier/bias"]
                            for n in range(100)])  # fmt: skip
    assert uniform_within(draws, 1 / 3)


def test_recurrent_layers_and_embeddings_of_torch():
    leaves = flat(models.char_lstm(90, 4, embedding=8, hidden=64, layers=2, init="torch"))
    for name in ("LSTM_0/input/kernel", "LSTM_0/input/bias", "LSTM_0/kernel", "LSTM_1/input/kernel"):
        assert uniform_within(leaves[name], 1 / 8), name
    assert stats.kstest(leaves["Embed_0/embedding"].ravel(), "norm").pvalue > 1e-3
    assert uniform_within(leaves["classifier/kernel"], 1 / 8)


def test_glorot_and_he():
    glorot, he = (flat(models.cnn((28, 28, 1), 10, init=init)) for init in ("glorot", "he"))
    for name, fans in {"Conv_1": (25 * 32, 25 * 64), "Dense_0": (1024, 512), "classifier": (512, 10)}.items():
        assert uniform_within(glorot[f"{name}/kernel"], (6 / sum(fans)) ** 0.5), name
        assert not glorot[f"{name}/bias"].any()
        kernel, spread = he[f"{name}/kernel"].ravel(), (2 / fans[0]) ** 0.5
        assert kernel.std() == pytest.approx(spread, rel=5 / (2 * kernel.size) ** 0.5)
        assert (
            np.abs(kernel).max() < 2.3 * spread
        )  # two standard deviations before it was cut off, which are 0.88 of it


def test_a_function_draws_kernels_of_inputs_by_outputs():
    shapes = []

    def numbered(key, shape, dtype):
        shapes.append(shape)
        return jnp.arange(np.prod(shape), dtype=dtype).reshape(shape)

    leaves = flat(models.mlp((2,), 3, (4,), init=numbered))
    assert shapes == [(2, 4), (4, 3)]
    np.testing.assert_array_equal(leaves["classifier/kernel"], np.arange(12).reshape(4, 3).T)
    assert not leaves["Dense_0/bias"].any()
    with pytest.raises(ValueError, match=r"init gives \[3\] for a kernel \[2, 4\]"):
        models.mlp((2,), 3, (4,), init=lambda key, shape, dtype: jnp.zeros(3)).init(KEY)
    with pytest.raises(ValueError, match=r"init='touch': it must be .* or a function; did you mean 'torch'"):
        models.cnn((8, 8), 2, init="touch")  # pyright: ignore


def test_what_is_built_to_start_in_a_way_of_its_own_does():
    model = models.mlp((5,), 3, (80,), vector=2, bottleneck=4, low_rank=2, norm="layer", init="torch")
    leaves = flat(model)
    for name in (
        "bottleneck_0/up/kernel",
        "bottleneck_0/up/bias",
        "low_rank_0/up/kernel",
        "vector/vector",
        "norm_0/bias",
    ):
        assert not leaves[name].any(), name
    assert (leaves["norm_0/scale"] == 1).all()
    assert uniform_within(leaves["bottleneck_0/down/kernel"], 80**-0.5)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.DenseGeneral((4, 16), axis=(-2, -1))(x)
        return nn.Dense(3)(nn.ConvTranspose(6, (3,))(nn.RNN(nn.OptimizedLSTMCell(9))(x)).reshape(x.shape[0], -1))


def test_layers_of_flax():
    leaves = flat(models.from_linen(Attention(), (5, 8), init="torch"))
    assert uniform_within(leaves["DenseGeneral_0/kernel"], 40**-0.5)
    assert uniform_within(leaves["ConvTranspose_0/kernel"], 27**-0.5)
    assert all(uniform_within(leaf, 1 / 3) for name, leaf in leaves.items() if name.startswith("OptimizedLSTMCell_0"))
    glorot = flat(models.from_linen(Attention(), (5, 8), init="glorot"))
    assert uniform_within(glorot["DenseGeneral_0/kernel"], (6 / (40 + 64)) ** 0.5)


def test_flax_is_what_the_module_has():
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    ours = models.from_linen(module, (3,)).init(KEY).trainable
    for mine, flax in zip(jax.tree.leaves(ours), jax.tree.leaves(module.init(KEY, jnp.ones((1, 3)))), strict=True):
        np.testing.assert_array_equal(mine, flax)


@pytest.mark.parametrize("name", models.MODELS)
def test_every_model_has_the_choice(name):
    shape = (
        (16, 16, 3) if name.startswith(("resnet", "mobilenet")) or name == "cnn" else () if name == "factors" else (16,)
    )
    options: dict = {"tabular": {"categories": (3, 4)}, "contextual": {"context": 4}}.get(name, {})
    drawn = {init: models.by_name(name, shape, 4, init=init, **options).init for init in ("flax", "torch")}
    assert jax.eval_shape(drawn["flax"], KEY) == jax.eval_shape(drawn["torch"], KEY)
    assert str(jax.make_jaxpr(drawn["flax"])(KEY)) != str(jax.make_jaxpr(drawn["torch"])(KEY))


def test_configurations_and_sweeps_choose():
    config = {"data": {"partition": {"name": "iid", "clients": 2}}, "model": {"name": "logistic", "init": "torch"},
              "local": {"lr": 0.0}, "run": {"rounds": 1}}  # fmt: skip
    swept = pfl.sweep(config, {"model.init": ["flax", "torch"]})
    flax, torch = (swept.results[point.id].scores["global", "test", "loss"] for point in swept.points)
    assert not np.array_equal(flax, torch)
    alone = pfl.run(experiment.from_config_dict(json.loads(json.dumps(config))))
    np.testing.assert_allclose(torch, alone.scores["global", "test", "loss"], rtol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'glorot'"):
        experiment.from_config_dict({"model": {"name": "mlp", "init": "glorott"}})
    with pytest.raises(ValueError, match="give a Model"):
        pfl.simulate(
            pfl.federate(pfl.load("digits"), pfl.iid(2)), {"name": "mlp", "init": nn.initializers.ones}, "fedavg"
        )
