"""Every wrapper over every method of the table: without an effect it is not there, with one its bounds hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, masks, quadratics, tree
from pfljax.data import FederatedData
from pfljax.engine import accounting, programs
from pfljax.federation import wrappers
from pfljax.federation.reduce import geometric_median, krum, mean, median, trimmed, uniform
from pfljax.federation.wrappers import attacked, clipped, colluding, compressed, noised, reduced_by
from pfljax.federation.wrappers.attacks import Attack
from pfljax.learning import local, plans
from pfljax.types import Algorithm, Array, ClientData, Cohort, Reduce, Reply, Tree
from tests.algorithms.test_contract import KEY, same
from tests.zoo import CLIENTS, FAMILIES, FIRSTS, federation, recipe_of

EVEN = uniform(mean)
QUICK = {"xla_backend_optimization_level": 0}
if programs._known("xla_cpu_use_fusion_emitters", True):  # both halves of a program are then compiled alike
    QUICK["xla_cpu_use_fusion_emitters"] = True
every_method = pytest.mark.parametrize("name", FAMILIES)


def refused(wrap: Callable[[], Any], message: str) -> bool:
    """Whether a method cannot bear a wrapper, which then says so."""
    try:
        wrap()
    except ValueError as error:
        if not re.search(message, str(error)):
            raise
        return True
    return False


def apart(algorithm: Algorithm) -> bool:
    """Keeps all uploads: no other reduction."""
    return refused(lambda: reduced_by(algorithm, median), "needs each client's own upload")


def several(algorithm: Algorithm) -> bool:
    """Sees more than one sum of all uploads: noise goes on them before they leave."""
    message = "needs each client's own upload|this method has several"
    return refused(lambda: noised(algorithm, 1.0, 1.0), message)


def unlike(algorithm: Algorithm) -> bool:
    """Uploads are not shaped as downloads: no feedback."""
    return refused(lambda: _shapes(compressed(algorithm, wrappers.sign())), "shaped as the download")


def even(algorithm: Algorithm) -> Algorithm:
    """Clients count equally, where the method averages."""
    return algorithm if apart(algorithm) else reduced_by(algorithm, EVEN)


def wrapped(algorithm: Algorithm, values: dict[str, Any], feedback: bool) -> Algorithm:
    """In all wrappers, in the order of a configuration."""
    place = "client" if several(algorithm) else "server"
    algorithm = compressed(algorithm, wrappers.top_k(1.0), feedback=feedback)
    attackers = wrappers.some(CLIENTS, values["share"])
    algorithm = attacked(algorithm, attackers, wrappers.sign_flip(values["scale"]))
    algorithm = noised(algorithm, values["noise"], values["clip"], at=place)
    return even(colluding(algorithm, attackers, wrappers.inner_product(values["scale"])))


def exchange(algorithm: Algorithm, data: FederatedData) -> tuple[Tree, Tree, Tree]:
    """A round of all clients by the algorithm's functions alone: the server, what clients keep, their uploads."""
    server, weights = algorithm.init_server(KEY, CLIENTS), data.train.size[:CLIENTS].astype(float)

    def one(id: Array, weight: Array) -> tuple[Any, Tree]:
        download = algorithm.download(server, id)
        client = algorithm.init_client(download, id, KEY)
        reply = algorithm.client_update(download, client, data.client(id), jax.random.fold_in(KEY, id))
        return reply, algorithm.reduce.lift(reply.upload, weight)

    replies, terms = jax.vmap(one)(jnp.arange(CLIENTS), weights)
    if algorithm.reduce.summed:
        terms = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), terms)
    cohort = Cohort(jnp.arange(CLIENTS), algorithm.reduce.lower(terms, weights), weights, data.everybodys())
    return algorithm.server_update(server, cohort, KEY), replies.client, replies.upload


def feigned(algorithm: Algorithm, data: FederatedData) -> Algorithm:
    """`algorithm` with made-up states and replies of its shapes: quick to compile, and the same to a wrapper."""
    _, client, upload = jax.eval_shape(lambda data: exchange(algorithm, data), data)
    server = jax.eval_shape(lambda: algorithm.init_server(KEY, CLIENTS))

    def ones(shapes: Tree, skip: int) -> Tree:
        return jax.tree.map(lambda leaf: jnp.ones(leaf.shape[skip:], leaf.dtype), shapes)

    def client_update(download: Tree, kept: Tree, data: ClientData, key: Array) -> Reply:
        def leaf(one: Array) -> Array:
            if jnp.issubdtype(one.dtype, jnp.integer):
                return one * (data.id % 2).astype(one.dtype)
            return jnp.sin(1.0 + data.id + jnp.arange(one.size)).astype(one.dtype).reshape(one.shape)

        return Reply(*jax.tree.map(leaf, ones((upload, client), 1)))

    return algorithm._replace(
        init_server=lambda key, num_clients: ones(server, 0),
        init_client=lambda download, id, key: ones(client, 1),
        client_update=client_update,
    )


