"""MOON: features held near those of the server model and away from those of the client's last one."""

import jax

from pfljax import checks, tree
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import accompanied
from pfljax.learning.losses import contrastive
from pfljax.learning.metrics import cross_entropy, masked_mean
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Model, Params, Reply, Task, Tree, keep


def moon(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    mu: Array | float = 1.0,
    temperature: Array | float = 0.5,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg whose clients keep what the features of an example mean.

    With `z = R_y(x)` the features of the model in training, `z_glob = R_w(x)` of the one received and
    `z_prev = R_{y_prev}(x)` of the one that the client uploaded last, both constant,

    - `l_con = -log(exp(cos(z, z_glob) / tau) / (exp(cos(z, z_glob) / tau) + exp(cos(z, z_prev) / tau)))`;
    - `y ~ argmin l_sup + mu l_con` from w, with `l_sup` the cross-entropy; the server averages y.

    Args:
      task: the model; its loss is not used.
      local: solver of a client's round.
      model: the network of the task; its features are the paper's z, so a projection head is its last block but one.
      mu: weight of the contrast, >= 0, traced; 0 is FedAvg.
      temperature: the paper's tau, > 0, traced.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep `y_prev` (|params|), at first the initial model, and upload |params|. Every client
      deploys the server model, newcomers too.

    Raises:
      ValueError: when traced, if the model has no features, or labels are not one class for each example.

    Deviations from the source: networks are as they are, without a projection head of their own. `z_glob` and `z_prev`
    are those of an evaluation, as in the authors' code. Source: Li et al., "Model-Contrastive Federated Learning",
    CVPR 2021, equation 3 and Algorithm 1.

    In the first round nothing is known of a client, so that it is one of FedAvg.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(3)[:2], [0, 1]), (np.eye(3)[1:], [1, 0])]
    >>> net, solve = pfl.models.mlp((3,), 2, hidden=(8,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 2))
    >>> data, task = pfl.from_clients(held, held), pfl.classification(net)
    >>> pfl.simulate(task, moon(task, solve, net), data, rounds=5).scores["global", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """

    def client_update(w: Params, previous: Params, data: ClientData, key: Array) -> Reply:
        checks.classes(data.examples.y, "moon")

        def loss(y: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            z, logits, stats = model.apply_in_parts(y, batch.x, train=True, mask=batch.mask, key=key)
            z_glob, z_prev = (model.apply_in_parts(other, batch.x)[0] for other in (w, previous))
            contrast = contrastive(z, z_glob, z_prev, temperature)
            return masked_mean(cross_entropy(logits, batch.y) + mu * contrast, batch.mask), stats

        y = local(loss, w, data, jax.random.fold_in(key, 0))
        return Reply(tree.sub(w, y), y)

    return accompanied(task, client_update, lambda w, previous: w, server=server)._replace(onboard=keep)
