"""The shapes that methods share: averaging one model, sharing a part of it, several models, adapting one afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax

from pfljax import masks, tree
from pfljax.federation.reduce import mean
from pfljax.federation.server import ServerOptimizer, fedopt
from pfljax.learning import local
from pfljax.types import (
    Algorithm,
    Array,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Mask,
    Params,
    Reduce,
    Reply,
    Task,
    Tree,
    keep,
)

Init = Literal["common", "per_client"]
"""Whether the clients' own parts start equal, or random for each."""

Update = Callable[[Tree, Tree, ClientData, Array], Reply]
"""`(download, client, data, key) -> reply`: one client's half of a round."""


def averaging(
    task: Task,
    local: LocalSolver,
    loss: Callable[[Params], LossFn] | None = None,
    *,
    server: ServerOptimizer | None = None,
    reduce: Reduce = mean,
) -> Algorithm:
    """One model: each client trains it, the server moves along the mean of `w - w_i`.

    The clients keep nothing; every client deploys the server model. Down: |params|, up: |params|.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      loss: received `w` -> what is minimised there; the task's loss if None.
      server: server optimizer; plain averaging if None.
      reduce: how uploads are averaged.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(averaging(task, step), task, data, rounds=100)
    {'w': [4.0, 4.0]}
    """

    def client_update(w: Params, client: Tree, data: ClientData, key: Array) -> Reply:
        result = local(loss(w) if loss else task.loss, w, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(w, result), client)

    algorithm = accompanied(task, client_update, lambda w, client: w, lambda w: (), server=server, reduce=reduce)
    return algorithm._replace(onboard=keep)


def accompanied(
    task: Task,
    client_update: Update,
    deploy: Callable[[Params, Tree], Tree],
    start: Callable[[Params], Tree] = lambda w: w,
    *,
    server: ServerOptimizer | None = None,
    reduce: Reduce = mean,
) -> Algorithm:
    """A server model moved by uploads `w - w_i`, and beside it something that each client keeps.

    A newcomer onboards by its half of a round, without the upload.

    Args:
      task: the model.
      client_update: a client's half of a round; receives `w`.
      deploy: `(w, client) ->` what the client deploys.
      start: `w ->` what a client keeps at the start, or when it joins.
      server: server optimizer; plain averaging if None.
      reduce: how uploads are averaged.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> (task, data), step = quadratics.problem(w=[0.0, 8.0]), local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> both = lambda w, v, data, key: Reply(tree.sub(w, step(task.loss, w, data, key)), step(task.loss, v, data, key))
    >>> quadratics.deployed(accompanied(task, both, lambda w, v: tree.mix(0.5, v, w)), task, data, rounds=100)
    {'w': [2.0, 6.0]}
    """
    server = fedopt() if server is None else server
    return Algorithm(
        init_server=lambda key, num_clients: server.init(task.init(key)),
        download=lambda model, id: model.params,
        init_client=lambda w, id, key: start(w),
        client_update=client_update,
        server_update=lambda model, cohort, key: server.step(model, cohort.uploads),
        personalize=lambda w, client, data, key: deploy(w, client),
        reduce=reduce,
        onboard=alone(client_update),
        server_model=lambda w, client: w,
    )


def decoupled(
    task: Task,
    phases: Sequence[tuple[Mask, LocalSolver]],
    *,
    shared: Mask,
    init: Init = "common",
    server: ServerOptimizer | None = None,
    reduce: Reduce = mean,
) -> Algorithm:
    """One part of the model is shared and averaged, the rest stays with each client.

    A client trains the merged model in `phases`, each on the leaves of its mask; phase p uses the key of phase p.
    A newcomer trains its own part with the first phase's solver while the shared part rests.
    Down and up: the shared part.

    Args:
      shared: the leaves that the server holds.
      init: `"common"`: the personal part starts equal everywhere; `"per_client"`: random for each client.

    Raises:
      ValueError: if `init` is neither.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(body=[0.0, 8.0], head=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(decoupled(task, [(masks.everything, step)], shared=masks.named("body")), task, data, 50)
    {'body': [4.0, 4.0], 'head': [1.0, 5.0]}
    """
    server = fedopt() if server is None else server
    _check_init(init)

    def halves(params: Params) -> tuple[Params, Params]:
        return tree.split(shared(params), params)

    def init_client(w: Params, id: Array, key: Array) -> Params:
        del w
        return halves(task.init(key if init == "common" else jax.random.fold_in(key, id)))[1]

    def client_update(w: Params, own: Params, data: ClientData, key: Array) -> Reply:
        params = tree.merge(w, own)
        for phase, (mask, solver) in enumerate(phases):
            params = local.only(mask, solver)(task.loss, params, data, jax.random.fold_in(key, phase))
        result, own = halves(params)
        return Reply(tree.sub(w, result), own)

    def onboard(w: Params, own: Params, data: ClientData, key: Array) -> Params:
        solve = local.only(masks.negate(shared), phases[0][1])
        return halves(solve(task.loss, tree.merge(w, own), data, jax.random.fold_in(key, 0)))[1]

    return Algorithm(
        init_server=lambda key, num_clients: server.init(halves(task.init(key))[0]),
        download=lambda model, id: model.params,
        init_client=init_client,
        client_update=client_update,
        server_update=lambda model, cohort, key: server.step(model, cohort.uploads),
        personalize=lambda w, own, data, key: tree.merge(w, own),
        reduce=reduce,
        onboard=onboard,
    )


class Announcing(NamedTuple):
    """A server that tells its clients something beside the model."""

    server: Tree
    news: Tree


