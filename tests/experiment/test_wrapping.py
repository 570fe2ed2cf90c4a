"""Wrappers in configurations: what they mean, what is traced, what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax import cli, experiment, models
from pfljax.data import from_clients
from pfljax.experiment import from_config_dict, listing
from pfljax.experiment.recipe import build
from pfljax.experiment.sweeps.points import lay_out
from pfljax.experiment.wrapping import WrappersConfig
from pfljax.federation.reduce import median
from pfljax.learning import tasks
from pfljax.types import Algorithm, Cohort

MODEL = models.mlp((5,), 3, hidden=())
TASK = tasks.classification(MODEL)
DATA = from_clients([(np.eye(5, dtype=np.float32), np.arange(5) % 3)] * 4, num_classes=3)


def made(**wrappers: Any) -> Algorithm:
    return build("fedavg", TASK, MODEL, wrappers=WrappersConfig(**wrappers), clients=4).make()


def moved(algorithm: Algorithm) -> np.ndarray:
    """The weights after a round of four clients with the same examples, less those before, as one vector."""

    def exchange() -> Any:
        key = jax.random.key(0)
        server = algorithm.init_server(key, 4)

        def one(id: jax.Array) -> Any:
            download = algorithm.download(server, id)
            client = algorithm.init_client(download, id, key)
            reply = algorithm.client_update(download, client, DATA.client(id), key)
            return algorithm.reduce.lift(reply.upload, jnp.asarray(5.0))

        terms, ids, weights = jax.vmap(one)(jnp.arange(4)), jnp.arange(4), jnp.full(4, 5.0)
        if algorithm.reduce.summed:
            terms = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), terms)
        after = algorithm.server_update(server, Cohort(ids, algorithm.reduce.lower(terms, weights), weights), key)
        return jax.tree.map(jnp.subtract, after.params.trainable, server.params.trainable)

    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.jit(exchange)())])


def test_each_field_does_what_it_says():
    """All clients learn the same: a clipped mean has the bound's length, one of four flipped leaves (3 - s) / 4."""
    plain = moved(made())
    length = np.linalg.norm(plain)
    np.testing.assert_allclose(moved(made(clip=length / 4)), plain / 4, rtol=1e-4)
    np.testing.assert_allclose(moved(made(attack="sign_flip", attackers=0.25, strength=2.0)), plain / 4, rtol=1e-4)
    np.testing.assert_allclose(moved(made(attack="scaling", attackers=0.5, strength=3.0)), 2 * plain, rtol=1e-4)
    np.testing.assert_allclose(moved(made(attack="alie", attackers=0.5, strength=3.0)), plain, rtol=1e-4)
    agreed = made(attack="inner_product", attackers=0.25, strength=3.0, clip=10 * length)
    np.testing.assert_allclose(moved(agreed), 0 * plain, atol=1e-6)
    defended = made(attack="scaling", attackers=0.25, strength=9.0, reduce="median")
    np.testing.assert_allclose(moved(defended), plain, rtol=1e-4)
    assert defended.reduce is median
    sparse = moved(made(compress="top_k", kept=0.2))
    assert np.sum(sparse != 0) == 3 + 1  # of 15 weights and 3 biases
    noise = moved(made(clip=length, noise=10.0)) - plain
    assert 0.5 < np.std(noise) / (10 * length / 4) < 1.5
    assert made(compress="quantize", bits=8).wire is not None


def test_the_section_comes_from_the_command_line_and_its_numbers_are_traced():
    given = ["--config.wrappers.clip=1", "--config.wrappers.noise=0.5", "--config.wrappers.attack=scaling"]
    config = cli.read_config(None, [*given, "--config.wrappers.strength=10"])
    expected = {"local.lr": 0.05, "server.lr": 1.0}
    wrapped = {"attackers": 0.2, "strength": 10.0, "clip": 1.0, "noise": 0.5}
    assert experiment.hyperparameters(config) == expected | {
        f"wrappers.{name}": value for name, value in wrapped.items()
    }
    assert from_config_dict(config.to_dict()) == config
    falling = from_config_dict({"wrappers": {"clip": {"schedule": "linear", "from": 2.0, "to": 1.0}}})
    clip: Any = experiment.hyperparameters(falling)["wrappers.clip"]
    assert float(clip(jnp.asarray(10))) == 1.5
    listed = {field.name: field for field in listing.fields("fedavg")}
    assert listed["wrappers.clip"].type == "number > 0 | dictionary | None"
    assert "longest L2 norm" in listed["wrappers.clip"].meaning


def test_a_sweep_over_numbers_of_wrappers_is_one_program():
    numbers = {"wrappers.clip": [0.5, 1.0], "wrappers.noise": [0.0, 0.5], "run.seed": range(2)}
    assert len({point.group for point in lay_out({}, numbers)}) == 1
    kinds = {"wrappers.reduce": ["median", "trimmed"], "wrappers.compress": [None, "sign"]}
    assert len({point.group for point in lay_out({}, kinds)}) == 4
    usual = lay_out({"algorithm": {"name": "ditto"}}, {"local.lr": [0.1]})[0]
    named = lay_out({"algorithm": {"name": "ditto"}, "wrappers": {"clip": None}}, {"local.lr": [0.1]})[0]
    assert (usual.id, usual.group) == (named.id, named.group)


def test_training_on_pooled_data_has_no_wrappers():
    config = from_config_dict({"algorithm": {"name": "centralized"}, "wrappers": {"clip": 1.0}})
    assert "wrappers.clip" not in experiment.hyperparameters(config)
    with pytest.raises(ValueError, match=r"wrappers\.clip=1\.0 has no effect on centralized"):
        experiment.check_effect(config, ["centralized"])
    experiment.check_effect(config, ["centralized", "fedavg"])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"clp": 1.0}, "wrappers takes no 'clp': did you mean 'clip'"),
        ({"noise": 0.5}, "wrappers.noise=0.5 is for clip above 0, not None: set clip"),
        ({"clip": -1.0}, "wrappers.clip=-1.0: it must be a number above 0"),
        ({"clip": 1.0, "noise_at": "client"}, "noise_at='client' is for noise: set noise"),
        ({"clip": 1.0, "noise": 0.1, "reduce": "krum"}, "reduce='krum': noise at the server is for a mean"),
        ({"compress": "topk"}, "did you mean 'top_k'"),
        ({"bits": 4}, "wrappers.bits=4 is for compress='quantize'"),
        ({"attack": "sign_flip", "strength": 0.0}, "wrappers.strength=0.0: it must be a number above 0"),
        ({"attack": "scaling"}, "strength=1.0: what is scaled by 1 is no attack"),
        ({"reduce": "trimmed", "trim": 0.5}, "wrappers.trim=0.5: it must be a number of at least 0 and below 0.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(section: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        from_config_dict({"wrappers": section})
