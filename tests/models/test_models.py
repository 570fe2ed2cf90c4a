"""Models: sizes by hand, convolution against XLA, norm layers, blocks."""

import itertools
import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from pfljax import masks, models, tree
from pfljax.models.kernels import convolve as convolution
from pfljax.models.linen import from_linen
from pfljax.types import Params
from tests.zoo import slow_but_for

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("strict")


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(model.init, KEY).trainable))


def dense(inputs, outputs):
    return (inputs + 1) * outputs


def lstm(inputs, hidden):
    return 4 * hidden * (inputs + hidden + 1)


def resnet(stages, width, channels, classes):
    """Parameters by the architecture: kernels, and two numbers a channel for the norm after each convolution."""
    total, before = 9 * channels * width + 2 * width, width
    for stage, blocks in enumerate(stages):
        now = width * 2**stage
        for block in range(blocks):
            total += 9 * before * now + 2 * now + 9 * now * now + 2 * now
            if block == 0 and stage > 0:
                total += before * now + 2 * now
            before = now
    return total + dense(before, classes)


def separable(classes):
    widths = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
    total = 27 * 32 + 2 * 32 + dense(1024, classes)
    return total + sum(9 * a + 2 * a + a * b + 2 * b for a, b in itertools.pairwise(widths))


@pytest.mark.parametrize(
    ("model", "expected", "blocks"),
    [
        (models.logistic((28, 28), 10), 7850, 1),
        (models.mlp((28, 28, 1), 10), dense(784, 100) + dense(100, 10), 2),
        (models.mlp((5,), 3, (7, 6)), dense(5, 7) + dense(7, 6) + dense(6, 3), 3),
        (models.cnn((28, 28, 1), 10), 582_026, 4),
        (models.cnn((8, 8), 10), 26 * 32 + 801 * 64 + dense(2 * 2 * 64, 512) + dense(512, 10), 4),
        (models.resnet8((32, 32, 3), 10), resnet((1, 1, 1), 16, 3, 10), 5),
        (models.resnet18((32, 32, 3), 10, norm="batch"), resnet((2, 2, 2, 2), 64, 3, 10), 10),
        (models.resnet18((32, 32, 3), 10), 11_173_962, 10),
        (models.resnet34((32, 32, 3), 100), resnet((3, 4, 6, 3), 64, 3, 100), 18),
        (models.resnet34((224, 224, 3), 1000, norm="batch"), 21_797_672, 18),
        (models.mobilenet_v1((32, 32, 3), 100), separable(100), 15),
        (models.mobilenet_v1((224, 224, 3), 1000, norm="batch"), 4_231_976, 15),
        (models.char_lstm(80), 80 * 8 + lstm(8, 256) + lstm(256, 256) + dense(256, 80), 4),
        (models.char_lstm(90), 820_522, 4),
    ],
)
def test_parameters_and_blocks(model, expected, blocks):
    assert count(model) == expected
    assert len(model.blocks) == blocks
    assert model.blocks[-1] == "classifier"


@pytest.mark.parametrize(
    ("model", "norms"),
    [(models.resnet8((8, 8, 3), 4, norm="batch"), 1 + 3 * 2 + 2), (models.mobilenet_v1((8, 8, 3), 4, 0.1), 27)],
)
def test_head_counts_blocks_from_the_output(model, norms):
    params = jax.eval_shape(model.init, KEY)
    held = [sum(jax.tree.leaves(masks.head(model, k)(params))) for k in range(len(model.blocks) + 1)]
    assert held[0] == 0
    assert held[1] == 2  # kernel and bias of the classifier
    assert held == sorted(set(held))
    assert held[-1] == len(jax.tree.leaves(params))
    assert len(model.norms) == len(set(model.norms)) == norms
    assert sum(jax.tree.leaves(masks.norms(model, stats=False)(params))) == 2 * norms
    with pytest.raises(ValueError, match="personal blocks asked for"):
        masks.head(model, len(model.blocks) + 1)


@pytest.mark.parametrize("norm", ["group", "batch", "layer"])
@pytest.mark.parametrize("factory", [models.resnet8, models.mobilenet_v1])
def test_outputs_are_logits(factory, norm):
    model = factory((8, 8, 3), 4, norm=norm, **({"width": 0.1} if factory is models.mobilenet_v1 else {}))
    params = jax.eval_shape(model.init, KEY)
    logits, stats = jax.eval_shape(model.apply, params, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.uint8))
    assert logits.shape == (2, 4)
    assert bool(stats) == (norm == "batch")


def test_unknown_norm():
    with pytest.raises(ValueError, match="norm='bath': did you mean 'batch'"):
        models.resnet8((8, 8, 3), 4, norm="bath")  # pyright: ignore


