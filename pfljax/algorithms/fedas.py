"""FedAS: a received body is first aligned with what the client's own body said of its classes."""

import jax
import jax.numpy as jnp
import optax

from pfljax import masks, tree
from pfljax.federation.reduce import by_own, mean
from pfljax.federation.server import ServerOptimizer, fedopt
from pfljax.federation.skeletons import Init, alone
from pfljax.learning.classes import means, number
from pfljax.learning.local import descent, only
from pfljax.learning.losses import gradient
from pfljax.learning.metrics import masked_mean
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    LocalSolver,
    LossFn,
    Mask,
    Model,
    Params,
    Plan,
    Reply,
    Task,
    Tree,
)


def fedas(
    task: Task,
    local: LocalSolver,
    plan: Plan,
    model: Model,
    personal: Mask,
    *,
    align_lr: Array | float = 0.01,
    init: Init = "common",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """The body b is shared and the head `h_i` is personal, as in FedPer; a client that comes back does not start over.

    Client i, whose last body is `b_i`, receives b:

    - `q_c` is the mean of `b_i(x)` over its examples of class c;
    - b descends `mean_s mean_d (b(x_s) - q_{y_s})^2` along minibatches, while the head rests;
    - `(b_i, h_i) = local(f_i)` from there, and `T_i = sum_batches ||grad f_i(b_i, h_i; batch)||^2`.

    Server: `b <- sum_i T_i b_i / sum_i T_i`; by examples if all `T_i` are 0.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      plan: the minibatches of the alignment, and those that T sums over.
      model: the network of the task, which must have features.
      personal: the head.
      align_lr: step size of the alignment, >= 0, traced; 0 leaves it out.
      init: the same head at the start, or a random one for each client.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients keep and deploy `(b_i, h_i)` (|params|) and upload the body and a number. A newcomer
      aligns what it receives with the initial body, and trains.

    Raises:
      ValueError: if the model has no features, `init` is unknown, or, when traced, if labels are not one class for each
        example.

    As implemented by PFLlib; T is what is called the trace of the Fisher information there. Statistics are averaged
    with the weights of the body.
    Source: Yang et al., "FedAS: Bridging Inconsistency in Personalized Federated Learning", CVPR 2024.

    Two clients that label the same example differently:

    >>> import numpy as np, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, plan = pfl.models.mlp((2,), 2, hidden=(3,)), pfl.full_batch(9, 4)
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> method = fedas(task, pfl.descent(optax.sgd(0.5), plan), plan, model, pfl.masks.head(model))
    >>> pfl.simulate(task, method, data, rounds=5).clients().tolist()
    [1.0, 1.0]
    """
    if init not in ("common", "per_client"):
        raise ValueError(f"init={init!r}: choose 'common' or 'per_client'")
    classes, shared = number(model, "fedas aligns features"), masks.negate(personal)
    server = fedopt() if server is None else server
    align = only(shared, descent(optax.sgd(align_lr), plan))

    def body(params: Params) -> Params:
        return tree.split(shared(params), params)[0]

    def inconsistency(q: Array) -> LossFn:
        def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            z, stats = model.features(params, batch.x, train=True, mask=batch.mask, key=key)  # pyright: ignore
            return masked_mean(jnp.mean((z.reshape(z.shape[0], -1) - q[batch.y]) ** 2, axis=1), batch.mask), stats

        return loss

    def weight(params: Params, data: ClientData, key: Array) -> Array:
        def add(step: Array, T: Array) -> Array:
            batch = plan.batch(data, key, step)
            return T + tree.squared_norm(gradient(task.loss, params, batch, jax.random.fold_in(key, step))[0])

        return jax.lax.fori_loop(0, plan.steps(data), add, jnp.zeros(()))

    def client_update(b: Params, own: Params, data: ClientData, key: Array) -> Reply:
        q, _ = means(model, own, data, classes, "fedas")
        begin = align(inconsistency(q), tree.merge(b, own), data, jax.random.fold_in(key, 1))
        own = local(task.loss, begin, data, jax.random.fold_in(key, 0))
        return Reply((weight(own, data, jax.random.fold_in(key, 2)), tree.sub(b, body(own))), own)

    def init_client(b: Params, id: Array, key: Array) -> Params:
        return tree.merge(b, task.init(key if init == "common" else jax.random.fold_in(key, id)))

    return Algorithm(
        init_server=lambda key, num_clients: server.init(body(task.init(key))),
        download=lambda model, id: model.params,
        init_client=init_client,
        client_update=client_update,
        server_update=lambda model, cohort, key: server.step(model, cohort.uploads),
        personalize=lambda b, own, data, key: own,
        reduce=by_own(mean),
        onboard=alone(client_update),
    )
