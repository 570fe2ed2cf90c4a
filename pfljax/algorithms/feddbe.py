"""FedDBE: each client's features lose what is the client's own before they meet the common head."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.federation.reduce import mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning import classes
from pfljax.learning.local import only
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.parts import joined, parted
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Model,
    Params,
    Reply,
    Task,
    Tree,
)


class Consensus(NamedTuple):
    """What the features of all clients are drawn to."""

    g: Array  # [*features]
    fixed: Array  # [] of {0., 1.}: 0 before the first round


class Debiased(NamedTuple):
    """What a client deploys."""

    params: Params
    c: Array  # [*features] added to its features


def feddbe(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    kappa: Array | float = 50.0,
    mu: Array | float = 1.0,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Body b and head h are shared, a shift `c_i` of features is personal: clients predict `h(z + c_i)`, `z = b(x)`.

    In each local step, from `r = 0` at the start of a round, with d the number of features:

    - `r <- (1 - mu) r + mu mean_batch(z)`, of which the old r is a constant;
    - b, h and `c_i` descend `CE(h(z + c_i), y) + kappa mean_d (r - g)^2 / 2`.

    The server averages (b, h). Its consensus `g = sum_i p_i r_i` is that of a first round in which clients train
    without `c_i` and without g; the models of that round are thrown away.

    Args:
      task: the model and its loss, which is not used.
      local: solver of a client's round. It sees one tree of the parts `model` and `shift`.
      model: the network of the task, which must have features.
      kappa: strength of the pull to the consensus, >= 0, traced.
      mu: share of the present batch in r, in [0, 1], traced.
      server: server optimizer of (b, h); plain averaging if None.

    Returns:
      An algorithm whose clients keep `c_i` (d numbers) and upload |params| + d. They deploy `Debiased`. A newcomer fits
      `c_i` alone.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: the consensus is that of the first round's cohort, where the paper asks all clients.
    Source: Zhang et al., "Eliminating Domain Bias for Federated Learning in Representation Space", NeurIPS 2023; as
    implemented by PFLlib, with the numbers of the authors' script.

    Two clients label the same example differently: their shifts tell them apart.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(3,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.engine.simulate(task, feddbe(task, solve, model, kappa=0.1), data, rounds=9).scores
    >>> [scores[which, "test", "accuracy"][-1].mean().item() for which in ("global", "personal")]
    [0.5, 1.0]
    """
    classes.number(model, "feddbe shifts features")
    server = fedopt() if server is None else server

    def client_update(received: tuple[Params, Consensus], c: Array, data: ClientData, key: Array) -> Reply:
        w, (g, fixed) = received
        checks.classes(data.examples.y, "feddbe")
        both = local(loss(received[1], fixed), start(w, c), data, jax.random.fold_in(key, 0))
        w_i, own = parted(both, "model", "shift")
        return Reply((tree.sub(w, w_i), g - own.stats["r"]), own.trainable["c"])

    def start(w: Params, c: Array) -> Params:
        return joined(model=w, shift=Params({"c": c}, {"r": jnp.zeros_like(c)}))

    def loss(consensus: Consensus, shifted: Array | float) -> LossFn:
        def of(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            (w, own), mode = parted(both, "model", "shift"), {"train": True, "mask": batch.mask, "key": key}
            z, stats = model.features(w, batch.x, **mode)  # pyright: ignore[reportOptionalCall]
            rows = (batch.mask / jnp.maximum(jnp.sum(batch.mask), 1)).astype(z.dtype)
            r = (1 - mu) * own.stats["r"] + mu * jnp.tensordot(rows, z, 1)
            logits, stats = model.head(w._replace(stats=stats), z + shifted * own.trainable["c"][None], **mode)
            pull = consensus.fixed * kappa * jnp.mean(jnp.square(r - consensus.g)) / 2
            value = masked_mean(cross_entropy(logits, batch.y), batch.mask) + pull
            return value, {"model": stats, "shift": {"r": r}}

        return of

    def server_update(state: tuple[Server, Consensus], cohort: Cohort, key: Array) -> tuple[Server, Consensus]:
        (w, (g, fixed)), (moved, away) = state, cohort.uploads
        first = Consensus(g - away, jnp.ones_like(fixed))
        return tree.where(fixed > 0, (server.step(w, moved), Consensus(g, fixed)), (w, first))

    def init_server(key: Array, num_clients: int) -> tuple[Server, Consensus]:
        params = task.init(key)
        g = shift(params)
        return server.init(params), Consensus(g, jnp.zeros((), g.dtype))

    def shift(w: Params) -> Array:
        return jnp.zeros(model.features_shape, jnp.result_type(*jax.tree.leaves(w.trainable)))

    def onboard(received: tuple[Params, Consensus], c: Array, data: ClientData, key: Array) -> Array:
        w, consensus = received
        fit = only(masks.named("shift"), local)
        both = fit(loss(consensus, 1.0), start(w, c), data, jax.random.fold_in(key, 0))
        return both.trainable["shift"]["c"]

    def predict(own: Debiased, x: Tree) -> Array:
        z = model.features(own.params, x)[0]  # pyright: ignore[reportOptionalCall]
        return model.head(own.params, z + own.c[None])[0]

    return Algorithm(
        init_server=init_server,
        download=lambda state, id: (state[0].params, state[1]),
        init_client=lambda received, id, key: shift(received[0]),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda received, c, data, key: Debiased(received[0], c),
        reduce=mean,
        onboard=onboard,
        server_model=lambda received, c: received[0],
        predict=predict,
    )
