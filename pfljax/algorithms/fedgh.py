"""FedGH: the server trains one head on the mean features of the clients' classes."""

import jax
import optax

from pfljax import tree
from pfljax.federation.reduce import stack
from pfljax.federation.skeletons import Init, alone, initial
from pfljax.learning import classes, parts
from pfljax.learning.local import descent
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.learning.plans import epochs
from pfljax.types import Algorithm, Array, Batch, ClientData, Cohort, LocalSolver, Model, Params, Reply, Task, Tree


def fedgh(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    server_lr: Array | float = 0.01,
    server_epochs: int = 100,
    server_batch_size: int = 10,
    init: Init = "common",
) -> Algorithm:
    """A common head, learned by the server; bodies stay with the clients, of any network with as many features.

    A client takes the head h and its own body: `(b_i, h_i) <- local(b_i, h)`. It sends `q_ik`, the mean of `z = b_i(x)`
    over its examples of class k. The server descends on the pairs of a round, `h: mean over (q, k) of CE(h(q), k)`.

    Args:
      task: the model and its loss.
      local: solver of a client's round, of body and head.
      model: the network of the task, which must have features.
      server_lr: learning rate of the server's SGD, traced; 0 leaves the head as it begins.
      server_epochs, server_batch_size: passes of the server over the pairs, and pairs of a minibatch, static.
      init: the same initial model for all clients, or a random one for each.

    Returns:
      An algorithm whose clients keep a model (|params|), which they deploy, receive the head and upload C (d + 1)
      numbers. A newcomer trains body and head from the server's head.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: the server's numbers are those of HtFLlib.
    Source: Yi et al., "FedGH: Heterogeneous Federated Learning with Generalized Global Header", ACM MM 2023.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2), [0, 1]), (np.eye(2), [1, 0])]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(4,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(20, 2))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> result = pfl.engine.simulate(task, fedgh(task, solve, model), data, rounds=5)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    count, head = classes.number(model, "fedgh averages features"), parts.head(model)
    solve = descent(optax.sgd(server_lr), epochs(server_epochs, server_batch_size))

    def client_update(h: Params, own: Params, data: ClientData, key: Array) -> Reply:
        own = local(task.loss, tree.merge(h, own), data, jax.random.fold_in(key, 0))
        q, shares = classes.means(model, own, data, count, "fedgh")
        return Reply((q, (shares > 0).astype(q.dtype)), own)

    def loss(h: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        z = batch.x.reshape(-1, *model.features_shape)
        logits, stats = model.head(h, z, train=True, mask=batch.mask, key=key)
        return masked_mean(cross_entropy(logits, batch.y), batch.mask), stats

    def server_update(h: Params, cohort: Cohort, key: Array) -> Params:
        return solve(loss, h, classes.as_examples(*cohort.uploads), key)

    return Algorithm(
        init_server=lambda key, num_clients: head(task.init(key)),
        download=lambda h, id: h,
        init_client=initial(task, init),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda h, own, data, key: own,
        reduce=stack,
        onboard=alone(client_update),
    )
