"""SuPerFed: a shared and a personal model, trained so that every mixture of the two is good."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Init, accompanied, announced
from pfljax.learning.parts import joined, parted
from pfljax.learning.tasks import chosen
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Params, Reply, Task, Tree


def superfed(
    task: Task,
    local: LocalSolver,
    *,
    mu: Array | float = 0.01,
    nu: Array | float = 1.0,
    start: Array | float = 10.0,
    lam: Array | float | None = 0.5,
    mixing: Literal["model", "layer"] = "model",
    init: Init = "per_client",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Connects a shared model `w_f` and a personal one `w_l` by a segment of low loss.

    In each local step, on one batch, `lam ~ U(0, 1)` is drawn, and both models descend

    `f_i((1 - lam) w_f + lam w_l) + mu ||w_f - w||^2 + nu cos^2(w_f, w_l)`

    with w what was received. In the first `start` rounds it is `f_i(w_f) + mu ||w_f - w||^2`, and `w_l` rests.
    The server averages `w_f`.

    Args:
      task: the model and its loss.
      local: solver of both. It sees one tree of the parts `shared` and `personal`.
      mu: strength of the pull towards what was received, >= 0, traced.
      nu: strength of the push apart, >= 0, traced.
      start: rounds before the two are mixed, traced; the paper's L times the number of rounds.
      lam: share of `w_l` in what is deployed, in [0, 1], traced. None: each client takes that of 0, 0.1, ..., 1 which
        has the lowest loss on its validation examples, 0 without any. Nothing of `w_l` is deployed before it is mixed.
      mixing: one lam for the model, or one for each of its layers (the paper's MM and LM), static.
      init: `w_l` starts at random for each client, as in the paper, or at the same place for all.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `w_l` (|params|) and upload |params|; down: |params| + 1, the round. A newcomer
      trains by its half of a round, and mixes whatever the round.

    Raises:
      ValueError: if `mixing` or `init` is unknown.

    Deviations from the source: the authors' code shows the lam of each client that is best on its test examples, and it
    adds norms of leaves that are not squared, which would make steps of rounding errors. The cosine of a model of
    zeros is 0.
    Source: Hahn et al., "Connecting Low-Loss Subspace for Personalized Federated Learning", KDD 2022.

    Both ends of the segment of an only client reach its center:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[3.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(5, 1))
    >>> ends = (superfed(task, step, mu=0.0, nu=0.0, start=1, lam=lam) for lam in (0.0, 1.0))
    >>> [quadratics.deployed(end, task, data, rounds=90) for end in ends]
    [{'w': [3.0]}, {'w': [3.0]}]
    """
    if mixing not in ("model", "layer"):
        raise ValueError(f"mixing={mixing!r}: choose 'model' or 'layer'")
    if init not in ("common", "per_client"):
        raise ValueError(f"init={init!r}: choose 'common' or 'per_client'")
    layer: Callable[[Any], Any] = {"model": lambda path: (), "layer": lambda path: path[1:-1]}[mixing]

    def between(shared: Params, personal: Params, key: Array) -> Params:
        """A random point of the segment."""
        layers = list(dict.fromkeys(layer(path) for path, _ in jax.tree_util.tree_leaves_with_path(shared)))

        def leaf(path: Any, f: Array, l: Array) -> Array:  # noqa: E741
            share = jax.random.uniform(jax.random.fold_in(key, layers.index(layer(path))), dtype=f.dtype)
            return (1 - share) * f + share * l

        return jax.tree_util.tree_map_with_path(leaf, shared, personal)

    def client_update(download: tuple[Params, Array], own: Params, data: ClientData, key: Array) -> Reply:
        w, round = download
        mixes = round >= start

        def loss(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            shared, personal = parted(both, "shared", "personal")
            point = tree.where(mixes, between(shared, personal, jax.random.fold_in(key, 1)), shared)
            value, stats = task.loss(point, batch, key)
            away = tree.squared_norm(tree.sub(shared.trainable, w.trainable))
            alike = jnp.where(mixes, nu, 0) * _squared_cosine(shared.trainable, personal.trainable)
            return value + mu * away + alike, {"shared": stats, "personal": stats}

        trained = local(loss, joined(shared=w, personal=own), data, jax.random.fold_in(key, 0))
        shared, personal = parted(trained, "shared", "personal")
        return Reply(tree.sub(w, shared), tree.where(mixes, personal, own))

    def onboard(download: tuple[Params, Array], own: Params, data: ClientData, key: Array) -> Params:
        return client_update((download[0], jnp.asarray(start, float)), own, data, key).client

    def personalize(download: tuple[Params, Array], own: Params, data: ClientData, key: Array) -> Params:
        w, round = download

        def at(share: Array | float) -> tuple[Params, tuple[()]]:
            return tree.mix(jnp.where(round > start, share, 0), own, w), ()

        return at(lam)[0] if lam is not None else chosen(task, at, [step / 10 for step in range(11)], data, key)[0]

    algorithm = accompanied(task, client_update, lambda download, own: own, server=server)._replace(
        init_client=lambda w, id, key: task.init(key if init == "common" else jax.random.fold_in(key, id)),
        onboard=onboard,
        personalize=personalize,
    )
    return announced(algorithm, lambda key: jnp.zeros(()), lambda round, key: round + 1)


def _squared_cosine(a: Tree, b: Tree) -> Array:
    lengths = tree.squared_norm(a) * tree.squared_norm(b)
    return tree.vdot(a, b) ** 2 / jnp.where(lengths > 0, lengths, 1)
