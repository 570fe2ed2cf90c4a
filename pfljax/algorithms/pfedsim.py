"""pFedSim: heads are personal, bodies are mixed by how alike the heads have become."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import handed, stack, weighted
from pfljax.federation.table import mixed, places, repeated, replaced, row
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Mask, Params, Reply, Task, Tree

_ITSELF = 0.9999
"""Similarity of a client to itself, and the most that another one has."""


class Alike(NamedTuple):
    """The server of pFedSim."""

    models: Params  # [N, ...], all equal during the warm-up
    similarity: Array  # [N, N], 0 for pairs that have not replied in one round
    round: Array  # [] rounds done


class Start(NamedTuple):
    """What a client receives, and what it keeps: its own model, and when."""

    params: Params
    personal: Array  # [] 0 in the warm-up, 1 afterwards


def pfedsim(task: Task, local: LocalSolver, head: Mask, *, warmup: int = 10) -> Algorithm:
    """FedAvg for a while; then every client has a head `h_i` of its own, under a mixture of the clients' bodies.

    After the warm-up, with the models `(b_j, h_j)` that the clients trained last:

    - `s_ij = max(0, mean over outputs of cos(h_i, h_j))` for pairs that reply in the same round, `s_ii = 0.9999`;
    - client i trains from `(sum_j a_ij b_j, h_i)`, `a_ij = log(1 - s_ij) / sum_k log(1 - s_ik)`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      head: the classifier, whose weights [..., C] are compared.
      warmup: rounds of FedAvg, static, of those in which somebody replies; the authors take half of all rounds.

    Returns:
      An algorithm whose server holds all models [N, ...] and s; clients keep their model of the last round, upload
      |params| and deploy what they keep, or what they receive if they have not trained since the warm-up; down:
      |params| and whether it is over. A newcomer starts at the mean of all models, and its onboarding trains.

    Raises:
      ValueError: if the reduction hands on anything but the uploads themselves.

    Deviations from the source: no `s_ij` is above 0.9999, where the logarithm ends; clients outside the cohort keep
    their rows and are mixed. Source: Tan et al., "pFedSim: Similarity-Aware Model Aggregation Towards Personalized
    Federated Learning", ECAI 2023, as implemented by FL-bench.

    Heads that are orthogonal keep bodies apart:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[1.0, 5.0], head=[[[1.0], [0.0]], [[0.0], [1.0]]])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(pfedsim(task, step, masks.named("head"), warmup=0), task, data, rounds=50)["body"]
    [1.0, 5.0]
    """

    def init_server(key: Array, num_clients: int) -> Alike:
        models = repeated(task.init(key), num_clients)
        return Alike(models, jnp.zeros((num_clients, num_clients)), jnp.asarray(0))

    def download(server: Alike, id: Array) -> Start:
        own = row(server.models, id)
        known = jnp.arange(server.similarity.shape[0]) == id
        near = -jnp.log1p(-jnp.where(known, _ITSELF, row(server.similarity, id)))
        body = tree.split(head(own), mixed(near / jnp.sum(near), server.models))[1]
        start = tree.merge(tree.like(own, tree.split(head(own), own)[0]), body)
        return Start(tree.where(id < known.size, start, own), (server.round >= warmup).astype(float))

    def client_update(start: Start, own: Start, data: ClientData, key: Array) -> Reply:
        result = local(task.loss, start.params, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(start.params, result), start._replace(params=result))

    def onboard(start: Start, own: Start, data: ClientData, key: Array) -> Start:
        own = own._replace(personal=jnp.ones_like(own.personal))
        return client_update(own, own, data, key).client

    def server_update(server: Alike, cohort: Cohort, key: Array) -> Alike:
        received = jax.vmap(download, (None, 0))(server, cohort.ids).params
        models = tree.sub(received, handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on"))
        clients = places(server.models, cohort)
        alike = _similarity(tree.split(head(models), models)[0].trainable)
        similarity = server.similarity.at[clients[:, None], clients[None]].set(alike, mode="drop")
        apart = Alike(replaced(server.models, cohort, models), similarity, server.round + 1)
        common = repeated(weighted(models, cohort.weights), similarity.shape[0])
        warm = server._replace(models=common, round=server.round + 1)
        return tree.where(server.round < warmup, warm, apart)

    def personalize(start: Start, own: Start, data: ClientData, key: Array) -> Params:
        return tree.where(own.personal > 0, own.params, start.params)

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=lambda start, id, key: start._replace(personal=jnp.zeros_like(start.personal)),
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=stack,
        onboard=onboard,
    )


def _similarity(heads: Tree) -> Array:
    """`max(0, mean over outputs of cos(h_i, h_j))` [M, M], at most 0.9999, of weights [M, ..., C] without biases."""

    def cosines(weights: Array) -> Array:
        rows = weights.reshape(weights.shape[0], -1, weights.shape[-1])
        norms = jnp.linalg.norm(rows, axis=1, keepdims=True)
        unit = rows / jnp.where(norms > 0, norms, 1)
        return jnp.einsum("idc,jdc->cij", unit, unit)

    leaves = jax.tree.leaves(heads)
    none = jnp.zeros((1, leaves[0].shape[0], leaves[0].shape[0]), leaves[0].dtype)
    found = [cosines(leaf) for leaf in leaves if leaf.ndim > 2] or [none]
    return jnp.clip(jnp.mean(jnp.concatenate(found), axis=0), 0, _ITSELF)