def test_context_is_read_beside_the_features():
    """`W (relu(V x + v), c) + b`, of arrays and of images; without hidden layers it is beside the inputs."""
    draw, images = np.random.default_rng(0), cast(Any, models.cnn((8, 8, 1), 3))
    made: Any = models.contextual(models.mlp((4,), 3, (5,)), 3, context=2)
    params = made.init(KEY)
    first, last = (jax.tree.map(np.asarray, params.trainable[block]) for block in made.blocks)
    x = draw.normal(size=(6, 4 + 2)).astype(np.float32)
    z = np.concatenate([np.maximum(x[:, :4] @ first["kernel"] + first["bias"], 0), x[:, 4:]], axis=1)
    np.testing.assert_allclose(made.apply(params, x)[0], z @ last["kernel"].T + last["bias"], rtol=1e-5, atol=1e-6)
    plain, beside = models.logistic((6,), 3), models.contextual(models.logistic((4,), 3), 3, context=2)
    np.testing.assert_array_equal(plain.apply(plain.init(KEY), x)[0], beside.apply(plain.init(KEY), x)[0])
    made = models.contextual(images, 3, context=2)
    params, pixels = made.init(KEY), draw.normal(size=(2, 8, 8, 1)).astype(np.float32)
    known = np.array([[1.0, 0], [0, 1]], np.float32)
    x = np.concatenate([pixels, np.broadcast_to(known[:, None, None], (2, 8, 8, 2))], axis=-1)
    z = made.features(params, x)[0]
    np.testing.assert_array_equal(z[:, -2:], known)
    np.testing.assert_array_equal(z[:, :-2], images.features(params, pixels)[0].reshape(2, -1))
    assert masks.head(made)(params).trainable[made.blocks[-1]] == {"kernel": True, "bias": True}
    with pytest.raises(ValueError, match="context goes beside features, and the model has none"):
        models.contextual(images._replace(features=None), 3, context=2)


def test_by_name():
    assert count(models.by_name("mlp", (4,), 3, hidden=(5,))) == dense(4, 5) + dense(5, 3)
    assert count(models.by_name("char_lstm", (20,), 90)) == 820_522
    with pytest.raises(ValueError, match="did you mean 'resnet18'"):
        models.by_name("resnet_18", (8, 8, 3), 4)
    with pytest.raises(ValueError, match="no model 'xyz': there are"):
        models.by_name("xyz", (4,), 3)


def test_the_names_of_the_registry_are_exported():
    assert set(models.MODELS) <= set(models.__all__) == {n for n in models.__all__ if hasattr(models, n)}


