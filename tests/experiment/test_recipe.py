"""Recipes: every method from plain values, every float traced, and the ingredients that were asked for."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from pfljax import models, tree
from pfljax.algorithms import METHODS
from pfljax.data import FederatedData, from_clients
from pfljax.engine import accounting
from pfljax.experiment.recipe import ServerConfig, SolverConfig, build
from pfljax.experiment.wrapping import WrappersConfig
from pfljax.learning import losses, tasks
from pfljax.types import Algorithm, Array, Batch, as_drawn

SIZES = (4, 7)
CAPACITY = max(SIZES)


class Normed(nn.Module):
    """One norm layer between two dense ones."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(3, name="classifier")(nn.BatchNorm()(nn.Dense(4)(x)))


MODEL = models.from_linen(Normed(), (5,))
TASK = tasks.classification(MODEL)
PARAMS = 5 * 4 + 4 + 2 * 4 + 2 * 4 + 4 * 3 + 3
HEAD = 4 * 3 + 3
NORMS = 2 * 4 + 2 * 4


def _data() -> FederatedData:
    generator = np.random.default_rng(0)
    pairs = [(generator.normal(size=(n, 5)).astype(np.float32), generator.integers(0, 3, n)) for n in SIZES]
    return (
        from_clients(pairs, pairs, num_classes=3)
        .with_traits({"group": [0, 0]})
        .with_public(np.ones((2, 5), np.float32))
    )


DATA = _data()
FULL = SolverConfig(plan="full_batch", steps=1, lr=0.1)


def upload(made: Algorithm) -> Any:
    """What client 0 uploads in its first round."""
    key = jax.random.key(0)
    download = made.download(made.init_server(key, 2), jnp.asarray(0))
    client = made.init_client(download, jnp.asarray(0), key)
    return made.client_update(download, client, DATA.client(0), key).upload


def gradient() -> Any:
    """The gradient of client 0's loss at the initial model."""
    x, y = DATA.examples.x[: SIZES[0]], DATA.examples.y[: SIZES[0]]
    batch = Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(SIZES[0]))
    return losses.gradient(TASK.loss, TASK.init(jax.random.key(0)), batch, jax.random.key(0))[0]


def close(a: Any, b: Any) -> None:
    """Leaf by leaf."""
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-4, atol=2e-6), a, b)


@pytest.mark.parametrize("name", METHODS)
def test_every_hyperparameter_is_traced(name: str) -> None:
    """A round of any method can be traced with all its floats unknown: one program for any value."""
    made = build(name, TASK, MODEL, local=SolverConfig(momentum=0.9, weight_decay=0.1), capacity=CAPACITY, inputs=5)
    assert any(value > 0 for value in made.hyper.values())
    jax.eval_shape(lambda hyper: upload(made.make(**hyper)), {key: jnp.asarray(v) for key, v in made.hyper.items()})


@pytest.mark.parametrize("name", METHODS)
def test_sweepable_hyperparameters_are_hyperparameters(name: str) -> None:
    """What the table says may be swept is traced."""
    assert set(METHODS[name].sweep) <= set(build(name, TASK, MODEL).hyper)


@pytest.mark.parametrize("name", ["alpha", "sigma"])
def test_what_follows_the_federation_is_traced_where_it_is_given(name: str) -> None:
    """FedAMP finds its step and its scale by itself; a value for them is a hyperparameter like others."""
    assert name not in build("fedamp", TASK, MODEL).hyper
    assert build("fedamp", TASK, MODEL, options={name: 2}).hyper[name] == 2.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedadam", {"form": "paper", "reduce": "uniform"}),
        ("apfl", {"reduce": "uniform"}),
        ("fedprox", {"reduce": "uniform"}),
        ("pfedme", {"participation": "all"}),
        ("local_only", {"participation": "cohort"}),
    ],
)
def test_the_papers_way_can_be_configured(name: str, options: dict[str, Any]) -> None:
    """Options as plain values; what they do is tested with the methods."""
    reduce = options.get("reduce")
    own = {key: value for key, value in options.items() if key != "reduce"}
    usual = build(name, TASK, MODEL).make()
    papers = build(name, TASK, MODEL, options=own, wrappers=WrappersConfig(reduce=reduce)).make()
    weights = jnp.asarray(4.0)
    lifted = [jax.tree.leaves(made.reduce.lift(jnp.ones(1), weights)) for made in (usual, papers)]
    assert (lifted[0] != lifted[1]) == ("reduce" in options)
    assert (usual.participation is as_drawn) != (papers.participation is as_drawn) or "participation" not in options


def test_learning_rates_are_taken() -> None:
    """One step on all examples uploads `lr * gradient`."""
    made = build("fedavg", TASK, MODEL, local=FULL, capacity=CAPACITY)
    assert made.hyper == {"local.lr": 0.1, "server.lr": 1.0}
    close(upload(made.make()).trainable, tree.scale(0.1, gradient()))
    close(upload(made.make(**{"local.lr": 0.3})).trainable, tree.scale(0.3, gradient()))


def test_weight_decay_is_part_of_the_gradient() -> None:
    """`lr * (gradient + decay * w)`."""
    decayed = SolverConfig(plan="full_batch", steps=1, lr=0.1, weight_decay=0.5)
    w = TASK.init(jax.random.key(0)).trainable
    made = build("fedavg", TASK, MODEL, local=decayed, capacity=CAPACITY)
    close(upload(made.make()).trainable, tree.scale(0.1, tree.axpy(0.5, w, gradient())))


