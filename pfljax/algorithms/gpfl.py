"""GPFL: one valve lets each feature vector learn what all clients share and what is the client's own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning import classes
from pfljax.learning.dense import layer_norm, linear
from pfljax.learning.local import only
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.parts import joined, parted
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, LossFn, Model, Params, Reply, Task, Tree


class Conditioned(NamedTuple):
    """What a client deploys."""

    params: Params
    valve: Tree
    p: Array  # [d] its condition


def gpfl(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    lam: Array | float = 0.01,
    mu: Array | float = 0.1,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Global features meet embeddings of the classes, personal ones the client's head; both are made of the same z.

    With `E` [C, d] the received embeddings, `pi_i` the client's shares of the classes, and a valve

    `CoV(z, c) = relu(z * (gamma(c) + 1) + beta(c))`, `gamma(c), beta(c) = LayerNorm(relu(Linear(c)))`,

    the conditions `g = mean_k E_k` and `p_i = sum_k pi_ik E_k` stand for a round, and a client descends

    `CE(h_i(CoV(z, p_i)), y) + CE(cos(CoV(z, g), E), y) + lam mean ||CoV(z, g) - E_y|| + mu/2 (||E||^2 + ||CoV||^2)`.

    E is that of the client in the cosines, and the received one in the distance. The server averages body, E and CoV.

    Args:
      task: the model and its loss, which is not used.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      lam: strength of the distance, >= 0, traced.
      mu: decay of embeddings and valve, >= 0, traced.
      server: server optimizer of what is shared; plain averaging if None.

    Returns:
      An algorithm whose clients keep `h_i` and upload |body| + C d + 2 d^2 + 6 d numbers. They deploy `Conditioned`. A
      newcomer fits `h_i` alone.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: the distance is a mean over examples, where public code takes the norm of a whole batch;
    conditions are made of the received embeddings. As implemented by PFLlib in all else, with the numbers of its
    maintainer for small networks. Source: Zhang et al., "GPFL: Simultaneously Learning Global and Personalized Feature
    Information for Personalized Federated Learning", ICCV 2023.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(3,)), pfl.descent(optax.sgd(0.2), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.engine.simulate(task, gpfl(task, solve, model), data, rounds=5).scores
    >>> scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    count = classes.number(model, "gpfl conditions features")
    body = masks.negate(masks.head(model))

    def init(key: Array) -> Params:
        w = task.init(key)
        zeros = classes.unseen(task, model, count).P
        keys, d = jax.random.split(jax.random.fold_in(key, 1), 3), zeros.shape[1]
        valve = {"E": jax.random.normal(keys[0], zeros.shape, zeros.dtype)}
        valve |= {name: linear(own, d, d, zeros.dtype) for name, own in zip(("gamma", "beta"), keys[1:], strict=True)}
        return joined(model=w, valve=Params(valve))

    def halves(whole: Params) -> tuple[Params, Params]:
        w, valve = parted(whole, "model", "valve")
        b, h = tree.split(body(w), w)
        return joined(model=b, valve=valve), h

    def whole(shared: Params, h: Params) -> Params:
        b, valve = parted(shared, "model", "valve")
        return joined(model=tree.merge(b, h), valve=valve)

    def conditions(shared: Params, data: ClientData) -> tuple[Array, Array, Array]:
        E = shared.trainable["valve"]["E"]
        pi = classes.shares(data, count, "gpfl").astype(E.dtype)
        return E, jnp.mean(E, axis=0), pi @ E

    def loss(received: Array, g: Array, p: Array) -> LossFn:
        def of(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            (w, own), mode = parted(both, "model", "valve"), {"train": True, "mask": batch.mask, "key": key}
            valve, y = own.trainable, batch.y.astype(int)
            z, stats = model.features(w, batch.x, **mode)  # pyright: ignore[reportOptionalCall]
            logits, stats = model.head(w._replace(stats=stats), _valve(valve, z, p), **mode)
            common = _valve(valve, z, g).reshape(z.shape[0], -1)
            distances = _length(common - received[y])
            each = cross_entropy(logits, y) + cross_entropy(_cosines(common, valve["E"]), y) + lam * distances
            value = masked_mean(each, batch.mask) + mu / 2 * tree.squared_norm(valve)
            return value, {"model": stats, "valve": own.stats}

        return of

    def client_update(shared: Params, h: Params, data: ClientData, key: Array) -> Reply:
        found = local(loss(*conditions(shared, data)), whole(shared, h), data, jax.random.fold_in(key, 0))
        result, own = halves(found)
        return Reply(tree.sub(shared, result), own)

    def onboard(shared: Params, h: Params, data: ClientData, key: Array) -> Params:
        fit = only(masks.named(f"model/{model.blocks[-1]}"), local)
        found = fit(loss(*conditions(shared, data)), whole(shared, h), data, jax.random.fold_in(key, 0))
        return halves(found)[1]

    def personalize(shared: Params, h: Params, data: ClientData, key: Array) -> Conditioned:
        w, valve = parted(whole(shared, h), "model", "valve")
        return Conditioned(w, valve.trainable, conditions(shared, data)[2])

    def predict(own: Conditioned, x: Tree) -> Array:
        z = model.features(own.params, x)[0]  # pyright: ignore[reportOptionalCall]
        return model.head(own.params, _valve(own.valve, z, own.p))[0]

    shared = task._replace(init=lambda key: halves(init(key))[0])
    return accompanied(shared, client_update, deploy=lambda w, h: w, server=server)._replace(
        init_client=lambda w, id, key: halves(init(key))[1],
        personalize=personalize,
        onboard=onboard,
        server_model=None,
        predict=predict,
    )


def _valve(valve: Tree, z: Array, c: Array) -> Array:
    """`CoV(z, c)` of features [B, ...]."""
    gamma, beta = (layer_norm(jax.nn.relu(c @ net["W"] + net["b"]), net) for net in (valve["gamma"], valve["beta"]))
    flat = z.reshape(z.shape[0], -1)
    return jax.nn.relu(flat * (gamma + 1)[None] + beta[None]).reshape(z.shape)


def _length(x: Array) -> Array:
    """Norms of the rows; at 0 the slope is 0."""
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), 1e-12))


def _cosines(z: Array, E: Array) -> Array:
    """[B, C]."""
    return (z / _length(z)[:, None]) @ (E / _length(E)[:, None]).T