def test_lstm_is_the_textbook_recurrence():
    model = models.char_lstm(7, 5, embedding=3, hidden=4, layers=2)
    params = model.init(KEY)
    tokens = np.asarray(jax.random.randint(KEY, (2, 5), 0, 7))

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    tree = jax.tree.map(np.asarray, params.trainable)
    x = tree["Embed_0"]["embedding"][tokens]
    for layer in ("LSTM_0", "LSTM_1"):
        h = c = np.zeros((2, 4))
        states = []
        for t in range(5):
            gates = x[:, t] @ tree[layer]["input"]["kernel"] + tree[layer]["input"]["bias"] + h @ tree[layer]["kernel"]
            i, f, g, o = (gates[:, 4 * k : 4 * k + 4] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            states.append(h)
        x = np.stack(states, axis=1)
    logits = x[:, -1] @ tree["classifier"]["kernel"].T + tree["classifier"]["bias"]
    np.testing.assert_allclose(model.apply(params, tokens.astype(np.uint8))[0], logits, atol=2e-6)
    np.testing.assert_array_equal(tree["LSTM_0"]["input"]["bias"], np.repeat([0, 1, 0, 0], 4))


@pytest.mark.parametrize("model", [models.cnn((8, 8, 1), 3), models.logistic((8, 8, 1), 3)])
def test_bytes_are_mapped_to_the_interval(model):
    params = model.init(KEY)
    x = jax.random.bits(KEY, (4, 8, 8, 1), jnp.uint8)
    mapped = (np.asarray(x, np.float32) - 127.5) / 127.5
    np.testing.assert_allclose(model.apply(params, x)[0], model.apply(params, jnp.asarray(mapped))[0], atol=1e-6)


class Inner(nn.Module):
    """A norm layer whose name says nothing."""

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(name="second")(nn.Dense(4, name="first")(x))


class Deep(nn.Module):
    """Norm layers at two depths, one of them without parameters."""

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(use_scale=False, use_bias=False)(Inner(name="body")(x))
        return nn.Dense(2)(nn.RMSNorm(name="plain")(x))


def test_norms_are_found_by_type_at_any_depth():
    model = from_linen(Deep(), (3,))
    assert model.norms == ("body/second", "plain")
    assert model.blocks == ("body", "plain", "Dense_0")
    resnet = models.resnet8((8, 8, 3), 4)
    assert "Block_1/GroupNorm_2" in resnet.norms  # on the shortcut


def test_blocks_may_be_given():
    assert from_linen(Deep(), (3,), blocks=["body/first", "Dense_0"]).blocks == ("body/first", "Dense_0")
    with pytest.raises(ValueError, match=re.escape("blocks ['head'] hold no parameters")):
        from_linen(Deep(), (3,), blocks=["head"])


def test_other_variables_are_refused():
    class Counter(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("counter", "n", jnp.zeros, ())
            return nn.Dense(1)(x)

    with pytest.raises(ValueError, match=r"module keeps \['counter'\]"):
        from_linen(Counter(), (3,))


def test_batch_norm_counts_unmasked_rows_only():
    model = from_linen(nn.Sequential([nn.Dense(4), nn.BatchNorm(momentum=0.9), nn.Dense(2)]), (3,))
    params = model.init(KEY)
    x = jax.random.normal(KEY, (5, 3))
    mask = jnp.array([1.0, 0, 1, 1, 0])
    garbage = jnp.where(mask[:, None] > 0, x, 1e6)

    def run(x, mask, params=params):
        return model.apply(params, x, train=True, mask=mask)

    out, stats = run(x, mask)
    other, other_stats = run(garbage, mask)
    rows = np.array([0, 2, 3])
    np.testing.assert_array_equal(out[rows], other[rows])
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)

    tree = jax.tree.map(np.asarray, params.trainable)
    hidden = np.asarray(x)[rows] @ tree["layers_0"]["kernel"]
    np.testing.assert_allclose(stats["layers_1"]["mean"], 0.1 * hidden.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["layers_1"]["var"], 0.9 + 0.1 * hidden.var(0), rtol=1e-5)
    normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    np.testing.assert_allclose(out[rows], normal @ tree["layers_2"]["kernel"], atol=1e-5)

    several = jnp.stack([mask, jnp.ones(5)])
    for got, one in zip(jax.vmap(run)(jnp.stack([garbage, x]), several)[0], (out, run(x, jnp.ones(5))[0]), strict=True):
        np.testing.assert_allclose(got[rows], one[rows], atol=1e-5)

    fixed, same = model.apply(params, x)
    assert same is params.stats
    running = (np.asarray(x) @ tree["layers_0"]["kernel"]) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(fixed, running @ tree["layers_2"]["kernel"], atol=1e-5)


def test_a_module_with_arguments_of_its_own_is_served():
    class Threaded(nn.Module):
        @nn.compact
        def __call__(self, x, train, mask=None):
            rows = None if mask is None else mask[:, None].astype(bool)
            return nn.BatchNorm(use_running_average=not train)(x, mask=rows)

    x = jnp.array([[1.0], [3.0], [100.0]])
    model = from_linen(Threaded(), (1,))
    params = model.init(KEY)
    np.testing.assert_allclose(model.apply(params, x)[0], x, rtol=1e-4)
    out, _ = model.apply(params, x, train=True, mask=jnp.array([1.0, 1, 0]))
    np.testing.assert_allclose(out[:2], [[-1], [1]], rtol=1e-4)


def test_dropout_follows_the_key_and_the_mode():
    model = from_linen(nn.Sequential([nn.Dropout(0.5), nn.Dense(2)]), (50,))
    params, x = model.init(KEY), jnp.ones((3, 50))

    def train(seed):
        return model.apply(params, x, train=True, key=jax.random.key(seed))[0]

    np.testing.assert_array_equal(train(1), train(1))
    assert jnp.any(train(1) != train(2))
    assert model.blocks == ("layers_1",)
    np.testing.assert_allclose(model.apply(params, x)[0], x @ params.trainable["layers_1"]["kernel"], rtol=1e-5)


def test_init_under_vmap_is_init_one_by_one():
    model = models.cnn((8, 8, 1), 3)
    keys = jax.random.split(KEY, 2)
    both = jax.vmap(model.init)(keys)
    for i, key in enumerate(keys):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), both, model.init(key))


SPACE = {1: "W", 2: "HW", 3: "DHW"}


def layout(ndim):
    space = SPACE[ndim - 2]
    return (f"N{space}C", f"{space}IO", f"N{space}C")


