"""Elastic aggregation: parameters to which the clients' losses are sensitive move less."""

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import beside, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.losses import gradient
from pfljax.learning.plans import gather
from pfljax.types import Algorithm, Array, ClientData, Cohort, LocalSolver, Params, Reply, Task, Tree


def elastic_aggregation(
    task: Task,
    local: LocalSolver,
    *,
    tau: Array | float = 0.5,
    mu: Array | float = 0.95,
    share: Array | float = 0.3,
    batch_size: int = 32,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg in which each leaf of the model moves by its own part of the mean, less where a client is sensitive to it.

    Client i sets a share of its examples aside. On their minibatches, for each leaf l and the received w,

    - `S_il <- mu S_il + (1 - mu) ||df_i(w)/dw_l||^2`, from 0 on in each round;
    - it trains on the other examples, `v_i = local(f_i, w)`, and sends `w - v_i` and `S_i`.

    The server: `w_l <- w_l - zeta_l sum_i p_i (w_l - v_il)`, `zeta_l = 1 + tau - sum_i p_i S_il / max_i S_il`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tau: what the least sensitive leaves move more, >= 0, traced. Where all clients are as sensitive `zeta = tau`, so
        that 1 is FedAvg on the examples that train.
      mu: decay of the moving average, in [0, 1), traced.
      share: of a client's examples that are set aside, in [0, 1), traced; the whole number below, the first of them.
      batch_size: of these, static.
      server: server optimizer of what is left of the mean; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params| and a number for each leaf; all deploy the server
      model. The server holds all uploads of a round at once.

    Deviations from the source: as implemented in public code, where the sensitivity is that of the loss, and the
    examples set aside do not train.
    Source: Chen et al., "Elastic Aggregation for Federated Optimization", CVPR 2023.

    One client is always as sensitive as the most sensitive one, so it moves by tau of its way to 8:

    >>> import optax
    >>> from pfljax import quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[8.0], sizes=[4])
    >>> solve = local.descent(optax.sgd(1.0), plans.full_batch(1, 4))
    >>> quadratics.deployed(elastic_aggregation(task, solve), task, data, rounds=2)
    {'w': [6.0]}
    """
    optimizer = fedopt() if server is None else server

    def sensitivity(w: Params, data: ClientData, key: Array) -> Tree:
        def step(number: Array, so_far: Tree) -> Tree:
            batch = gather(data, number * batch_size + jnp.arange(batch_size, dtype=number.dtype))
            slope, _ = gradient(task.loss, w, batch, jax.random.fold_in(key, number))
            return tree.mix(mu, so_far, jax.tree.map(lambda leaf: jnp.sum(jnp.square(leaf)), slope))

        nothing = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), w.trainable)
        return jax.lax.fori_loop(0, -(-data.size // batch_size), step, nothing)

    def client_update(w: Params, client: tuple[()], data: ClientData, key: Array) -> Reply:
        aside = jnp.floor(share * data.size.astype(float)).astype(data.size.dtype)
        rest = data._replace(start=data.start + aside, size=data.size - aside)
        v = local(task.loss, w, rest, jax.random.fold_in(key, 0))
        return Reply((tree.sub(w, v), sensitivity(w, data._replace(size=aside), jax.random.fold_in(key, 1))), client)

    def server_update(before: Server, cohort: Cohort, key: Array) -> Server:
        (moved, typical), (_, each) = cohort.uploads

        def zeta(typical: Array, each: Array) -> Array:
            most = jnp.max(each)
            return 1 + tau - jnp.where(most > 0, typical / jnp.where(most > 0, most, 1), 1)

        factors = jax.tree.map(zeta, typical, each)
        return optimizer.step(before, moved._replace(trainable=jax.tree.map(jnp.multiply, factors, moved.trainable)))

    algorithm = averaging(task, local, server=server, reduce=beside(mean))
    return algorithm._replace(client_update=client_update, server_update=server_update)
