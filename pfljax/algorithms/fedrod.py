"""FedRoD: a generic model trained as if classes were balanced, and a personal head beside its own."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from pfljax import tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied, averaging
from pfljax.learning import parts
from pfljax.learning.classes import number, shares
from pfljax.learning.parts import joined, parted
from pfljax.learning.tasks import masked_mean
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    LocalSolver,
    LossFn,
    Model,
    Params,
    Reply,
    Task,
    Tree,
)

_PARTS = ("generic", "personal")


class Heads(NamedTuple):
    """What a client deploys."""

    generic: Params  # body and head
    personal: Params  # another head on that body


def fedrod(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    gamma: Array | float = 1.0,
    head_init: Literal["copy", "zeros"] = "copy",
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Body b and head h are shared, a second head `h_i` is personal; a client predicts `h(z) + h_i(z)`, `z = b(x)`.

    In each local step, on one batch, with `o = h(z)` and `n_c` the client's examples of class c:

    - `(b, h)` descend the balanced softmax `CE(o + gamma log n_c, y)`;
    - `h_i` descends `CE(stop(o) + h_i(stop(z)), y)`.

    The server averages `(b, h)`. Nothing flows from the personal head to what is shared.

    Args:
      task: the model; its loss is not used.
      local: solver of both. It sees one tree of the parts `generic` and `personal`; an `optax.partition` by these names
        gives each an optimizer of its own.
      model: the network of the task, which must have features.
      gamma: strength of the balance, >= 0, traced; 0 is cross-entropy.
      head_init: `h_i` starts as the head of the model that is received first, or as zeros, so that it adds nothing.
      server: server optimizer of `(b, h)`; plain averaging if None.

    Returns:
      An algorithm whose clients keep `h_i`, upload |params| and deploy `Heads`. A newcomer trains its `h_i` along a
      local round of `(b, h)`, as others do.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: none known. Source: Chen and Chao, "On Bridging Generic and Personalized Federated
    Learning for Image Classification", ICLR 2022, Algorithm 1 (FedRoD, linear).

    Two clients that label the same example differently: the generic model cannot serve both, the personal heads do.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [0, label, label, label]) for label in (0, 1)]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, [([[1.0, 1.0]], [label]) for label in (0, 1)])
    >>> scores = pfl.simulate(task, fedrod(task, solve, model), data, rounds=9).scores
    >>> [scores[which, "test", "accuracy"][-1].mean().item() for which in ("global", "personal")]
    [0.5, 1.0]
    """
    if head_init not in ("copy", "zeros"):
        raise ValueError(f"head_init={head_init!r}: choose 'copy' or 'zeros'")
    classes, head = number(model, "fedrod puts two heads on features"), parts.head(model)

    def start(w: Params) -> Params:
        own = head(w)
        return own if head_init == "copy" else own._replace(trainable=tree.scale(0, own.trainable))

    def client_update(w: Params, own: Params, data: ClientData, key: Array) -> Reply:
        loss = _loss(model, gamma, shares(data, classes, "fedrod"), lambda own: own)
        both = local(loss, joined(generic=w, personal=own), data, jax.random.fold_in(key, 0))
        result, own = parted(both, *_PARTS)
        return Reply(tree.sub(w, result), own)

    algorithm = accompanied(task, client_update, Heads, start, server=server)
    return algorithm._replace(predict=_predict(model))


def fedrod_hyper(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    gamma: Array | float = 1.0,
    hidden: int = 32,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedRoD whose personal heads are made by a shared network of the client's shares of the classes.

    `h_i = G(pi_i)`, `G(pi) = V relu(U pi + u) + v`, `pi_i = n_c / n`. G descends the loss of `h_i` in the same steps,
    and is averaged with body and head.

    Args:
      task, local, model, gamma, server: see `fedrod`.
      hidden: width of G, static.

    Returns:
      An algorithm whose clients keep nothing and upload |params| + |G|, `|G| = hidden (C + 1 + |h|) + |h|`. They deploy
      `Heads`; newcomers do too, without training.

    Raises:
      ValueError: as `fedrod`.

    Deviations from the source: V and v start at 0, so that the personal head adds nothing; U as a layer of Flax.
    Source: Chen and Chao, ICLR 2022, section 4.3 (FedRoD, hyper).

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [0, label, label, label]) for label in (0, 1)]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, [([[1.0, 1.0]], [label]) for label in (0, 1)])
    >>> scores = pfl.simulate(task, fedrod_hyper(task, solve, model), data, rounds=9).scores
    >>> [scores[which, "test", "accuracy"][-1].mean().item() for which in ("global", "personal")]
    [0.5, 1.0]
    """
    classes, head = number(model, "fedrod_hyper puts two heads on features"), parts.head(model)

    def init(key: Array) -> Params:
        w = task.init(key)
        own = head(w)
        size = ravel_pytree(own.trainable)[0].size
        draw = jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 1), (classes, hidden), float)
        made = {"U": draw, "u": jnp.zeros(hidden), "V": jnp.zeros((hidden, size)), "v": jnp.zeros(size)}
        return joined(generic=w, personal=Params(made, own.stats))

    def personal(g: Params, pi: Array) -> Params:
        net = g.trainable
        flat = jax.nn.relu(pi @ net["U"] + net["u"]) @ net["V"] + net["v"]
        shapes = head(jax.eval_shape(lambda: task.init(jax.random.key(0)))).trainable
        like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return Params(ravel_pytree(like)[1](flat), g.stats)

    def client_update(both: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        pi = shares(data, classes, "fedrod_hyper")
        loss = _loss(model, gamma, pi, lambda g: personal(g, pi))
        return Reply(tree.sub(both, local(loss, both, data, jax.random.fold_in(key, 0))), client)

    def personalize(both: Params, client: tuple[()], data: ClientData, key: Array) -> Heads:
        w, g = parted(both, *_PARTS)
        return Heads(w, personal(g, shares(data, classes, "fedrod_hyper")))

    return averaging(task._replace(init=init), local, server=server)._replace(
        client_update=client_update,
        personalize=personalize,
        server_model=lambda both, client: parted(both, *_PARTS)[0],
        predict=_predict(model),
    )


def _loss(model: Model, gamma: Array | float, pi: Array, personal: Callable[[Params], Params]) -> LossFn:
    """The sum of the two losses: balanced softmax of the generic model, cross-entropy of it plus the personal head."""

    def loss(both: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        w, own = parted(both, *_PARTS)
        mode = {"train": True, "mask": batch.mask, "key": key}
        z, stats = model.features(w, batch.x, **mode)  # pyright: ignore[reportOptionalCall]
        generic, stats = model.head(w._replace(stats=stats), z, **mode)
        mine, own_stats = model.head(personal(own), jax.lax.stop_gradient(z), **mode)

        def cross_entropy(logits: Array) -> Array:
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch.y.astype(int))

        balanced = cross_entropy(generic + jnp.log(pi**gamma).astype(generic.dtype)[None])
        added = cross_entropy(jax.lax.stop_gradient(generic) + mine)
        return masked_mean(balanced + added, batch.mask), {"generic": stats, "personal": own_stats}

    return loss


def _predict(model: Model) -> Callable[[Heads, Tree], Array]:
    def predict(own: Heads, x: Tree) -> Array:
        z = model.features(own.generic, x)[0]  # pyright: ignore[reportOptionalCall]
        return model.head(own.generic, z)[0] + model.head(own.personal, z)[0]

    return predict