CONVOLUTIONS = {
    "valid": ((2, 6, 5, 3), (3, 2, 3, 4), (1, 1), "VALID", {}),
    "same": ((2, 6, 5, 3), (3, 2, 3, 4), (1, 1), "SAME", {}),
    "same, stride": ((2, 7, 6, 2), (3, 3, 2, 3), (2, 2), "SAME", {}),
    "explicit, strides": ((1, 8, 7, 2), (3, 2, 2, 3), (2, 3), ((1, 2), (0, 1)), {}),
    "rest unused": ((1, 8, 8, 2), (3, 3, 2, 2), (3, 3), "VALID", {}),
    "pointwise": ((2, 4, 4, 3), (1, 1, 3, 5), (1, 1), "SAME", {}),
    "pointwise, stride": ((2, 5, 5, 3), (1, 1, 3, 5), (2, 2), ((0, 0), (0, 0)), {}),
    "one channel": ((3, 6, 6, 1), (5, 5, 1, 2), (1, 1), "VALID", {}),
    "kernel dilation": ((1, 7, 7, 2), (2, 3, 2, 3), (1, 1), "SAME", {"rhs_dilation": (2, 1)}),
    "input dilation": ((1, 4, 4, 2), (3, 3, 2, 3), (1, 1), ((1, 1), (2, 1)), {"lhs_dilation": (2, 2)}),
    "depthwise": ((2, 5, 5, 3), (3, 3, 1, 3), (1, 1), "SAME", {"feature_group_count": 3}),
    "depthwise, stride": ((2, 6, 6, 3), (3, 3, 1, 3), (2, 2), ((1, 1), (1, 1)), {"feature_group_count": 3}),
    "depthwise, two each": ((2, 5, 5, 3), (3, 3, 1, 6), (2, 1), "SAME", {"feature_group_count": 3}),
    "groups": ((1, 5, 5, 4), (3, 3, 2, 6), (1, 1), "SAME", {"feature_group_count": 2}),
    "groups, stride": ((2, 5, 5, 6), (3, 3, 2, 3), (2, 1), "SAME", {"feature_group_count": 3}),
    "wide groups": ((1, 4, 4, 18), (2, 2, 9, 4), (1, 1), "SAME", {"feature_group_count": 2}),
    "many outputs": ((2, 5, 4, 2), (3, 3, 2, 33), (1, 1), "SAME", {}),
    "many outputs, stride": ((1, 6, 7, 4), (3, 3, 4, 33), (2, 2), "SAME", {}),
    "some outputs": ((2, 5, 8, 2), (3, 3, 2, 12), (1, 1), "VALID", {}),
    "some outputs, stride": ((1, 6, 8, 3), (3, 3, 3, 12), (2, 2), ((1, 1), (0, 2)), {}),
    "larger than most": ((1, 9, 9, 2), (7, 7, 2, 3), (2, 2), ((3, 3), (3, 3)), {}),
    "cropped": (
        (1, 4, 4, 2),
        (3, 3, 2, 3),
        (2, 1),
        ((1, 1), (-1, 1)),
        {"lhs_dilation": (2, 3), "rhs_dilation": (2, 1)},
    ),
    "one dimension": ((2, 9, 2), (3, 2, 4), (2,), "SAME", {}),
    "three dimensions": ((1, 4, 4, 3, 2), (2, 2, 2, 2, 3), (1, 2, 1), "VALID", {}),
}


@pytest.mark.parametrize("case", slow_but_for([*CONVOLUTIONS][::3], CONVOLUTIONS))
def test_convolution_and_its_derivatives_are_those_of_xla(case):
    image, kernel, strides, padding, options = CONVOLUTIONS[case]
    with jax.enable_x64(True):
        keys = jax.random.split(KEY, 4)
        x, k, dx, dk = (
            jax.random.normal(key, shape, jnp.float64)
            for key, shape in zip(keys, (image, kernel, image, kernel), strict=True)
        )

        def everything(convolve):
            def energy(x, k):
                out = convolve(x, k, strides, padding, dimension_numbers=layout(len(image)), **options)
                return jnp.vdot(jnp.linspace(1, 2, out.size), jnp.sin(out))

            slopes = jax.grad(energy, (0, 1))

            def slope(x, k):
                gx, gk = slopes(x, k)
                return jnp.vdot(gx, dx) + jnp.vdot(gk, dk)

            several = jnp.stack([x, dx]), jnp.stack([k, dk])
            values = energy(x, k), slopes(x, k), jax.grad(slope, (0, 1))(x, k), jax.vmap(slopes)(*several)
            if case not in ("same, stride", "groups"):
                return values
            return (
                *values,
                jax.jvp(slopes, (x, k), (dx, dk)),
                jax.vmap(slopes, (None, 0))(x, several[1]),
                jax.vmap(slopes, (0, None))(several[0], k),
                jax.vmap(jax.vmap(slopes, (0, None)), (None, 0))(*several),
                lax.map(lambda pair: jax.grad(slope, (0, 1))(*pair), several),
            )

        run = jax.jit(everything, static_argnums=0)
        ours, theirs = run(convolution.convolve), run(lax.conv_general_dilated)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10), ours, theirs)
        assert ours[0].dtype == jnp.float64


