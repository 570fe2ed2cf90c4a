"""FedTGP: the server trains the prototypes that clients align their features with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax.federation.reduce import stack
from pfljax.federation.skeletons import Init, alone, initial
from pfljax.learning import classes
from pfljax.learning.classes import Nearest, Prototypes
from pfljax.learning.local import descent
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.plans import epochs
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LocalSolver, Model, Params, Reply, Task, Tree


class Trained(NamedTuple):
    """The server."""

    net: Params  # the embeddings e [C, d], and G: U, u, V, v
    prototypes: Prototypes  # P = G(e); seen once they have been trained


def fedtgp(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 1.0,
    margin: Array | float = 100.0,
    server_lr: Array | float = 0.01,
    server_epochs: int = 100,
    server_batch_size: int = 10,
    init: Init = "common",
) -> Algorithm:
    """Prototypes that keep the classes apart, trained on those that the clients send.

    Clients do as in FedProto: `local` minimises `CE(h_i(z), y) + lam mean_d (z - P_y)^2`, then they send `q_ik`, the
    mean of z over their examples of class k. On the pairs (q, k) of a round the server descends over all e and G

    `-log exp(-||q - P_k|| - xi) / (exp(-||q - P_k|| - xi) + sum_{j != k} exp(-||q - P_j||))`, `P_j = G(e_j)`,

    `xi = min(margin, max_k min_{j != k} ||Q_k - Q_j||)`, `Q_k` the mean of the `q_ik`, `G(e) = V relu(U e + u) + v`.

    Args:
      task: the model and its loss, which is not used.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      lam: strength of the alignment, >= 0, traced; 0 is training alone.
      margin: the largest xi, >= 0, traced.
      server_lr: learning rate of the server's SGD, traced; 0 leaves P as it begins.
      server_epochs, server_batch_size: passes of the server over the pairs, and pairs of a minibatch, static.
      init: the same initial model for all clients, or a random one for each.

    Returns:
      An algorithm whose clients keep a model (|params|) and upload C (d + 1) numbers. They deploy `Nearest`. A newcomer
      trains a model as others do, without an upload.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: as implemented by HtFLlib, whose numbers are the defaults. `||a||` is
    `sqrt(max(||a||^2, 1e-12))`. Source: Zhang et al., "FedTGP: Trainable Global Prototypes with
    Adaptive-Margin-Enhanced Contrastive Learning for Data and Model Heterogeneity in Federated Learning", AAAI 2024.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(4,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> result = pfl.engine.simulate(task, fedtgp(task, solve, model, server_lr=0.1), data, rounds=9)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    count = classes.number(model, "fedtgp averages features")
    solve = descent(optax.sgd(server_lr), epochs(server_epochs, server_batch_size))

    def init_server(key: Array, num_clients: int) -> Trained:
        P, seen = classes.unseen(task, model, count)
        keys, d, draw = jax.random.split(jax.random.fold_in(key, 1), 3), P.shape[1], jax.nn.initializers.lecun_normal()
        net = {"e": jax.random.normal(keys[0], P.shape, P.dtype), "u": P[0], "v": P[0]}
        net |= {name: draw(key, (d, d), P.dtype) for name, key in zip("UV", keys[1:], strict=True)}
        return Trained(Params(net), Prototypes(_made(net), seen))

    def client_update(server: Prototypes, own: Params, data: ClientData, key: Array) -> Reply:
        own = local(classes.aligned(model, lam, server), own, data, jax.random.fold_in(key, 0))
        q, shares = classes.means(model, own, data, count, "fedtgp")
        held = (shares > 0).astype(shares.dtype)
        return Reply(Prototypes(held[:, None] * (server.P - q), held), own)

    def server_update(server: Trained, cohort: Cohort, key: Array) -> Trained:
        moved, held = cohort.uploads
        q = server.prototypes.P[None] - moved
        xi = jnp.minimum(_gap(q, held), margin)

        def loss(net: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            distances = _distance(batch.x[:, None], _made(net.trainable)[None])
            logits = -distances - xi * jax.nn.one_hot(batch.y, count, dtype=distances.dtype)
            return masked_mean(cross_entropy(logits, batch.y), batch.mask), net.stats

        net = solve(loss, server.net, classes.as_examples(q, held), key)
        return Trained(net, Prototypes(_made(net.trainable), jnp.ones_like(server.prototypes.seen)))

    return Algorithm(
        init_server=init_server,
        download=lambda server, id: server.prototypes,
        init_client=initial(task, init),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda server, own, data, key: Nearest(own, server),
        reduce=stack,
        onboard=alone(client_update),
        predict=classes.nearest(model),
    )


def _made(net: Tree) -> Array:
    """`G(e_k)` [C, d]."""
    return jax.nn.relu(net["e"] @ net["U"] + net["u"][None]) @ net["V"] + net["v"][None]


def _distance(a: Array, b: Array) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(a - b), axis=-1), 1e-12))


def _gap(q: Array, held: Array) -> Array:
    """`max_k min_{j != k} ||Q_k - Q_j||` [] over the classes that somebody holds; infinite where that is one."""
    numbers = jnp.sum(held, axis=0)
    means = jnp.sum(held[..., None] * q, axis=0) / jnp.maximum(numbers, 1)[:, None]
    pairs = (numbers > 0)[:, None] & (numbers > 0)[None] & ~jnp.eye(len(numbers), dtype=bool)
    nearest = jnp.min(jnp.where(pairs, _distance(means[:, None], means[None]), jnp.inf), axis=1)
    return jnp.max(jnp.where(numbers > 0, nearest, -jnp.inf))
