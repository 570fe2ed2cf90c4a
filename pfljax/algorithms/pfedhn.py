"""pFedHN: a network on the server makes each client's model of what it has learned about that client."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from pfljax import masks, tree
from pfljax.federation.reduce import handed, one_each, stack, weighted
from pfljax.federation.server import Server, fedopt
from pfljax.federation.skeletons import Init
from pfljax.federation.table import row
from pfljax.learning.local import only
from pfljax.learning.losses import gradient
from pfljax.learning.parts import below
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Mask, Params, Reply, Task, Tree, keep


def pfedhn(
    task: Task,
    local: LocalSolver,
    *,
    embedding: int | None = None,
    hidden: int = 100,
    layers: int = 3,
    init: Init = "per_client",
    server_lr: Array | float = 0.1,
    momentum: Array | float = 0.9,
    weight_decay: Array | float = 1e-3,
    clip: Array | float = 50.0,
) -> Algorithm:
    """The server learns a vector `v_i` of each client and a hypernetwork H; a client deploys `theta_i = H(v_i; phi)`.

    - a client of the cohort receives `theta_i` and uploads `D_i = theta_i - local(f_i, theta_i)`;
    - `phi` and all `v` descend along the mean over the cohort of `(d theta_i / d phi)' D_i`, `(d theta_i / d v)' D_i`.

    H is `W_1 v + b_1`, then `layers` times `W relu(.) + b`, then one more linear layer without a ReLU before it.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      embedding: entries of `v_i`, static; None is the authors' `1 + N // 4`.
      hidden: width of H, static.
      layers: hidden layers of H after the first, static; 0 and more.
      init: `v_i` random for each client, or the same for all.
      server_lr: learning rate of the server, traced; the authors' 0.01 is for one client a round.
      momentum: of the server's steps, in [0, 1), traced.
      weight_decay: of `phi` and `v`, traced.
      clip: largest norm of the server's gradient, > 0, traced.

    Returns:
      An algorithm whose clients keep nothing and upload |params|, down: |params|; H and `v` stay on the server. A
      newcomer deploys the model of the mean of all `v_i`.

    Raises:
      ValueError: if `init` is unknown, or the reduction hands on anything but the uploads themselves.

    Deviations from the source: the mean over a cohort, where the paper draws one client a round (a cohort of one); the
    last bias of H starts as the initial model of the task; running statistics are averaged; newcomers do not learn a
    `v`, for which the server's H would have to come to them.
    Source: Shamsian et al., "Personalized Federated Learning using Hypernetworks", ICML 2021, Algorithm 1; H and the
    server's optimizer as in the authors' code.

    Each client's own center, in directions that H has to learn:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.5), plans.full_batch(1, 1))
    >>> quadratics.deployed(pfedhn(task, step, weight_decay=0.0), task, data, rounds=400, digits=1)
    {'w': [1.0, 5.0]}
    """
    options: dict[str, Any] = {"embedding": embedding, "hidden": hidden, "layers": layers, "init": init}
    descent: dict[str, Any] = {"server_lr": server_lr, "momentum": momentum, "weight_decay": weight_decay, "clip": clip}
    return pfedhn_pc(task, local, masks.nothing, **options, **descent)._replace(onboard=keep)


def pfedhn_pc(
    task: Task,
    local: LocalSolver,
    personal: Mask,
    *,
    embedding: int | None = None,
    hidden: int = 100,
    layers: int = 3,
    init: Init = "per_client",
    server_lr: Array | float = 0.1,
    momentum: Array | float = 0.9,
    weight_decay: Array | float = 1e-3,
    clip: Array | float = 50.0,
) -> Algorithm:
    """pFedHN whose H makes the body only: heads stay with the clients and are trained along with it.

    Args:
      task, local, embedding, hidden, layers, server_lr, momentum, weight_decay, clip: see `pfedhn`.
      personal: the head.
      init: `v_i` and head random for each client, or the same for all.

    Returns:
      An algorithm whose clients keep the head and upload the body, down: the body. A newcomer trains a head under the
      body of the mean of all `v_i`.

    Raises, deviations: as `pfedhn`. Source: Shamsian et al., ICML 2021, section 3.3 (pFedHN-PC).

    The head is each client's own:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(body=[2.0, 2.0], head=[1.0, 5.0])
    >>> step, head = local.descent(optax.sgd(0.5), plans.full_batch(1, 1)), masks.named("head")
    >>> quadratics.deployed(pfedhn_pc(task, step, head, weight_decay=0.0), task, data, rounds=400, digits=1)
    {'body': [2.0, 2.0], 'head': [1.0, 5.0]}
    """
    if init not in ("common", "per_client"):
        raise ValueError(f"init={init!r}: choose 'common' or 'per_client'")
    steps = optax.clip_by_global_norm(clip), optax.add_decayed_weights(weight_decay), optax.sgd(server_lr, momentum)
    server = fedopt(optax.chain(*steps))  # pyright: ignore[reportArgumentType]

    def halves(params: Params) -> tuple[Params, Params]:
        return tree.split(personal(params), params)

    def init_server(key: Array, num_clients: int) -> Server:
        body = below(halves(task.init(key))[1], "pfedhn_pc makes the bodies of clients")
        start = ravel_pytree(body.trainable)[0]
        width = 1 + num_clients // 4 if embedding is None else embedding
        sizes = [width, *[hidden] * (layers + 1), start.size]
        keys = jax.random.split(jax.random.fold_in(key, 1), len(sizes))
        phi = [_layer(*each) for each in zip(keys[1:], sizes[:-1], sizes[1:], strict=True)]
        phi[-1] = phi[-1].at[-1].set(start.astype(float))
        v = jax.random.normal(keys[0], (num_clients if init == "per_client" else 1, width))
        v = jnp.broadcast_to(v, (num_clients, width))
        return server.init(Params({"phi": phi, "v": v}, body.stats))

    def made(net: Tree, id: Array) -> Tree:
        """What is trained of `H(v_i; phi)`."""
        first, *others, last = net["phi"]
        z = _linear(first, row(net["v"], id))
        for layer in others:
            z = _linear(layer, jax.nn.relu(z))
        shapes = halves(jax.eval_shape(lambda: task.init(jax.random.key(0))))[1]
        return tree.shaped(shapes.trainable, _linear(last, z))

    def download(model: Server, id: Array) -> Params:
        return Params(made(model.params.trainable, id), model.params.stats)

    def init_client(theta: Params, id: Array, key: Array) -> Params:
        return halves(task.init(key if init == "common" else jax.random.fold_in(key, id)))[0]

    def client_update(theta: Params, own: Params, data: ClientData, key: Array) -> Reply:
        own, result = halves(local(task.loss, tree.merge(theta, own), data, jax.random.fold_in(key, 0)))
        return Reply(tree.sub(theta, result), own)

    def server_update(model: Server, cohort: Cohort, key: Array) -> Server:
        received = jax.vmap(download, (None, 0))(model, cohort.ids)
        moved, even = (
            handed(cohort.uploads, received, "all uploads, as `reduce.stack` hands them on"),
            one_each(cohort.weights),
        )

        def product(net: Params, moved: Any, key: Array) -> tuple[Array, Tree]:
            """The mean of `<theta_i, D_i>`, whose gradient is that of the products with the Jacobians."""
            thetas = jax.vmap(made, (None, 0))(net.trainable, cohort.ids)
            products, stats = weighted((tree.row_products(thetas, moved.trainable), moved.stats), even)
            return products, stats

        return server.step(model, Params(*gradient(product, model.params, moved, key)))

    def onboard(theta: Params, own: Params, data: ClientData, key: Array) -> Params:
        solve = only(personal, local)
        return halves(solve(task.loss, tree.merge(theta, own), data, jax.random.fold_in(key, 0)))[0]

    return Algorithm(
        init_server=init_server,
        download=download,
        init_client=init_client,
        client_update=client_update,
        server_update=server_update,
        personalize=lambda theta, own, data, key: tree.merge(theta, own),
        reduce=stack,
        onboard=onboard,
    )


def _layer(key: Array, inputs: int, outputs: int) -> Array:
    """Weights [inputs + 1, outputs], the last row the bias, uniform in `+-1 / sqrt(inputs)`."""
    return jax.random.uniform(key, (inputs + 1, outputs), float, -(inputs**-0.5), inputs**-0.5)


def _linear(layer: Array, z: Array) -> Array:
    return z @ layer[:-1] + layer[-1]