def announced(algorithm: Algorithm, first: Callable[[Array], Tree], then: Callable[[Tree, Array], Tree]) -> Algorithm:
    """`algorithm` whose `client_update`, `onboard` and `personalize` download `(what they did, news of the round)`.

    The server decides what is news, so that it is the same for all clients of a round.

    Args:
      algorithm: its three functions take that pair.
      first: `key ->` the news of the first round.
      then: `(news, key) ->` those of the next.

    >>> import jax.numpy as jnp
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> told = lambda download, own, data, key: Reply(tree.scale(0, download[0]), download[1])
    >>> counting = accompanied(task, told, lambda download, rounds: Params({"rounds": rounds}), lambda w: jnp.zeros(()))
    >>> counting = announced(counting, lambda key: jnp.zeros(()), lambda rounds, key: rounds + 1)
    >>> quadratics.deployed(counting, task, data, rounds=5)
    {'rounds': [4.0, 4.0]}
    """
    common = algorithm.server_model

    def server_update(state: Announcing, cohort: Cohort, key: Array) -> Announcing:
        server = algorithm.server_update(state.server, cohort, jax.random.fold_in(key, 0))
        return Announcing(server, then(state.news, jax.random.fold_in(key, 1)))

    return algorithm._replace(
        init_server=lambda key, num_clients: Announcing(
            algorithm.init_server(key, num_clients), first(jax.random.fold_in(key, 1))
        ),
        download=lambda state, id: (algorithm.download(state.server, id), state.news),
        init_client=lambda download, id, key: algorithm.init_client(download[0], id, key),
        server_update=server_update,
        server_model=None if common is None else lambda download, client: common(download[0], client),
    )


def fine_tuned(
    algorithm: Algorithm,
    task: Task,
    tune: LocalSolver,
    tuned: Mask,
    loss: Callable[[Params, ClientData, Array], LossFn] | None = None,
) -> Algorithm:
    """`algorithm` whose deployed model is then trained by `tune` on the client's own data, on the leaves of `tuned`.

    Args:
      algorithm: any whose clients deploy one model.
      task: the model and its loss.
      tune: solver of the adaptation.
      tuned: what is adapted.
      loss: `(model, data, key) ->` what is minimised from that model on; the task's loss if None.

    Raises:
      ValueError: if clients of `algorithm` deploy something that only its own `predict` reads.

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[0.0, 8.0])
    >>> step = local.descent(optax.sgd(0.25), plans.full_batch(1, 1))
    >>> quadratics.deployed(fine_tuned(averaging(task, step), task, step, masks.everything), task, data, rounds=100)
    {'w': [3.0, 5.0]}
    """
    if algorithm.predict is not None:
        raise ValueError(
            "fine_tuned trains the one model that a client deploys, and clients of this method deploy several parts "
            "that its own predict puts together: fine-tune a method such as fedavg, or take more local steps"
        )

    def personalize(download: Tree, client: Tree, data: ClientData, key: Array) -> Params:
        start = algorithm.personalize(download, client, data, jax.random.fold_in(key, 1))
        minimised = loss(start, data, jax.random.fold_in(key, 2)) if loss else task.loss
        return local.only(tuned, tune)(minimised, start, data, jax.random.fold_in(key, 0))

    return algorithm._replace(personalize=personalize)


class Both(NamedTuple):
    """What a client of `keeping` keeps."""

    client: Tree  # as before
    more: Tree


def keeping(
    algorithm: Algorithm,
    start: Callable[[Tree, Tree, Array], Tree],
    client_update: Callable[[Tree, Both, ClientData, Array], Reply],
) -> Algorithm:
    """`algorithm` whose clients keep something more, which a newcomer's onboarding leaves as it starts.

    Args:
      algorithm: any.
      start: `(download, client, key) ->` what more a client keeps at first.
      client_update: a client's half of a round; receives and keeps `Both`.

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> (task, data), step = quadratics.problem(w=[8.0]), local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> counted = lambda w, kept, data, key: Reply(tree.scale(0, w), Both(kept.client, kept.more + 1))
    >>> method, w = keeping(averaging(task, step), lambda w, client, key: 0, counted), task.init(None)
    >>> method.client_update(w, method.init_client(w, None, None), data, None).client
    Both(client=(), more=1)
    """
    common = algorithm.server_model

    def init_client(download: Tree, id: Array, key: Array) -> Both:
        client = algorithm.init_client(download, id, key)
        return Both(client, start(download, client, key))

    def onboard(download: Tree, kept: Both, data: ClientData, key: Array) -> Both:
        return kept._replace(client=algorithm.onboard(download, kept.client, data, key))

    return algorithm._replace(
        init_client=init_client,
        client_update=client_update,
        onboard=onboard,
        personalize=lambda download, kept, data, key: algorithm.personalize(download, kept.client, data, key),
        server_model=None if common is None else lambda download, kept: common(download, kept.client),
    )


def initial(task: Task, init: Init) -> Callable[[Tree, Array, Array], Params]:
    """`init_client` of clients that keep a whole model: the same one for all of them, or a random one for each.

    Raises:
      ValueError: if `init` is neither.
    """
    _check_init(init)
    return lambda download, id, key: task.init(key if init == "common" else jax.random.fold_in(key, id))


def _check_init(init: str) -> None:
    if init not in ("common", "per_client"):
        raise ValueError(f"init={init!r}: choose 'common' or 'per_client'")


def alone(client_update: Update) -> Callable[..., Tree]:
    """Onboarding as the client's half of a round: what it would keep, with no upload.

    >>> onboard = alone(lambda download, client, data, key: Reply(upload=download, client=client + 1))
    >>> onboard(0, 1, data=None, key=None)
    2
    """
    return lambda download, client, data, key: client_update(download, client, data, key).client
