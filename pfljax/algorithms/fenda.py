"""FENDA and PerFCL: shared features beside private ones, below a private head."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import Both, Init, decoupled, keeping
from pfljax.learning import tasks
from pfljax.learning.classes import number
from pfljax.learning.losses import contrastive
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.parts import below, joined, parted
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Model, Params, Reply, Task, Tree

_SHARED = masks.named("shared")


def fenda(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    init: Init = "per_client",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Every client has two feature extractors, one shared and one of its own, and its own head on both.

    `h_i([R(x), R_i(x)])` is trained as a whole, `R, R_i, h_i <- local(f_i)`; the server averages R.

    Args:
      task: the model; its loss is not used.
      local: solver of a client's round, by cross-entropy.
      model: the network of the task, whose features are R and `R_i`; h is a new linear layer on both.
      init: R_i and h_i start random for each client, or equal everywhere (`"common"`).
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `R_i` and `h_i`, upload R (|params| - |head|), and deploy all three. A newcomer
      trains `R_i` and `h_i` while R rests.

    Raises:
      ValueError: if the model has no features; when traced, if labels are not one class for each example.

    Deviations from the source: none known; the head is linear.
    Source: Kim et al., "FENDA-FL: Personalized Federated Learning on Heterogeneous Clinical Datasets", 2023, as
    implemented by FL4Health.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> net, solve = pfl.models.mlp((2,), 2, hidden=(8,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> data, task = pfl.from_clients(held, held), pfl.classification(net)
    >>> pfl.simulate(task, fenda(task, solve, net), data, rounds=5).scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    both = tasks.classification(_side_by_side(task, model))
    algorithm = decoupled(both, [(masks.everything, local)], shared=_SHARED, init=init, server=server)

    def client_update(w: Params, own: Params, data: ClientData, key: Array) -> Reply:
        checks.classes(data.examples.y, "fenda")
        return algorithm.client_update(w, own, data, key)

    return algorithm._replace(client_update=client_update, predict=both.predict)


def perfcl(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    mu: Array | float = 1.0,
    gamma: Array | float = 1.0,
    temperature: Array | float = 0.5,
    init: Init = "per_client",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FENDA whose shared features stay near those of the server, and whose own ones stay away from them.

    With `z_s, z_p` the shared and the own features of an example in training, `z_g` the shared ones as received,
    `z_s'` the shared ones that the client uploaded last and `z_p'` its own ones before this round,

    `l = cross-entropy + mu l_con(z_s; near z_g, far from z_s') + gamma l_con(z_p; near z_p', far from z_g)`,

    `l_con(z; near a, far from b) = -log(exp(cos(z, a) / tau) / (exp(cos(z, a) / tau) + exp(cos(z, b) / tau)))`.

    Args:
      task, local, model, init, server: see `fenda`.
      mu: weight of the contrast of the shared features, >= 0, traced.
      gamma: weight of that of the own features, >= 0, traced; both 0 is FENDA.
      temperature: tau, > 0, traced.

    Returns:
      As `fenda`; clients keep also what R was when they uploaded it last, at first R as they receive it.

    Raises:
      ValueError: as `fenda`.

    Deviations from the source: constant features are those of an evaluation.
    Source: Zhang et al., "PerFCL: Personalized Federated Contrastive Learning", 2022, as implemented by FL4Health.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> net, solve = pfl.models.mlp((2,), 2, hidden=(8,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> data, task = pfl.from_clients(held, held), pfl.classification(net)
    >>> pfl.simulate(task, perfcl(task, solve, net), data, rounds=5).scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    net = _side_by_side(task, model)
    both = tasks.classification(net)

    def method(loss: LossFn) -> Algorithm:
        return decoupled(
            both._replace(loss=loss), [(masks.everything, local)], shared=_SHARED, init=init, server=server
        )

    def features(params: Params, x: Tree) -> tuple[Array, Array]:
        z_s, z_p = jnp.split(net.apply_in_parts(params, x)[0], 2, axis=1)
        return z_s, z_p

    def client_update(w: Params, kept: Both, data: ClientData, key: Array) -> Reply:
        checks.classes(data.examples.y, "perfcl")
        received, last = (tree.merge(shared, kept.client) for shared in (w, kept.more))

        def loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            z, logits, stats = net.apply_in_parts(params, batch.x, train=True, mask=batch.mask, key=key)
            z_s, z_p = jnp.split(z, 2, axis=1)
            (z_g, p_before), (s_before, _) = (features(before, batch.x) for before in (received, last))
            contrasts = mu * contrastive(z_s, z_g, s_before, temperature)
            contrasts += gamma * contrastive(z_p, p_before, z_g, temperature)
            return masked_mean(cross_entropy(logits, batch.y) + contrasts, batch.mask), stats

        reply = method(loss).client_update(w, kept.client, data, key)
        return reply._replace(client=Both(reply.client, tree.sub(w, reply.upload)))

    algorithm = keeping(method(both.loss), lambda w, own, key: w, client_update)
    return algorithm._replace(predict=both.predict)


def _side_by_side(task: Task, model: Model) -> Model:
    """Two feature extractors of the kind of `model`, below `shared` and `own`, and a linear `head` on both."""
    classes = number(model, "FENDA and PerFCL set features side by side")
    body = masks.negate(masks.head(model))
    width = 2 * math.prod(model.features_shape)

    def features_of(key: Array) -> Params:
        whole = task.init(key)
        return below(tree.split(body(whole), whole)[0], "fenda and perfcl set features side by side")

    def init(key: Array) -> Params:
        kernel = jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 2), (width, classes), float)
        head = Params({"kernel": kernel, "bias": jnp.zeros(classes)})
        shared, own = (features_of(jax.random.fold_in(key, branch)) for branch in range(2))
        return joined(shared=shared, own=own, head=head)

    def features(params: Params, x: Tree, **mode: Any) -> tuple[Array, Tree]:
        branches = parted(params, "shared", "own")
        z, stats = zip(*(model.features(part, x, **mode) for part in branches), strict=True)  # pyright: ignore
        side_by_side = jnp.concatenate([rows.reshape(rows.shape[0], -1) for rows in z], axis=1)
        return side_by_side, params.stats | dict(zip(("shared", "own"), stats, strict=True))

    def head(params: Params, z: Array, **mode: Any) -> tuple[Array, Tree]:
        top = params.trainable["head"]
        return z @ top["kernel"] + top["bias"][None], params.stats

    return Model(init, features, head, ("shared", "own", "head"), features_shape=(width,))