@pytest.mark.parametrize("variant", ["patches", "xla"])
@pytest.mark.parametrize("case", ["same, stride", "depthwise, two each", "groups"])
def test_variants_agree(case, variant):
    image, kernel, strides, padding, options = CONVOLUTIONS[case]
    x, k = jax.random.normal(KEY, (3, *image)), jax.random.normal(KEY, (3, *kernel))

    def slopes(x, k):
        numbers = layout(len(image))

        def forward(x, k):
            return convolution.convolve(x, k, strides, padding, dimension_numbers=numbers, **options)

        out, pull = jax.vjp(forward, x, k)
        return out, pull(jnp.cos(out))

    def values():
        return jax.jit(jax.vmap(slopes))(x, k)  # compiled anew each time

    with pytest.MonkeyPatch.context() as patch:
        ours = values()
        patch.setenv("PFLJAX_CONVOLUTION", variant)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, values())
        patch.setenv("PFLJAX_CONVOLUTION", "patch")
        with pytest.raises(ValueError, match="PFLJAX_CONVOLUTION='patch' is not one of"):
            values()


def test_half_precision_stays_half():
    x, k = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 3), jnp.bfloat16)
    gradient = jax.grad(lambda k: convolution.convolve(x, k, (1, 1), "VALID", dimension_numbers=layout(4)).sum())(k)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.astype(float), 4.0)


POOLS = {
    "disjoint": ((2, 6, 6, 3), (2, 2), (2, 2), "VALID"),
    "rest unused": ((2, 7, 5, 3), (2, 2), (2, 2), "VALID"),
    "overlapping": ((2, 8, 7, 2), (3, 3), (2, 2), [(1, 1), (1, 1)]),
    "same": ((1, 5, 6, 2), (3, 2), (1, 2), "SAME"),
    "one dimension": ((2, 7, 2), (3,), (3,), "VALID"),
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("case", POOLS)
def test_pooling_is_that_of_flax(case, ties):
    shape, window, strides, padding = POOLS[case]
    with jax.enable_x64(True):
        x, dx = jax.random.normal(KEY, (2, *shape), jnp.float64)
        x = jnp.round(x) if ties else x

        def everything(pool):
            def energy(x):
                return jnp.sum(jnp.sin(pool(x, window, strides, padding)))

            slope = jax.grad(energy)
            return pool(x, window, strides, padding), slope(x), jax.grad(lambda x: jnp.vdot(slope(x), dx))(x)

        run = jax.jit(everything, static_argnums=0)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), run(models.max_pool), run(nn.max_pool))


def test_pooling_shows_what_is_not_a_number():
    for place in range(4):
        x = jnp.arange(4.0).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(models.max_pool(x, (2, 2))).all()


class Plain(nn.Module):
    """Layers as a user writes them."""

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(nn.relu(nn.Conv(4, (3, 3), 2, padding="CIRCULAR")(x)), (3, 3), (2, 2), "SAME")
        x = nn.ConvTranspose(4, (3, 3), (2, 2))(x)
        x = nn.Conv(4, (3, 3), feature_group_count=2)(x)

        kernel = jnp.ones((1, 1, 4, 4))

        def step(x, _):
            x = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout(4))
            return jax.jit(lambda x: nn.max_pool(x, (2, 2), padding="SAME"))(x), None

        return jnp.mean(jax.lax.scan(step, x, None, length=2)[0], axis=(1, 2))


def test_a_users_module_profits_as_it_is():
    module = Plain()
    x = jax.random.normal(KEY, (2, 9, 9, 3))
    model = from_linen(module, (9, 9, 3))
    params = model.init(KEY).trainable

    def ours(params):
        return jnp.sum(jnp.sin(model.apply(Params(params), x)[0]))

    def theirs(params):
        return jnp.sum(jnp.sin(jnp.asarray(module.apply({"params": params}, x))))

    program = str(jax.make_jaxpr(jax.grad(ours))(params))
    assert "reduce_window" not in program
    assert "select_and_scatter" not in program
    assert program.count(" convolve[") >= 3 * 3 - 1
    for pair in ((ours, theirs), (jax.grad(ours), jax.grad(theirs))):
        got, expected = (jax.jit(function)(params) for function in pair)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, expected)