def lengths(uploads: Tree) -> np.ndarray:
    """Norms [N] of what is trained."""
    leaves = jax.tree.leaves(tree.split(masks.trained(uploads), uploads)[0])
    return np.sqrt(sum(np.sum(np.square(leaf).reshape(CLIENTS, -1), axis=1) for leaf in leaves) + np.zeros(CLIENTS))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "trains"),
    [
        *(pytest.param(*name.values, False, marks=name.marks, id=f"{name.values[0]}-feigned") for name in FAMILIES),
        *(pytest.param(name, True, marks=pytest.mark.slow, id=f"{name}-trained") for name in FIRSTS),
    ],
)
def test_wrappers_without_effect_are_not_there_and_one_program_serves_all_values(name: str, trains: bool):
    """Nobody attacks, no upload is longer than the bound, noise is 0, all is kept: the numbers of the method alone."""
    recipe, data = recipe_of(name), federation()
    given = recipe.make(**recipe.hyper)
    feedback, summed = not unlike(given), not several(given)

    @partial(jax.jit, compiler_options=QUICK)
    def both(values: dict[str, Any], data: FederatedData) -> tuple[Tree, Tree]:
        algorithm = recipe.make(**recipe.hyper)
        algorithm = algorithm if trains else feigned(algorithm, data)
        return exchange(even(algorithm), data), exchange(wrapped(algorithm, values, feedback), data)

    nothing = {"share": 0.0, "scale": 1.0, "noise": 0.0, "clip": 1e9}
    plain, (server, kept, (_, uploads)) = both(nothing, data)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-13)  # noqa: E731
    jax.tree.map(close, plain[0], server)
    jax.tree.map(close, plain[2], uploads)
    own, residual = kept if feedback else (kept, ())
    jax.tree.map(close, plain[1], own)
    jax.tree.map(lambda leaf: close(leaf, 0 * leaf), residual)

    longest = lengths(plain[2]).max()
    clip = 0.25 * longest if longest else 1.0
    _, (moved, kept, (_, uploads)) = both({"share": 0.5, "scale": 2.0, "noise": 0.1, "clip": clip}, data)
    differs = jax.tree.leaves(jax.tree.map(lambda a, b: np.any(a != b), server, moved))
    assert any(differs) == (name != "local_only")
    jax.tree.map(close, plain[1], kept.client if feedback else kept)
    if summed:
        assert np.all(lengths(uploads) <= clip * (1 + 1e-12))
    stats = lambda content: tree.split(masks.trained(content), content)[1]  # noqa: E731
    same(stats(plain[2]), stats(uploads))


STACKS: list[tuple[wrappers.Compressor, Attack, Reduce]] = [
    (wrappers.top_k(0.1), wrappers.sign_flip(), median),
    (wrappers.random_k(0.1), wrappers.scaling(), trimmed(0.2)),
    (wrappers.sign(), wrappers.gaussian(), krum(1)),
    (wrappers.quantized(4), wrappers.gaussian(), geometric_median()),
]


@pytest.mark.usefixtures("strict")
@every_method
def test_every_compressor_attack_and_reduction_fits_every_method(name: str):
    """The shapes of server, clients and uploads are those of the method, and fewer bytes go up."""
    recipe, data = recipe_of(name), federation()
    algorithm = recipe.make(**recipe.hyper)
    plain, (down, up) = _shapes(algorithm), accounting.wire_bytes(algorithm, data)
    for compressor, attack, reduction in STACKS:
        feedback = compressor.contracts and not unlike(algorithm)
        made = compressed(algorithm, compressor, feedback=feedback)
        made = clipped(attacked(made, wrappers.some(CLIENTS, 0.5), attack), 1.0)
        made = colluding(made, wrappers.some(CLIENTS, 0.5), wrappers.alie())
        server, kept, (_, uploads) = _shapes(made if apart(algorithm) else reduced_by(made, reduction))
        assert (server, kept.client if feedback else kept, uploads) == plain
        received, sent = accounting.wire_bytes(made, data)
        assert received == down
        assert sent < up or name == "local_only"


def _shapes(algorithm: Algorithm) -> Any:
    made = jax.eval_shape(lambda data: exchange(algorithm, data), federation())
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made)


@pytest.mark.parametrize(
    ("name", "cannot"),
    [
        ("fedavg", (False, False, False)),
        ("ditto", (False, False, False)),
        ("feddf", (False, True, False)),
        ("ifca", (False, True, True)),
        ("fedamp", (True, True, False)),
        ("fedfomo", (True, True, True)),
    ],
)
def test_what_a_method_cannot_bear_is_refused(name: str, cannot: tuple[bool, bool, bool]):
    recipe = recipe_of(name)
    algorithm = recipe.make(**recipe.hyper)
    assert (apart(algorithm), several(algorithm), unlike(algorithm)) == cannot


def test_the_recipe_of_a_wrapper():
    """CONTRIBUTING.md is true: (3, 4) of two leaves becomes (0.6, 0.8), and the model moves by that."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    program = re.search(r"<!-- run: wrapper -->\n```python\n(.*?)```", text, re.DOTALL)
    assert program
    names: dict[str, Any] = {}
    exec(program[1], names)
    task, data = quadratics.problem(a=[3.0], b=[[4.0]])
    step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    moved = quadratics.deployed(names["directed"](algorithms.fedavg(task, step)), task, data, rounds=1)
    assert moved == {"a": [0.6], "b": [[0.8]]}
