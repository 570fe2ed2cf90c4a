"""The shapes of clustered methods: clients choose among K models, or the server says whose is which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation import table
from pfljax.federation.clustering import averaged, kmeans, nearest
from pfljax.federation.reduce import grouped, handed, mean, stack, weighted
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.table import repeated, replaced
from pfljax.learning.tasks import misfit
from pfljax.types import (
    Algorithm,
    Array,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Mask,
    Params,
    Reply,
    Rows,
    Task,
    Tree,
)


class Models(NamedTuple):
    """A server of K models, of which a part may be common."""

    common: Server  # the leaves that all of them share
    own: Server  # the others, [K, ...]


def apart(task: Task, clusters: int, key: Array) -> Params:
    """K models that begin at random, [K, ...]; the first as a single one begins."""
    others = [jax.random.fold_in(key, cluster) for cluster in range(1, clusters)]
    return jax.vmap(task.init)(jnp.stack([key, *others]))


def misfits(task: Task, models: Params, data: ClientData, key: Array) -> Array:
    """`f_i(w_k)` [K] of models [K, ...], see `tasks.misfit`."""
    return jax.vmap(lambda w: misfit(task, w, data, jax.random.fold_in(key, 1)))(models)


def clustered(
    task: Task,
    local: LocalSolver,
    choose: Callable[[Params, Array, ClientData, Array], Array],
    start: Callable[[Array], Params],
    *,
    clusters: int,
    shared: Mask = masks.nothing,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """K models: a client trains and deploys that of its cluster, and each model averages its members.

    Clients count by their examples, see `reduce.uniform`. They keep the number of their cluster. Down: the shared part
    and K times the rest, up: |params| and the cluster. A model without members stays.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      choose: `(models [K, ...], the last cluster [], -1 before the first, data, key) ->` the client's cluster [].
      start: `key ->` the models before the first round [K, ...].
      clusters: K, static.
      shared: leaves that are common to the models: those of the first, averaged over all clients.
      server: server optimizer of each model; plain averaging if None.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0, 4.0])
    >>> step, begin = local.descent(optax.sgd(0.5), plans.full_batch(1, 1)), lambda key: Params({"w": jnp.zeros(2)})
    >>> odd = lambda models, last, data, key: data.id % 2
    >>> quadratics.deployed(clustered(task, step, odd, begin, clusters=2), task, data, rounds=100)
    {'w': [2.0, 8.0, 2.0]}
    """
    server = fedopt() if server is None else server

    def halves(params: Params) -> tuple[Params, Params]:
        return tree.split(shared(params), params)

    def whole(models: tuple[Params, Params]) -> Params:
        common, own = models
        return tree.merge(repeated(common, clusters), own)

    def init_server(key: Array, num_clients: int) -> Models:
        models = start(key)
        first = jax.tree.map(lambda leaf: leaf[0], models)
        return Models(server.init(halves(first)[0]), jax.vmap(server.init)(halves(models)[1]))

    def member(models: tuple[Params, Params], last: Array, data: ClientData, key: Array) -> tuple[Array, Params]:
        cluster = choose(whole(models), last, data, key)
        common, own = models
        return cluster, tree.merge(common, jax.tree.map(lambda leaf: leaf[cluster], own))

    def client_update(models: tuple[Params, Params], last: Array, data: ClientData, key: Array) -> Reply:
        key = jax.random.fold_in(key, 0)
        cluster, w = member(models, last, data, key)
        upload = cluster, tree.sub(w, local(task.loss, w, data, key))
        return Reply(upload, cluster.astype(last.dtype), {"cluster": cluster})

    def server_update(servers: Models, cohort: Cohort, key: Array) -> Models:
        expected = whole((servers.common.params, servers.own.params)), jnp.zeros(clusters)
        differences, weights = handed(cohort.uploads, expected, "one tree for each model, as `reduce.grouped` makes it")
        common, own = halves(differences)
        moved = jax.vmap(tree.where)(weights > 0, jax.vmap(server.step)(servers.own, own), servers.own)
        return Models(server.step(servers.common, weighted(common, weights)), moved)

    return Algorithm(
        init_server=init_server,
        download=lambda servers, id: (servers.common.params, servers.own.params),
        init_client=lambda models, id, key: jnp.asarray(-1),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda models, last, data, key: member(models, last, data, key)[1],
        reduce=grouped(clusters, mean),
    )


class Starts(NamedTuple):
    """A server that has models, and may still look for better ones to start with."""

    server: Models
    seeds: Array  # [S] what the models of each start are drawn from
    looking: Array  # [] whether no round has been


def searched(algorithm: Algorithm, *, clusters: int, starts: int) -> Algorithm:
    """`clustered` whose first round trains nothing: of S starts it keeps the one whose smallest cluster is the largest.

    Each client of that round draws the models of all starts from their seeds, and uploads its cluster in each. Down: S
    numbers more, up: S K.

    Args:
      algorithm: that of `clustered`, with so many `clusters`.
      starts: S, static; 1 is `algorithm` itself.
    """
    if starts == 1:
        return algorithm

    def init_server(key: Array, num_clients: int) -> Starts:
        seeds = jax.random.bits(jax.random.fold_in(key, clusters), (starts,))
        return Starts(algorithm.init_server(key, num_clients), seeds, jnp.asarray(True))

    def client_update(download: tuple[Tree, Array, Array], last: Array, data: ClientData, key: Array) -> Reply:
        models, seeds, looking = download

        def chosen(seed: Array) -> Array:
            drawn = algorithm.download(algorithm.init_server(jax.random.key(seed), 0), data.id)
            cluster, _ = algorithm.client_update(drawn, jnp.full_like(last, -1), data, key).upload
            return (jnp.arange(clusters) == cluster).astype(float)

        def look() -> Reply:
            unmoved = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.upload)
            cluster, nothing = unmoved
            return Reply((cluster, (nothing, jax.lax.map(chosen, seeds))), last, {"cluster": last})

        def train() -> Reply:
            (cluster, moved), *rest = algorithm.client_update(models, last, data, key)
            return Reply((cluster, (moved, jnp.zeros((starts, clusters)))), *rest)

        shapes = jax.eval_shape(algorithm.client_update, models, last, data, key)
        return jax.lax.cond(looking, look, train)

    def server_update(state: Starts, cohort: Cohort, key: Array) -> Starts:
        (moved, members), weights = cohort.uploads
        best = jnp.argmax(jnp.min(members[0], axis=1))
        usual = cohort._replace(uploads=(moved, weights))
        server = jax.lax.cond(
            state.looking,
            lambda: algorithm.init_server(jax.random.key(state.seeds[best]), 0),
            lambda: algorithm.server_update(state.server, usual, key),
        )
        return Starts(server, state.seeds, jnp.asarray(False))

    return algorithm._replace(
        init_server=init_server,
        download=lambda state, id: (algorithm.download(state.server, id), state.seeds, state.looking),
        init_client=lambda download, id, key: algorithm.init_client(download[0], id, key),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda download, last, data, key: algorithm.personalize(download[0], last, data, key),
    )


def by_loss(
    task: Task, split: Literal["train", "validation"] = "train", hysteresis: Array | float = 0.0
) -> Callable[[Params, Array, ClientData, Array], Array]:
    """How a client chooses for `clustered`: `argmin_k f_i(w_k)`, with `clustering.nearest`'s hysteresis.

    Args:
      task: the losses are as it measures them, see `tasks.misfit`.
      split: whose examples count; a client without validation examples looks at those that it trains on.
      hysteresis: part of the present loss by which another must be lower, traced.
    """

    def choose(models: Params, last: Array, data: ClientData, key: Array) -> Array:
        own = Rows(data.start, data.size)
        rows = own if split == "train" else tree.where(data.validation.size > 0, data.validation, own)
        return nearest(misfits(task, models, data.on(rows), key), last, hysteresis)

    return choose


class Clusters(NamedTuple):
    """A server that knows which of its K models serves whom."""

    models: Params  # [K, ...]
    assigned: Array  # [N] the cluster of each client, -1 for one that has none yet
    memory: Tree = ()  # what else it goes by


class Sight(NamedTuple):
    """What a client may see of `Clusters`; one that has a cluster is sent the model of that alone."""

    models: Params  # [K, ...]
    cluster: Array  # [] -1 for one that has none yet, such as a newcomer
    memory: Tree

    @property
    def model(self) -> Params:
        """That of its cluster; the last of all for a client without one."""
        return jax.tree.map(lambda leaf: leaf[self.cluster], self.models)


Init = Literal["random", "common"]
"""Whose means the first centers are: of random clusters, or of those that k-means finds in the first round."""

Regroup = Callable[[Clusters, Cohort, Params, Array], Clusters]
"""`(server, cohort, what its clients made of their models [M, ...], key) -> server`."""


def assigning(
    task: Task,
    local: LocalSolver,
    begin: Callable[[Array, int], Clusters],
    regroup: Regroup,
    join: Callable[[Sight, ClientData, Array], Array] | None = None,
    *,
    loss: Callable[[Sight, Params], LossFn] | None = None,
    sent: Callable[[Sight], Tree] = lambda sight: sight.model,
) -> Algorithm:
    """K models of which the server decides who trains and deploys which, by what the clients upload.

    The clients keep nothing. Down and up: |params|; a newcomer is sent what it finds its cluster by.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      begin: `(key, N) ->` the server before the first round.
      regroup: what the server does with a round.
      join: `(sight, data, key) ->` the cluster [] that a client without one deploys; that of the smallest loss if None.
      loss: `(sight, w) ->` what is minimised from `w` on; the task's loss if None.
      sent: what a client with a cluster is sent.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0, 4.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> begin = lambda key, num_clients: Clusters(repeated(task.init(key), 2), jnp.array([0, 1, 0]))
    >>> mean = lambda server, cohort, results, key: server._replace(
    ...     models=averaged(server.models, results, server.assigned, cohort.weights))
    >>> quadratics.deployed(assigning(task, step, begin, mean), task, data, rounds=100)
    {'w': [2.0, 8.0, 2.0]}
    """

    def download(server: Clusters, id: Array) -> Sight:
        known = id < server.assigned.size
        cluster = jnp.where(known, jnp.take(server.assigned, id, mode="clip"), -1)
        return Sight(server.models, cluster, server.memory)

    def client_update(sight: Sight, client: Tree, data: ClientData, key: Array) -> Reply:
        w = sight.model
        result = local(loss(sight, w) if loss else task.loss, w, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(w, result), client, {"cluster": sight.cluster})

    def server_update(server: Clusters, cohort: Cohort, key: Array) -> Clusters:
        received = jax.vmap(lambda id: download(server, id).model)(cohort.ids)
        uploads = handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on")
        return regroup(server, cohort, tree.sub(received, uploads), key)

    def personalize(sight: Sight, client: Tree, data: ClientData, key: Array) -> Params:
        new = sight.cluster < 0
        mine = data.on(Rows(data.start, jnp.where(new, data.size, 0)))  # who has a cluster computes nothing
        joined = join(sight, mine, key) if join else jnp.argmin(misfits(task, sight.models, mine, key))
        return sight._replace(cluster=jnp.where(new, joined.astype(sight.cluster.dtype), sight.cluster)).model

    return Algorithm(
        init_server=begin,
        download=download,
        init_client=lambda sight, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=stack,
        sent=sent,
    )


def seeded(models: Params, rows: Params, weights: Array, key: Array, init: Init) -> Params:
    """Models [K, ...] as the means of clusters of the rows [n, ...]; those without rows stay.

    Args:
      weights: [n] of the rows.
      init: clusters are "random", or those that k-means finds by what is trained ("common").

    >>> rows = Params({"w": jnp.array([0.0, 2.0, 8.0])})
    >>> made = seeded(Params({"w": jnp.zeros(2)}), rows, jnp.ones(3), jax.random.key(0), "common")
    >>> sorted(made.trainable["w"].tolist())
    [1.0, 8.0]
    """
    clusters = jax.tree.leaves(models)[0].shape[0]
    if init == "random":
        return averaged(models, rows, jax.random.randint(key, weights.shape, 0, clusters), weights)
    return averaged(models, rows, kmeans(table.distances(rows.trainable), weights, clusters, key), weights)


class Grouped(NamedTuple):
    """What is remembered of the round in which clients were grouped."""

    round: Array  # [] rounds done
    directions: Params  # [K, ...] means of `w - w_i` of the members in that round, without statistics
    sizes: Array  # [K] how many they were


def grouping_once(
    task: Task,
    local: LocalSolver,
    group: Callable[[Params, Array, Array], Array],
    away: Callable[[Params, Params], Array],
    *,
    clusters: int,
    warm_up: int = 0,
    adopt: bool = False,
    floor: int = 1,
    weigh: Callable[[Cohort], Array] = lambda cohort: cohort.weights,
    loss: Callable[[Sight, Params], LossFn] | None = None,
) -> Algorithm:
    """FedAvg for `warm_up` rounds; in the next one the cohort trains that model `w` and is grouped; then FedAvg apart.

    Who was not there has its cold start when it first takes part, or when it deploys: it trains `w`, and joins the
    group whose mean `w - w_i` is nearest. What it uploads then counts for no model.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      group: `(w - w_i [M, ...], who replied [M], key) ->` labels [M], once.
      away: `(w - w_i [M, ...], means of the groups [K, ...]) ->` distances [M, K] for a cold start.
      clusters: K at most, static.
      warm_up: rounds before, static.
      adopt: whether a group begins at the mean of its members, or all begin at `w`.
      floor: a group of fewer dissolves, and its members join the nearest of the others; static.
      weigh: weights [M] of the averages.
      loss: as in `assigning`.
    """

    def begin(key: Array, num_clients: int) -> Clusters:
        models = repeated(task.init(key), clusters + 1)  # the last is `w` from the end of the warm-up on
        none = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[:-1]), models.trainable)
        return Clusters(models, jnp.zeros(num_clients, int), Grouped(jnp.asarray(0), Params(none), jnp.zeros(clusters)))

    def moves(models: Params, results: Params) -> Params:
        return Params(jax.tree.map(lambda w, rows: w[-1:] - rows, models.trainable, results.trainable))

    def closest(made: Params, memory: Grouped) -> Array:
        return jnp.argmin(jnp.where(memory.sizes[None] > 0, away(made, memory.directions), jnp.inf), axis=1)

    def described(made: Params, labels: Array, present: Array, memory: Grouped) -> Grouped:
        sizes = jnp.sum(jnp.where(labels[None] == jnp.arange(clusters)[:, None], present[None], 0), axis=1)
        return memory._replace(directions=averaged(memory.directions, made, labels, present), sizes=sizes)

    def formed(made: Params, present: Array, memory: Grouped, key: Array) -> tuple[Array, Grouped]:
        labels = group(made, present > 0, key)
        memory = described(made, labels, present, memory)
        if floor > 1:
            large = memory._replace(sizes=jnp.where(memory.sizes >= floor, memory.sizes, 0))
            labels = jnp.where(large.sizes[labels] > 0, labels, closest(made, large))
            memory = described(made, labels, present, memory)
        return labels.astype(int), memory

    def regroup(server: Clusters, cohort: Cohort, results: Params, key: Array) -> Clusters:
        (models, assigned, memory), made = server, moves(server.models, results)
        mine = clusters_of(server, cohort.ids)
        now, cold = memory.round == warm_up, mine < 0
        labels, memory = jax.lax.cond(
            now,
            lambda: formed(made, heard(cohort), memory, key),
            lambda: (jnp.where(cold, closest(made, memory), mine), memory),
        )
        counted = jnp.where(now, adopt, ~cold)
        models = averaged(models, results, labels, jnp.where(counted, weigh(cohort), 0))
        common = repeated(jax.tree.map(lambda leaf: leaf[0], models), clusters + 1)
        return Clusters(
            tree.where(memory.round < warm_up, common, models),
            reassigned(server._replace(assigned=jnp.where(now, -1, assigned)), cohort, labels),
            memory._replace(round=memory.round + 1),
        )

    def join(sight: Sight, data: ClientData, key: Array) -> Array:
        result = local(loss(sight, sight.model) if loss else task.loss, sight.model, data, jax.random.fold_in(key, 0))
        return closest(moves(sight.models, repeated(result, 1)), sight.memory)[0]

    return assigning(task, local, begin, regroup, join, loss=loss)


def reassigned(server: Clusters, cohort: Cohort, labels: Array) -> Array:
    """Whose cluster is which [N], after those of a round have `labels` [M].

    >>> server = Clusters(Params({}), assigned=jnp.array([0, 0, 1]))
    >>> reassigned(server, Cohort(jnp.array([0, 2]), (), jnp.array([5.0, 0.0])), jnp.array([1, 0])).tolist()
    [1, 0, 1]
    """
    return replaced(server.assigned, cohort, labels.astype(server.assigned.dtype))


def clusters_of(server: Clusters, ids: Array) -> Array:
    """The clusters of clients `ids` [M]."""
    return jnp.take(server.assigned, ids, mode="clip")


def heard(cohort: Cohort) -> Array:
    """[M] 1 for each client that replied, else 0.

    >>> heard(Cohort(jnp.array([0, 2]), (), jnp.array([5.0, 0.0]))).tolist()
    [1.0, 0.0]
    """
    return (cohort.weights > 0).astype(cohort.weights.dtype)
