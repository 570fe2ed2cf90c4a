"""FedEM: a few shared models, of which every client deploys a mixture of its own."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.federation.clusters import apart
from pfljax.federation.reduce import handed, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.plans import gather
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Model,
    Params,
    Reply,
    Task,
    Tree,
)

_BATCH = 128
"""Examples whose responsibilities are computed at once."""


class Mixture(NamedTuple):
    """What a client deploys."""

    models: Params  # leaves [K, ...]
    pi: Array  # [K] weights of the models, their sum is 1


def fedem(
    task: Task,
    local: LocalSolver,
    model: Model,
    capacity: int,
    *,
    components: int = 3,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Each client deploys a mixture of K shared models, `p_i(y | x) = sum_m pi_im p(y | x; w_m)`.

    The models `w_m` are shared, the weights `pi_i` are the client's. It receives all models, and with
    `l(w; s) = -log p(y_s | x_s; w)`:

    - E-step: `q_sm = pi_im exp(-l(w_m; s)) / sum_k pi_ik exp(-l(w_k; s))` for each example s, then fixed;
    - M-step: `pi_im = (1/n_i) sum_s q_sm`, and each `w_m` descends `(1/n_i) sum_s q_sm l(w; s)`, all models along the
      same minibatches.

    The server averages each of the models.

    Args:
      task: the model; its loss is not used.
      local: solver of each model's local steps.
      model: the network of the task.
      capacity: examples of the largest client, static. The models of a client that has more become NaN.
      components: K, the paper's M, static; 1 is FedAvg.
      server: server optimizer of each model; plain averaging if None.

    Returns:
      An algorithm whose clients keep `pi_i`, 1/K at first, receive K |params|, upload K |params| and deploy `Mixture`.
      A newcomer onboards by an E-step and its new `pi_i`, without training.

    Raises:
      ValueError: if `components` is below 1, or, when traced, if labels are not one class for each example.

    Deviations from the source: none known. Source: Marfoq et al., "Federated Multi-Task Learning under a Mixture of
    Distributions", NeurIPS 2021, Algorithm 1 and section 3.2; models start at random, each at its own.

    Two clients that label the same example differently find that they are of two kinds:

    >>> import numpy as np, optax
    >>> from pfljax import data, models
    >>> from pfljax.engine.runs import simulate
    >>> from pfljax.learning import local, plans, tasks
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> net, solve = models.logistic((2,), 2), local.descent(optax.sgd(0.5), plans.full_batch(4, 4))
    >>> method = fedem(tasks.classification(net), solve, net, capacity=4, components=2)
    >>> result = simulate(tasks.classification(net), method, data.from_clients(held, held), rounds=9)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    if components < 1:
        raise ValueError(f"components={components}: it must be at least 1")
    server = fedopt() if server is None else server

    def init_server(key: Array, num_clients: int) -> Server:
        return jax.vmap(server.init)(apart(task, components, key))

    def expectation(models: Params, pi: Array, data: ClientData) -> tuple[Array, Array]:
        """The responsibilities of the client's examples [capacity, K], 0 beyond them, and what `pi` becomes."""
        checks.classes(data.examples.y, "fedem")

        def of(number: Array) -> Array:
            batch = gather(data, number * _BATCH + jnp.arange(_BATCH))
            losses = jax.vmap(lambda w: cross_entropy(task.predict(w, batch.x), batch.y))(models)
            return jax.nn.softmax(jnp.log(pi)[:, None] - losses, axis=0).T * batch.mask[:, None]

        q = jax.lax.map(of, jnp.arange(-(-capacity // _BATCH))).reshape(-1, components)[:capacity]
        return q, jnp.where(data.size > 0, jnp.sum(q, axis=0) / jnp.maximum(data.size, 1).astype(q.dtype), pi)

    def maximized(q: Array) -> LossFn:
        """The loss of one model, by its responsibilities [capacity] for the client's examples."""

        def loss(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            logits, stats = model.apply(w, batch.x, train=True, mask=batch.mask, key=key)
            mine = jnp.where(batch.mask > 0, q.at[batch.rows].get(mode="fill", fill_value=jnp.nan), 0)
            return masked_mean(mine.astype(logits.dtype) * cross_entropy(logits, batch.y), batch.mask), stats

        return loss

    def client_update(models: Params, pi: Array, data: ClientData, key: Array) -> Reply:
        q, pi = expectation(models, pi, data)
        own = jax.random.fold_in(key, 0)
        trained = jax.lax.map(lambda part: local(maximized(part[1]), part[0], data, own), (models, q.T))
        return Reply(tree.sub(models, trained), pi)

    def server_update(servers: Server, cohort: Cohort, key: Array) -> Server:
        differences = handed(cohort.uploads, servers.params, "one tree of all models, as `reduce.mean` makes it")
        return jax.vmap(server.step)(servers, differences)

    def predict(own: Mixture, x: Tree) -> Array:
        logits = jax.vmap(task.predict, (0, None))(own.models, x)
        return jax.nn.logsumexp(jnp.log(own.pi)[:, None, None] + jax.nn.log_softmax(logits, axis=-1), axis=0)

    return Algorithm(
        init_server=init_server,
        download=lambda servers, id: servers.params,
        init_client=lambda models, id, key: jnp.full(components, 1 / components),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda models, pi, data, key: Mixture(models, pi),
        reduce=mean,
        onboard=lambda models, pi, data, key: expectation(models, pi, data)[1],
        predict=predict,
    )