def test_functions_with_their_own_derivative_stay_as_they_are():
    @jax.custom_jvp
    def halved(x):
        return nn.max_pool(x, (2, 2), (2, 2))

    halved.defjvp(lambda primals, tangents: (halved(*primals), halved(*primals) * 0.5))
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    assert jax.jvp(models.fast(halved), (x,), (x,))[1].item() == 1.5
    assert jax.jit(models.fast(lambda x: {"a": 2 * x}))(3.0)["a"] == 6


def test_the_hessian_of_a_network_is_the_difference_of_its_gradients():
    model = models.cnn((8, 8), 3)
    small = model.init(KEY).trainable
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), small)
        x = jax.random.normal(KEY, (2, 8, 8), jnp.float64)
        v = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape, jnp.float64), params)

        def slopes(params):
            return jax.grad(lambda p: jnp.sum(jnp.sin(model.apply(Params(p), x)[0])))(params)

        @jax.jit
        def both(params):
            def along(t):
                return slopes(jax.tree.map(lambda a, b: a + t * b, params, v))

            difference = jax.tree.map(lambda a, b: (a - b) / 2e-7, along(1e-7), along(-1e-7))
            product = jax.grad(lambda p: sum(map(jnp.vdot, jax.tree.leaves(slopes(p)), jax.tree.leaves(v))))(params)
            return difference, product

        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *both(params))


def test_cnn_is_its_plain_flax_reading():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            for channels in (32, 64):
                x = nn.max_pool(nn.relu(nn.Conv(channels, (5, 5), padding="VALID")(x)), (2, 2), (2, 2))
            x = nn.relu(nn.Dense(512)(x.reshape(x.shape[0], -1)))
            return nn.Dense(3, name="classifier")(x)

    ours, plain = models.cnn((16, 16), 3), from_linen(Plain(), (16, 16, 1))
    params = jax.jit(ours.init)(KEY)
    last = params.trainable["classifier"]
    usual = {**params.trainable, "classifier": {**last, "kernel": last["kernel"].T}}
    x = jax.random.normal(KEY, (2, 16, 16))
    got = jax.jit(lambda p: ours.apply(p, x)[0])(params)
    np.testing.assert_allclose(got, jax.jit(lambda p: plain.apply(Params(p), x[..., None])[0])(usual), atol=1e-5)


def test_the_classifier_starts_with_unit_variance():
    params = models.logistic((10_000,), 4).init(KEY)
    kernel = params.trainable["classifier"]["kernel"]
    assert kernel.shape == (4, 10_000)
    np.testing.assert_allclose(10_000 * jnp.var(kernel), 1, rtol=0.05)


@pytest.mark.parametrize("name", ["cnn", "resnet8", "resnet18", "resnet34", "mobilenet_v1"])
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (3, 32, 32),
            r"\(3, 32, 32\) looks like channels first, and images are \[height, width, channels\]: transpose",
        ),
        ((1, 28, 28), "channels first"),
        ((3, 224, 160), "channels first"),
        ((28,), r"\(28,\): images are \[height, width\] or"),
        ((10, 28, 28, 1), "images are"),
        ((28, 28, 0), "without the axis of the batch"),
    ],
)
def test_what_is_no_image(name, shape, message):
    with pytest.raises(ValueError, match=message):
        models.by_name(name, shape, 10)


@pytest.mark.parametrize(("shape", "padding"), [((3, 3), None), ((8, 3, 1), None), ((15, 20, 3), "VALID")])
def test_images_that_are_too_small_to_pool(shape, padding):
    with pytest.raises(ValueError, match=r"needs at least (4 x 4|16 x 16) pixels"):
        models.cnn(shape, 10, padding)


@pytest.mark.parametrize(("shape", "padding"), [((4, 4), None), ((16, 16, 1), None), ((16, 16, 1), "VALID")])
def test_the_smallest_images(shape, padding):
    made = models.cnn(shape, 2, padding)
    logits, _ = jax.eval_shape(lambda key, x: made.apply(made.init(key), x), KEY, jnp.zeros((5, *shape)))
    assert logits.shape == (5, 2)


def test_tokens_and_features_have_sizes():
    with pytest.raises(ValueError, match=r"\(28, 28, 1\): char_lstm reads tokens \[length\]"):
        models.by_name("char_lstm", (28, 28, 1), 10)
    with pytest.raises(ValueError, match=r"shape=\(0,\): give the shape of one example"):
        models.mlp((0,), 2)


