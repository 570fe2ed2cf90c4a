"""FCF: collaborative filtering where what a client likes never leaves it."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from pfljax import masks, tree
from pfljax.federation.reduce import mean, one_each, uniform
from pfljax.federation.server import Server, fedopt
from pfljax.learning import classes
from pfljax.learning.linalg import solve
from pfljax.learning.local import average, mean_gradient
from pfljax.learning.metrics import masked_mean
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LossFn, Model, Params, Reply, Task, Tree


class Taste(NamedTuple):
    """What a client deploys."""

    items: Params
    x: Array  # [d, C] its factor


def fcf(
    task: Task,
    model: Model,
    *,
    lam: Array | float = 1.0,
    confidence: Array | float | None = None,
    server_lr: Array | float = 0.1,
    step: Literal["adam", "exact"] = "adam",
) -> Algorithm:
    """Ratings are products `r_ui ~ <x_u, y_i>`: the server learns what items are like, each client what it likes.

    `min sum_u sum_i c_ui (p_ui - <x_u, y_i>)^2 + lam (sum_u ||x_u||^2 + sum_i ||y_i||^2)` over the items that client u
    has rated. With Y their rows `y_i` and C, p their confidences and targets:

    - client: `x_u = (Y' C Y + lam I)^-1 Y' C p`, and it uploads `g_i = -2 c_ui (p_ui - <x_u, y_i>) x_u` for each i;
    - server: a step of Adam along `sum_u g_i + 2 lam y_i`; or the exact step to the minimum over Y given all `x_u`,
      `y_i <- y_i - H_i^-1 (sum_u g_i + 2 lam y_i)`, `H_i = 2 sum_u c_ui x_u x_u' + 2 lam I`. With all clients in every
      round that is alternating least squares.

    Args:
      task: the model and its metrics; its loss is not used.
      model: `y_i` are its features of an example, of `models.factors` a row for each item. Its head is not used.
      lam: strength of the regularization, > 0, traced.
      confidence: None: ratings as they are, `p = r` and `c = 1`. A number a, traced: implicit feedback, `p = 1` where
        `r > 0` and 0 elsewhere, `c = 1 + a r`; a client then lists what it has not chosen as `r = 0`.
      server_lr: learning rate of Adam, traced.
      step: of the server, static. The exact one goes by the clients of the round alone, and items that none of them has
        rated become 0; it needs `y_i` that are rows of one table [I, d].

    Returns:
      An algorithm whose clients keep nothing, upload and receive the body, and deploy `Taste`. Newcomers do too,
      without training. What is uploaded is 0 for items that a client has not rated: it tells which ones it has. For the
      exact step it is also their part of `H_i`, I d^2 numbers.

    Raises:
      ValueError: if the model has no features, or for the exact step other parts than one table, or `step` is neither.

    Deviations from the source: any network makes the `y_i`, and its weights take the place of Y in the regularization;
    labels that are classes are learned as 0 and 1 of each.
    Source: Ammad-ud-din et al., "Federated Collaborative Filtering for Privacy-Preserving Personalized Recommendation
    System", 2019, Algorithm 1; Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", 2008.

    Two clients of opposite taste rate three items; the third says nothing about either:

    >>> import numpy as np, pfljax as pfl
    >>> model = pfl.models.factors((), 1, items=3, width=1)
    >>> held = [(np.arange(3), [4.0, -4.0, 0.0]), (np.arange(3), [-2.0, 2.0, 0.0])]
    >>> task, data = pfl.regression(model), pfl.from_clients(held, held)
    >>> result = pfl.simulate(task, fcf(task, model, lam=0.01), data, rounds=100)
    >>> bool((result.scores["personal", "test", "loss"][-1] < 0.01).all())
    True
    """
    outputs = classes.number(model, "fcf reads features of items")
    features, body = cast(Callable[..., Any], model.features), masks.negate(masks.head(model))
    steps = optax.add_decayed_weights(2 * lam), optax.adam(server_lr)  # pyright: ignore[reportArgumentType]
    server = fedopt(optax.chain(*steps))

    def init_server(key: Array, num_clients: int) -> Server:
        params = task.init(key)
        items = tree.split(body(params), params)[0]
        shapes = [leaf.shape for leaf in jax.tree.leaves(items)]
        if step == "exact" and [shape[1:] for shape in shapes] != [model.features_shape]:
            raise ValueError(
                f"step='exact' solves for the rows of one table of items, and the body has leaves of shapes {shapes}: "
                "take a model such as pfljax.models.factors, or step='adam'"
            )
        return server.init(items)

    def rated(items: Params, batch: Batch) -> tuple[Array, Array, Array]:
        """`y_i` [B, d], p [B, C] and c [B, 1]; c is 0 where nothing is rated."""
        y = features(items, batch.x)[0].reshape(batch.mask.size, -1)
        r = jax.nn.one_hot(batch.y, outputs) if outputs > 1 and batch.y.ndim == 1 else batch.y.reshape(-1, outputs)
        r, counts = r.astype(y.dtype), batch.mask[:, None].astype(y.dtype)
        return (y, r, counts) if confidence is None else (y, (r > 0).astype(y.dtype), counts * (1 + confidence * r))

    def factor(items: Params, data: ClientData) -> Array:
        """`x_u` [d, C]."""

        def normal(batch: Batch, number: Array) -> tuple[Array, Array]:
            y, p, c = rated(items, batch)
            return tree.scale(1 / jnp.maximum(jnp.sum(batch.mask), 1), (y.T @ (c * y), y.T @ (c * p)))

        left, right = tree.scale(data.size.astype(float), average(normal, data, batch_size=128))
        return solve(left + lam * jnp.eye(left.shape[0], dtype=left.dtype), right)

    def client_update(items: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        x = factor(items, data)

        def loss(items: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            y, p, c = rated(items, batch)
            return masked_mean(jnp.sum(c * (p - y @ x) ** 2, axis=1), batch.mask), items.stats

        def confidences(items: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            y, _, c = rated(items, batch)
            return masked_mean(jnp.sum(c * y, axis=1), batch.mask), items.stats

        def summed(of: LossFn) -> Tree:
            return tree.scale(data.size.astype(float), mean_gradient(of, items, data, key))

        upload = Params(summed(loss), tree.scale(0, items.stats))
        if step == "adam":
            return Reply(upload, client)
        [c] = jax.tree.leaves(summed(confidences))  # [I, d], as each entry of a row stands once in the sum for its item
        return Reply((upload, 2 * c[:, :, None] * (x @ x.T)[None]), client)

    def server_update(model: Server, cohort: Cohort, key: Array) -> Server:
        total = tree.scale(jnp.sum(one_each(cohort.weights)), cohort.uploads)
        return server.step(model, total) if step == "adam" else solved(model, *total)

    def solved(model: Server, slope: Params, curvature: Array) -> Server:
        def row(y: Array, g: Array, H: Array) -> Array:
            return y - solve(H + 2 * lam * jnp.eye(y.size, dtype=y.dtype), g + 2 * lam * y)

        items, stats = model.params
        moved = jax.tree.map(lambda Y, G: jax.vmap(row)(Y, G, curvature), items, slope.trainable)
        return model._replace(params=Params(moved, stats))

    def predict(own: Taste, x: Tree) -> Array:
        y = features(own.items, x)[0]
        return y.reshape(y.shape[0], -1) @ own.x

    return Algorithm(
        init_server=init_server,
        download=lambda model, id: model.params,
        init_client=lambda items, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda items, client, data, key: Taste(items, factor(items, data)),
        reduce=uniform(mean),
        predict=predict,
    )
