"""FedProto: clients share the mean features of each class, and no model."""

from typing import Literal

import jax
import jax.numpy as jnp

from pfljax.federation.reduce import mean, uniform
from pfljax.federation.skeletons import Init, alone, initial
from pfljax.learning import classes
from pfljax.learning.classes import Nearest, Prototypes
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Model, Params, Reply, Task, Tree


def fedproto(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 1.0,
    weights: Literal["examples", "clients"] = "examples",
    predicts: Literal["nearest", "head"] = "nearest",
    init: Init = "common",
) -> Algorithm:
    """Features of a class agree between clients; each client has a model of its own, of any network with as many.

    With z the features of client i, d their number, `n_ik` its examples of class k, `P` the received prototypes:

    - `local` minimises `CE(h_i(z), y) + lam mean_d (z - P_y)^2`, the second for classes that have a prototype;
    - `q_ik` is the mean of z over the client's examples of class k, after training;
    - the server: `P_k <- sum_i n_ik q_ik / sum_i n_ik` over the clients that hold class k; one that nobody holds stays.

    Args:
      task: the model and its loss, which is not used.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      lam: strength of the alignment, >= 0, traced; 0 is training alone.
      weights: of the prototypes, by examples of the class or, as public code has it, all equal.
      predicts: the class of the nearest prototype, `argmin_k ||z - P_k||^2`, or the client's own head.
      init: the same initial model for all clients, or a random one for each.

    Returns:
      An algorithm whose clients keep a model (|params|) and upload C (d + 1) numbers. They deploy `Nearest`, or their
      model. A newcomer trains a model as others do, without an upload.

    Raises:
      ValueError: if the model has no features, a choice is unknown, or, when traced, if labels are not one class for
        each example.

    Deviations from the source: prototypes are taken after training, in a pass over all examples.
    Source: Tan et al., "FedProto: Federated Prototype Learning across Heterogeneous Clients", AAAI 2022.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(4,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> result = pfl.engine.simulate(task, fedproto(task, solve, model), data, rounds=5)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    if weights not in ("examples", "clients"):
        raise ValueError(f"weights={weights!r}: choose 'examples' or 'clients'")
    if predicts not in ("nearest", "head"):
        raise ValueError(f"predicts={predicts!r}: choose 'nearest' or 'head'")
    count = classes.number(model, "fedproto averages features")

    def client_update(server: Prototypes, own: Params, data: ClientData, key: Array) -> Reply:
        own = local(classes.aligned(model, lam, server), own, data, jax.random.fold_in(key, 0))
        q, shares = classes.means(model, own, data, count, "fedproto")
        weight = shares if weights == "examples" else (shares > 0).astype(shares.dtype)
        return Reply(Prototypes(weight[:, None] * (server.P - q), weight), own)

    def server_update(server: Prototypes, cohort: Cohort, key: Array) -> Prototypes:
        moved, weight = cohort.uploads
        P = server.P - moved / jnp.where(weight > 0, weight, 1)[:, None]
        return Prototypes(P, jnp.maximum(server.seen, (weight > 0).astype(P.dtype)))

    def personalize(server: Prototypes, own: Params, data: ClientData, key: Array) -> Tree:
        return Nearest(own, server) if predicts == "nearest" else own

    return Algorithm(
        init_server=lambda key, num_clients: classes.unseen(task, model, count),
        download=lambda server, id: server,
        init_client=initial(task, init),
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=mean if weights == "examples" else uniform(mean),
        onboard=alone(client_update),
        predict=classes.nearest(model) if predicts == "nearest" else None,
    )
