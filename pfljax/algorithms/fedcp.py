"""FedCP: a gate parts the features of each example between a personal head and the common one."""

from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning import classes, parts
from pfljax.learning.dense import layer_norm, linear
from pfljax.learning.losses import discrepancy
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.parts import joined, parted
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Model, Params, Reply, Task, Tree


class Policy(NamedTuple):
    """What a client deploys."""

    params: Params  # body and common head
    head: Params  # its own
    gate: Tree


def fedcp(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 5.0,
    gumbel: bool = False,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """What a client's head and the common one shall read is decided for each example, by the features and the head.

    With `z = b(x)`, `u_i` the sum of the weights of the personal head over the classes, of length 1, as it is when the
    round begins, and a gate G, which is a linear layer to 2 d numbers, a layer norm and relu:

    - `(s, 1 - s) = softmax over the pairs of G(z * u_i)`, each in (0, 1)^d;
    - the output is `h_i(s * z) + h((1 - s) * z)`; the received head h rests;
    - b, `h_i` and G descend `CE + lam MMD^2(z, z0)`, `z0` the features of the received body, with the kernel
      `sum over a in {10, 15, 20, 50} of exp(-||x - y||^2 / (2 a))` and means over all pairs of a batch.

    The server averages b, `(h_i + h) / 2` and G.

    Args:
      task: the model and its loss, which is not used.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      lam: strength of the pull to the received features, >= 0, traced.
      gumbel: whether in training `s = softmax(G + noise)` with standard Gumbel noise, drawn for each example and
        feature, static. PFLlib has it, and in prediction as well, where it makes scores random.
      server: server optimizer of what is shared; plain averaging if None.

    Returns:
      An algorithm whose clients keep `h_i` and upload |params| + |G|, `|G| = 2 d^2 + 6 d`. They deploy `Policy`. A
      newcomer trains its `h_i` along a local round of the rest, as others do.

    Raises:
      ValueError: if the model has no features.

    Deviations from the source: none known, but read from code only: as implemented by PFLlib, apart from its noise.
    Source: Zhang et al., "FedCP: Separating Feature Information for Personalized Federated Learning via Conditional
    Policy", KDD 2023.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(3,)), pfl.descent(optax.sgd(0.2), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.engine.simulate(task, fedcp(task, solve, model), data, rounds=5).scores
    >>> scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    classes.number(model, "fedcp parts features")
    head, body = parts.head(model), masks.negate(masks.head(model))

    def init(key: Array) -> Params:
        w = task.init(key)
        d, dtype = prod(model.features_shape), jnp.result_type(*jax.tree.leaves(w.trainable))
        return joined(model=w, gate=Params(linear(jax.random.fold_in(key, 1), d, 2 * d, dtype)))

    def client_update(shared: Params, own: Params, data: ClientData, key: Array) -> Reply:
        w, gate = parted(shared, "model", "gate")
        b, h = tree.split(body(w), w)
        start = joined(body=b, head=own, gate=gate)
        found = local(loss(w, h, _context(model, own)), start, data, jax.random.fold_in(key, 0))
        b_i, own, gate_i = parted(found, "body", "head", "gate")
        sent = joined(model=tree.merge(b_i, tree.mix(0.5, own, h)), gate=gate_i)
        return Reply(tree.sub(shared, sent), own)

    def loss(received: Params, h: Params, u: Array) -> LossFn:
        def of(whole: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            mode = {"train": True, "mask": batch.mask, "key": key}
            b, own, gate = parted(whole, "body", "head", "gate")
            z, stats = model.features(b, batch.x, **mode)  # pyright: ignore[reportOptionalCall]
            z0 = model.features(received, batch.x, **mode)[0]  # pyright: ignore[reportOptionalCall]
            noise = jax.random.gumbel(jax.random.fold_in(key, 1), (len(z), 2, u.size), z.dtype) if gumbel else None
            s = _share(gate.trainable, z, u, noise)
            mine, own_stats = model.head(own, s * z, **mode)
            logits = mine + model.head(h, (1 - s) * z, **mode)[0]
            gap = discrepancy(z, z0, batch.mask)
            value = masked_mean(cross_entropy(logits, batch.y), batch.mask) + lam * gap
            return value, {"body": stats, "head": own_stats, "gate": gate.stats}

        return of

    def deploy(shared: Params, own: Params) -> Policy:
        w, gate = parted(shared, "model", "gate")
        return Policy(w, own, gate.trainable)

    def predict(own: Policy, x: Tree) -> Array:
        z = model.features(own.params, x)[0]  # pyright: ignore[reportOptionalCall]
        s = _share(own.gate, z, _context(model, own.head))
        return model.head(own.head, s * z)[0] + model.head(own.params, (1 - s) * z)[0]

    def start(shared: Params) -> Params:
        return head(parted(shared, "model")[0])

    algorithm = accompanied(task._replace(init=init), client_update, deploy, start, server=server)
    return algorithm._replace(server_model=lambda shared, own: parted(shared, "model")[0], predict=predict)


def _context(model: Model, head: Params) -> Array:
    """`u_i` [d]: the slope of the sum of the outputs, which is that of the weights of a linear head."""

    def outputs(z: Array) -> Array:
        return jnp.sum(model.head(head, z)[0])

    dtype = jnp.result_type(*jax.tree.leaves(head.trainable))
    u = jax.grad(outputs)(jnp.zeros((1, *model.features_shape), dtype)).reshape(-1)
    return u / jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(u)), 1e-12))


def _share(gate: Tree, z: Array, u: Array, noise: Array | None = None) -> Array:
    """s, shaped as the features [B, ...]; `noise` [B, 2, d] is added to the pairs."""
    flat = z.reshape(len(z), -1) * u[None]
    pairs = jax.nn.relu(layer_norm(flat @ gate["W"] + gate["b"][None], gate)).reshape(len(z), 2, -1)
    pairs = pairs if noise is None else pairs + noise
    return jax.nn.softmax(pairs, axis=1)[:, 0].reshape(z.shape)