def test_proximal_descent_is_for_proximal_problems() -> None:
    """From the anchor a proximal step is `lr gradient / (1 + lr mu)`; FedAvg has no anchor and is descended."""
    solver = SolverConfig(plan="full_batch", steps=1, lr=0.1, solver="proximal_descent")
    prox = build("fedprox", TASK, MODEL, options={"mu": 50.0}, local=solver, capacity=CAPACITY)
    close(upload(prox.make()).trainable, tree.scale(0.1 / 6, gradient()))
    plain = build("fedavg", TASK, MODEL, local=solver, capacity=CAPACITY)
    close(upload(plain.make()).trainable, tree.scale(0.1, gradient()))


def test_sections_stand_for_themselves() -> None:
    """A solver that is not given is `local`, with a learning rate of its own."""
    local, tune, server = SolverConfig(lr=0.1), SolverConfig(lr=0.7), ServerConfig("adam", 0.2)
    made = build("fedavg_finetuned", TASK, MODEL, local=local, tune=tune, server=server)
    assert made.hyper == {"local.lr": 0.1, "tune.lr": 0.7, "server.lr": 0.2}
    assert build("fedavg_finetuned", TASK, MODEL, local=local).hyper["tune.lr"] == 0.1


@pytest.mark.parametrize(
    ("name", "down", "up"),
    [
        ("local_only", 0, 0),
        ("fedavg", PARAMS, PARAMS),
        ("ditto", PARAMS, PARAMS),
        ("pfedme", PARAMS, PARAMS),
        ("apfl", PARAMS, PARAMS),
        ("fedamp", PARAMS, PARAMS),
        ("fedper", PARAMS - HEAD, PARAMS - HEAD),
        ("fedbabu", PARAMS - HEAD, PARAMS - HEAD),
        ("lg_fedavg", HEAD, HEAD),
        ("fedbn", PARAMS - NORMS, PARAMS - NORMS),
        ("ifca", 2 * PARAMS, PARAMS + 1),
        ("context_clustered", PARAMS, PARAMS + 1),
        ("fedfomo", (len(SIZES) - 1) * PARAMS, PARAMS + len(SIZES) - 1),
        ("knn_per", PARAMS, PARAMS),
        ("fedrod", PARAMS, PARAMS),
        ("scaffold", 2 * PARAMS - 8, 2 * PARAMS - 8),
    ],
)
def test_bytes_on_the_wire(name: str, down: int, up: int) -> None:
    """Numbers of four bytes each, counted by hand; SCAFFOLD has no control variates for the 8 running statistics."""
    made = build(name, TASK, MODEL, capacity=CAPACITY, inputs=5).make()
    assert accounting.wire_bytes(made, DATA) == (4 * down, 4 * up)
    assert accounting.wire_bytes(made, DATA.pooled()) == (0, 0)


def test_flops_of_a_dense_layer() -> None:
    """A gradient of a dense layer is two products of `2 B in out` operations, and little more."""
    model = models.from_linen(nn.Dense(64), (256,))
    data = from_clients([(np.ones((32, 256), np.float32), np.arange(32))], num_classes=64)
    flops = accounting.step_flops(tasks.classification(model), data, 32)
    assert flops is not None
    assert 1.0 <= flops / (2 * 2 * 32 * 256 * 64) <= 1.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dito", {}, "did you mean 'ditto'"),
        ("ditto", {"lamb": 1}, "did you mean 'lam'"),
        ("ditto", {"lam": "much"}, "it must be a number"),
        ("per_fedavg", {"order": "frist"}, "did you mean 'first'"),
        ("ifca", {"clusters": 2.5}, "it must be a whole number"),
        ("ifca", {"clusters": 0}, "a whole number of at least 1"),
        ("fedper", {"personal": 9}, "9 personal blocks"),
        ("fedper", {"init": "both"}, "choose 'common', 'per_client'"),
        ("fedavg", {"reduce": "uniform"}, "a wrapper of any method: set wrappers.reduce"),
        ("fedavg", {"local": 3}, "local is no option of fedavg"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    """One sentence that names the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        build(name, TASK, MODEL, options=options).make()


def test_norm_layers_are_needed() -> None:
    """FedBN without norm layers would be FedAvg."""
    model = models.mlp((5,), 3)
    with pytest.raises(ValueError, match="the model has none"):
        build("fedbn", tasks.classification(model), model)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if "features" in row.needs])
def test_features_are_needed(name: str) -> None:
    """A network that is no head on features is a model for other methods."""
    model = models.from_linen(nn.Dense(3), (5,))
    with pytest.raises(ValueError, match=f"{name} reads features, and the model has none"):
        build(name, tasks.classification(model), model)


def test_unknown_hyperparameters_are_refused() -> None:
    """A sweep over a name that does not exist would sweep nothing."""
    with pytest.raises(ValueError, match=r"did you mean 'local\.lr'"):
        build("fedavg", TASK, MODEL).make(**{"local.rl": 0.1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimizer": "adam", "momentum": 0.9}, "momentum=0.9 is for optimizer='sgd'"),
        ({"lr": -1.0}, "a number of at least 0"),
        ({"solver": "proximal_descent", "momentum": 0.5}, "without momentum"),
    ],
)
def test_bad_solvers(values: dict[str, Any], message: str) -> None:
    """Refused where they are written, before anything is built."""
    with pytest.raises(ValueError, match=message):
        SolverConfig(**values)