SPLIT = {
    "char_lstm": (models.char_lstm(7, 5, embedding=3, hidden=4), (5,), (4,)),
    "cnn": (models.cnn((6, 6), 3), (6, 6), (512,)),
    "cnn1d": (models.cnn1d((6, 2), 3, channels=(4, 5)), (6, 2), (5,)),
    "contextual": (models.contextual(models.mlp((4,), 3, (5,)), 3, context=2), (6,), (7,)),
    "factors": (models.factors((), 3, items=9, width=4), (), (4,)),
    "gru": (models.gru((5,), 3, hidden=4, vocabulary=7), (5,), (4,)),
    "logistic": (models.logistic((4, 2), 3), (4, 2), (8,)),
    "lstm": (models.lstm((5, 2), 3, hidden=4, layers=2), (5, 2), (4,)),
    "mlp": (models.mlp((4,), 3, (6, 5)), (4,), (5,)),
    "mobilenet_v1": (models.mobilenet_v1((8, 8, 3), 3, 0.1, norm="batch"), (8, 8, 3), (102,)),
    "resnet18": (models.resnet18((8, 8, 3), 3), (8, 8, 3), (512,)),
    "resnet34": (models.resnet34((8, 8, 3), 3), (8, 8, 3), (512,)),
    "resnet8": (models.resnet8((8, 8, 3), 3, norm="batch"), (8, 8, 3), (64,)),
    "tabular": (models.tabular((5,), 3, categories=(2, 2), hidden=(6,)), (5,), (6,)),
    "transformer": (models.transformer((5,), 3, width=8, heads=2, layers=1, vocabulary=7), (5,), (8,)),
}
LIGHT = ("char_lstm", "cnn", "logistic", "mlp", "resnet8")


class Top(nn.Module):
    """A head of several layers, with statistics and noise of its own."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.BatchNorm(momentum=0.9)(x))
        return nn.Dense(3)(x)


class Crowned(nn.Module):
    """A network under `Top`."""

    @nn.compact
    def __call__(self, x, train=False):
        return Top(name="top")(nn.Dropout(0.5)(nn.BatchNorm()(nn.Dense(4)(x))), train=train)


CROWNED = from_linen(Crowned(), (4,))


def halves(model, params):
    """`(body, head)` as the mask has them."""
    return tree.split(masks.negate(masks.head(model))(params), params)


def test_every_model_is_listed():
    assert SPLIT.keys() == models.MODELS.keys()


@pytest.mark.parametrize("name", SPLIT)
def test_the_head_reads_its_mask_and_the_features_read_the_rest(name):
    """Neither part needs what the other one has; the shape of the features is known without data."""
    model, shape, features = SPLIT[name]
    body, head = halves(model, jax.eval_shape(model.init, KEY))
    assert jax.tree.leaves(head)
    assert model.features is not None
    x = jnp.zeros((2, *shape), jnp.uint8)
    z = jax.eval_shape(model.features, body, x)[0] if jax.tree.leaves(body) else x.reshape(2, -1)
    assert z.shape == (2, *features) == (2, *model.features_shape)
    outputs, _ = jax.eval_shape(model.head, head, jax.ShapeDtypeStruct(z.shape, jnp.float32))
    assert outputs.shape == (2, 7 if name == "char_lstm" else 3)


@pytest.mark.parametrize(
    ("name", "precision"), [*((name, "default") for name in (*LIGHT, "crowned")), ("mlp", "bfloat16"), ("cnn", "tf32")]
)
def test_outputs_are_the_head_of_the_features(name, precision):
    """Bit for bit with the module as it stands, in both modes: values, statistics, noise."""
    model, shape, _ = SPLIT.get(name, (CROWNED, (4,), (4,)))
    model = models.compute_in(model, precision)
    params, x = model.init(KEY), jax.random.bits(KEY, (3, *shape), jnp.uint8) % 7
    mask = jnp.array([1.0, 1.0, 0.0])
    body, head = halves(model, params)
    assert model.features is not None
    for mode in ({}, {"train": True, "mask": mask, "key": jax.random.key(1)}):
        outputs, stats = model.apply(params, x, **mode)
        z, below = model.features(params, x, **mode)
        again, after = model.head(head._replace(stats=halves(model, params._replace(stats=below))[1].stats), z, **mode)
        np.testing.assert_array_equal(outputs, again)
        jax.tree.map(np.testing.assert_array_equal, halves(model, params._replace(stats=stats))[1].stats, after)
        if jax.tree.leaves(body):
            np.testing.assert_array_equal(z, model.features(body, x, **mode)[0])


def test_a_split_network_is_the_module_itself():
    """Noise, statistics and values of flax's own call of the whole module."""
    params, x = CROWNED.init(KEY), jax.random.normal(KEY, (5, 4))
    variables = {"params": params.trainable, "batch_stats": params.stats}

    class Told(nn.Module):
        @nn.compact
        def __call__(self, x):
            h = nn.BatchNorm(use_running_average=False, name="BatchNorm_0")(nn.Dense(4, name="Dense_0")(x))
            return Under(name="top")(nn.Dropout(0.5, deterministic=False, name="Dropout_0")(h))

    class Under(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dropout(0.5, deterministic=False)(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))
            return nn.Dense(3)(x)

    noise = {"dropout": jax.random.key(1)}
    expected, new = Told().apply(variables, x, mutable=["batch_stats"], rngs=noise)
    outputs, stats = CROWNED.apply(params, x, train=True, key=jax.random.key(1))
    np.testing.assert_array_equal(outputs, expected)
    jax.tree.map(np.testing.assert_array_equal, stats, new["batch_stats"])


