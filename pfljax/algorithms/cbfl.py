"""CBFL: communities of examples, as an autoencoder shows them, and a model for each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation import table
from pfljax.federation.clustering import averaged, kmeans
from pfljax.federation.clusters import heard
from pfljax.federation.reduce import handed, stack, weighted
from pfljax.federation.table import repeated
from pfljax.learning.local import average
from pfljax.learning.metrics import masked_mean
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Params,
    Reply,
    Rows,
    Task,
    Tree,
)

_BATCH = 128
"""Examples that are encoded at once."""


class Communities(NamedTuple):
    """The server of CBFL, which clients see and deploy."""

    round: Array  # [] rounds done
    encoder: Params  # the autoencoder
    centers: Array  # [K, d] codes
    models: Params  # [K, ...]


class Learned(NamedTuple):
    """What a client of CBFL uploads."""

    encoder: Params  # difference
    code: Array  # [d] mean of its examples
    models: Params  # [K, ...] differences
    counts: Array  # [K] its examples in each community


def cbfl(
    task: Task,
    local: LocalSolver,
    inputs: int,
    *,
    clusters: int = 5,
    code: int = 8,
    noise: Array | float = 0.1,
    warm_up: int = 10,
) -> Algorithm:
    """K communities of examples, whoever holds them, and a FedAvg for each.

    1. A denoising autoencoder, `c(x) = tanh(A x + a)` and `x^ = B c(x + noise e) + b`, is learned by FedAvg.
    2. In the round after the warm-up, clients send the means of their codes `c(x)`, and k-means finds K centers.
    3. The community of an example is that of the center nearest to its code. Client i trains model k on its n_ik
       examples of community k, and `w_k <- sum_i n_ik w_ik / sum_i n_ik`.

    Args:
      task: the models and their loss.
      local: solver of a client's round, for the autoencoder as for the models.
      inputs: numbers of an example, static; they are encoded as a vector, bytes as numbers in [-1, 1].
      clusters: K, static; 1 is FedAvg after the warm-up.
      code: d, static.
      noise: standard deviation of the noise of the autoencoder, traced.
      warm_up: rounds of the autoencoder, static.

    Returns:
      An algorithm whose clients keep nothing and deploy all models with the autoencoder: each example is for the model
      of its community. Down: K |params|, K codes and the autoencoder; up: the same with one code, and K counts.

    Raises:
      ValueError: if a count is below 1, or the reduction hands on anything but the uploads.

    Deviations from the source: the autoencoder has one hidden layer. What a round does not train is sent as zeros.
    Source: Huang et al., "Patient Clustering Improves Efficiency of Federated Machine Learning to Predict Mortality
    and Hospital Stay Time Using Distributed Electronic Medical Records", Journal of Biomedical Informatics 2019.

    Two clients between whom the meaning of the second input is turned around:

    >>> import optax
    >>> from pfljax import data, engine, models
    >>> from pfljax.learning import plans, tasks
    >>> from pfljax.learning.local import descent
    >>> held = [([[side, 0.0], [side, 1.0]], [side > 0, side < 0]) for side in (2.0, -2.0)]
    >>> task, solve = tasks.classification(models.logistic((2,), 2)), descent(optax.sgd(1.0), plans.full_batch(9, 2))
    >>> made, held = cbfl(task, solve, 2, clusters=2, warm_up=2), data.from_clients(held, held, num_classes=2)
    >>> engine.simulate(task, made, held, rounds=30, eval_every=30).clients().tolist()
    [1.0, 1.0]
    """

    def flat(x: Tree) -> Array:
        def vectors(leaf: Array) -> Array:
            numbers = leaf.reshape(leaf.shape[0], -1).astype(float)
            return numbers / 127.5 - 1 if leaf.dtype == jnp.uint8 else numbers

        return jnp.concatenate(jax.tree.leaves(jax.tree.map(vectors, x)), axis=1)

    def encoded(encoder: Params, vectors: Array) -> Array:
        layer = encoder.trainable["encode"]
        return jnp.tanh(vectors @ layer["kernel"] + layer["bias"][None])

    def reconstruction(encoder: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        x, layer = flat(batch.x), encoder.trainable["decode"]
        noisy = x + noise * jax.random.normal(key, x.shape, x.dtype)
        back = encoded(encoder, noisy) @ layer["kernel"] + layer["bias"][None]
        return masked_mean(jnp.sum((back - x) ** 2, axis=1) / 2, batch.mask), encoder.stats

    def community(server: Communities, x: Tree) -> Array:
        """The community of each example, [B]."""
        apart = encoded(server.encoder, flat(x))[:, None] - server.centers[None]
        return jnp.argmin(jnp.sum(apart**2, axis=2), axis=1)

    def within(server: Communities, k: Array) -> LossFn:
        def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            mine = jnp.where(community(server, batch.x) == k, batch.mask, 0)
            some = jnp.any(mine > 0)  # norm layers do not bear a batch of nobody
            value, stats = task.loss(params, batch._replace(mask=jnp.where(some, mine, batch.mask)), key)
            return jnp.where(some, value, 0), tree.where(some, stats, params.stats)

        return loss

    def init_server(key: Array, num_clients: int) -> Communities:
        layers = {"encode": (inputs, code), "decode": (code, inputs)}
        encoder = {name: _layer(jax.random.fold_in(key, n), *shape) for n, (name, shape) in enumerate(layers.items())}
        return Communities(
            jnp.asarray(0), Params(encoder), jnp.zeros((clusters, code)), repeated(task.init(key), clusters)
        )

    def client_update(server: Communities, client: Tree, data: ClientData, key: Array) -> Reply:
        def now(condition: Array) -> ClientData:
            return data.on(Rows(data.start, jnp.where(condition, data.size, 0)))

        def described(batch: Batch, number: Array) -> tuple[Array, Array]:
            members = community(server, batch.x)[:, None] == jnp.arange(clusters)[None]
            rows = encoded(server.encoder, flat(batch.x)), members.astype(float)
            return jax.tree.map(lambda part: jax.vmap(masked_mean, (1, None))(part, batch.mask), rows)

        def one(w: Params, k: Array) -> Params:
            return local(within(server, k), w, now(server.round > warm_up), key)

        key = jax.random.fold_in(key, 0)
        encoder = local(reconstruction, server.encoder, now(server.round < warm_up), key)
        models = jax.vmap(one)(server.models, jnp.arange(clusters))
        mean, shares = average(described, data, _BATCH)
        upload = Learned(
            tree.sub(server.encoder, encoder), mean, tree.sub(server.models, models), shares * data.size.astype(float)
        )
        return Reply(upload, client)

    def server_update(server: Communities, cohort: Cohort, key: Array) -> Communities:
        expected = Learned(server.encoder, server.centers[0], server.models, jnp.zeros(clusters))
        each = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], cohort.ids.size, axis=0), expected)
        uploads = handed(cohort.uploads, each, "all uploads, as `reduce.stack` hands them on")

        def found() -> Array:
            labels = kmeans(table.distances(uploads.code), heard(cohort), clusters, key)
            return averaged(server.centers, uploads.code, labels, heard(cohort))

        moved = jax.vmap(weighted, (1, 1))(uploads.models, uploads.counts)
        return Communities(
            server.round + 1,
            tree.sub(server.encoder, weighted(uploads.encoder, cohort.weights)),
            jax.lax.cond(server.round == warm_up, found, lambda: server.centers),
            tree.sub(server.models, moved),
        )

    def predict(server: Communities, x: Tree) -> Tree:
        mine = community(server, x)
        outputs = jax.vmap(task.predict, (0, None))(server.models, x)
        return jax.tree.map(lambda each: each[mine, jnp.arange(mine.size)], outputs)

    return Algorithm(
        init_server=init_server,
        download=lambda server, id: server,
        init_client=lambda server, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda server, client, data, key: server,
        reduce=stack,
        predict=predict,
        sent=lambda server: (server.encoder, server.centers, server.models),
    )


def _layer(key: Array, size: int, outputs: int) -> dict[str, Array]:
    """A dense layer at random."""
    kernel = jax.random.normal(key, (size, outputs), float) / jnp.sqrt(jnp.asarray(size, float))
    return {"bias": jnp.zeros(outputs), "kernel": kernel}
