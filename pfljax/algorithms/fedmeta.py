"""FedMeta: an initial model, and step sizes, from which a step on a few examples serves the others."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.federation.server import fedopt
from pfljax.federation.skeletons import accompanied
from pfljax.learning.local import mean_gradient
from pfljax.learning.losses import gradient
from pfljax.types import Algorithm, Array, ClientData, Params, Plan, Reply, Rows, Task, Tree, keep


def fedmeta(
    task: Task,
    plan: Plan,
    *,
    alpha: Array | float = 0.1,
    server_lr: Array | float = 0.01,
    form: Literal["maml", "meta_sgd"] = "meta_sgd",
    support: Array | float = 0.2,
    inner_steps: int = 1,
) -> Algorithm:
    """The server descends the loss of the clients' query examples after a few steps on their support examples.

    With `u = w - alpha o grad f_i(w; support)`, `inner_steps` times,

    - client i uploads `g_w = grad_w f_i(u; query)` and, in Meta-SGD, `g_alpha = grad_alpha f_i(u; query)`, through all
      steps and second derivatives;
    - the server: `(w, alpha) <- Adam((w, alpha), mean_i (g_w, g_alpha))`.

    Args:
      task: the model and its loss.
      plan: minibatches of the inner steps, whose number is `inner_steps`.
      alpha: inner step size, >= 0, traced; in Meta-SGD that of each number of the model at the start.
      server_lr: step size of Adam, traced.
      form: `"maml"` keeps `alpha`, `"meta_sgd"` learns one for each number of the model.
      support: share of a client's examples that are its support, the first ones; at least one, and the others are its
        query. Of a single example, or with a share of 1, the query is the support. Traced.
      inner_steps: static.

    Returns:
      An algorithm whose clients keep nothing and upload |params|, in Meta-SGD 2 |params|, down as much. Every client
      deploys u after `inner_steps` on all of its training examples, clients that never train too.

    Raises:
      ValueError: if `form` is neither.

    Deviations from the source: clients are weighted by all of their examples. Running statistics are those of u.
    Source: Chen et al., "Federated Meta-Learning with Fast Convergence and Efficient Communication", 2018, Algorithm 1
    (MAML and Meta-SGD).

    `w - alpha a_i (w - c_i)` at `w = sum_i b_i c_i / sum_i b_i = 8`, `b_i = a_i (1 - alpha a_i)^2`:

    >>> from pfljax import quadratics
    >>> from pfljax.learning import plans
    >>> task, data = quadratics.problem(w=[0.0, 17.0], curvatures=[1.0, 2.0])
    >>> method = fedmeta(task, plans.full_batch(1, 1), alpha=0.25, server_lr=0.1, form="maml")
    >>> quadratics.deployed(method, task, data, rounds=500, digits=1)
    {'w': [6.0, 12.5]}
    """
    if form not in ("maml", "meta_sgd"):
        raise ValueError(f"form={form!r}: choose 'maml' or 'meta_sgd'")
    learned, server = form == "meta_sgd", fedopt(optax.adam(server_lr))

    def init(key: Array) -> Params:
        w, stats = task.init(key)
        rates = {"alpha": jax.tree.map(lambda leaf: jnp.full_like(leaf, alpha), w)} if learned else {}
        return Params({"w": w} | rates, stats)

    def adapted(meta: Params, data: ClientData, key: Array) -> Params:
        def step(number: Array, u: Params) -> Params:
            batch = plan.batch(data, key, number)
            g, stats = gradient(task.loss, u, batch, jax.random.fold_in(key, number))
            moved = jax.tree.map(lambda w, rate, g: w - rate * g, u.trainable, rates, g)
            return Params(moved, stats)

        w = meta.trainable["w"]
        rates = meta.trainable["alpha"] if learned else jax.tree.map(lambda leaf: jnp.full_like(leaf, alpha), w)
        return jax.lax.fori_loop(0, inner_steps, step, Params(w, meta.stats))

    def client_update(meta: Params, client: Tree, data: ClientData, key: Array) -> Reply:
        seen, query = _split(data, support)

        def inner(trainable: Tree) -> tuple[Tree, Tree]:
            return tuple(adapted(meta._replace(trainable=trainable), seen, jax.random.fold_in(key, 0)))

        u, pull, stats = jax.vjp(inner, meta.trainable, has_aux=True)
        outer = mean_gradient(task.loss, Params(u, stats), query, jax.random.fold_in(key, 1))
        return Reply(Params(pull(outer)[0], tree.sub(meta.stats, stats)), client)

    def personalize(meta: Params, client: Tree, data: ClientData, key: Array) -> Params:
        return adapted(meta, data, jax.random.fold_in(key, 0))

    starting = task._replace(init=init)
    return accompanied(starting, client_update, lambda meta, client: meta, lambda meta: (), server=server)._replace(
        personalize=personalize,
        onboard=keep,
        server_model=lambda meta, client: meta._replace(trainable=meta.trainable["w"]),
    )


def _split(data: ClientData, share: Array | float) -> tuple[ClientData, ClientData]:
    """The support and the query of a client, the support twice where nothing is left."""
    first = jnp.clip(jnp.ceil(share * data.size.astype(float)).astype(data.size.dtype), 1, data.size)
    alone = first == data.size
    rest = Rows(jnp.where(alone, data.start, data.start + first), jnp.where(alone, data.size, data.size - first))
    return data.on(Rows(data.start, first)), data.on(rest)