class Doubled(nn.Module):
    """What follows the last block is part of no block."""

    @nn.compact
    def __call__(self, x):
        return 2 * nn.Dense(3)(nn.Dense(4)(x))


class Twice(nn.Module):
    """The last block is called two times."""

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(4)
        return dense(dense(x))


class Settled(nn.Module):
    """The last block is told a mode of its own."""

    @nn.compact
    def __call__(self, x, train=False):
        del train
        return Plainly()(nn.Dense(4)(x), train=False)


class Plainly(nn.Module):
    """A dense layer that may be told the mode."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(-x if train else x)


@pytest.mark.parametrize("module", [Doubled(), Twice(), Settled(), nn.Dense(3)])
def test_networks_without_features(module):
    """They are models all the same."""
    model = from_linen(module, (4,))
    assert (model.features, model.features_shape) == (None, ())
    params, x = model.init(KEY), jax.random.normal(KEY, (2, 4))
    np.testing.assert_allclose(model.apply(params, x)[0], module.apply({"params": params.trainable}, x), rtol=1e-6)


class Built(nn.Module):
    """The last block is built for the mode."""

    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))


def test_a_head_that_is_built_for_the_mode():
    model = from_linen(Built(), (4,))
    params, x = model.init(KEY), jax.random.normal(KEY, (6, 4))
    assert model.features is not None
    z, _ = model.features(params, x)
    np.testing.assert_allclose(model.apply(params, x)[0], z / np.sqrt(1 + 1e-5), rtol=1e-5)
    np.testing.assert_allclose(model.apply(params, x, train=True)[0].mean(0), 0, atol=1e-6)


def forward(w, x):
    """A network with a vector, adapters beside and after two hidden layers, by hand."""

    def layer(part, x):
        return x @ part["kernel"] + part["bias"]

    z = np.hstack([x, np.tile(w["vector"]["vector"], (len(x), 1))])
    for number in (0, 1):
        few = layer(w[f"low_rank_{number}"]["down"], z)
        z = np.maximum(layer(w[f"Dense_{number}"], z) + layer(w[f"low_rank_{number}"]["up"], few), 0)
        few = np.maximum(layer(w[f"bottleneck_{number}"]["down"], z), 0)
        z = z + layer(w[f"bottleneck_{number}"]["up"], few)
    return z @ w["classifier"]["kernel"].T + w["classifier"]["bias"]


def test_parts_that_are_there_to_be_personal_compute_what_they_say_and_start_as_nothing():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model, plain = models.mlp((3,), 4, (5, 4), vector=2, bottleneck=3, low_rank=2), models.mlp((3,), 4, (5, 4))
    start = jax.device_get(model.init(KEY).trainable)
    same = {name: start[name] for name in ("Dense_0", "Dense_1", "classifier")}
    same["Dense_0"] = {"kernel": start["Dense_0"]["kernel"][:3], "bias": start["Dense_0"]["bias"]}
    np.testing.assert_allclose(model.apply(Params(start), x)[0], plain.apply(Params(same), x)[0], atol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + np.float32(0.1) * np.cos(leaf + np.arange(leaf.shape[-1])), start)
    moved = jax.tree.map(np.float32, moved)
    np.testing.assert_allclose(model.apply(Params(moved), x)[0], forward(moved, x), atol=1e-5)
    for part in ("vector", "low_rank_0", "low_rank_1", "bottleneck_0", "bottleneck_1"):
        without = forward({**moved, part: start[part]}, x)
        assert np.abs(forward(moved, x) - without).max() > 0.01


def test_a_body_without_relu_is_a_product_of_matrices():
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    model = models.mlp((3,), 4, (5, 4), linear=True)
    w = model.init(KEY).trainable
    product = w["Dense_0"]["kernel"] @ w["Dense_1"]["kernel"] @ w["classifier"]["kernel"].T
    np.testing.assert_allclose(model.apply(Params(w), x)[0], x @ product, atol=1e-6)
