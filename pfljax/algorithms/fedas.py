"""FedAS: a client brings the received body in line with its own features before it trains."""

import jax
import jax.numpy as jnp

from pfljax import masks, tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.server import ServerOptimizer, by_own_weights
from pfljax.federation.skeletons import decoupled
from pfljax.learning import classes
from pfljax.learning.local import only
from pfljax.learning.losses import gradient
from pfljax.learning.metrics import masked_mean
from pfljax.learning.plans import gather
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Mask, Model, Params, Reply, Task, Tree


def fedas(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    model: Model,
    personal: Mask,
    *,
    batch_size: int = 32,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """Body b shared, head `h_i` personal; a client first moves the received b to where its own features were.

    A client keeps its whole model `(b_i, h_i)`. With z the features and d their number, in a round it does

    - `q_c = mean_{s: y_s = c} z(x_s; b_i)`, the prototypes under its old body;
    - `b <- tune(mean_s ||z(x_s; b) - q_{y_s}||^2 / d)`, from the received body on;
    - `(b_i, h_i) <- local(f_i, (b, h_i))`;
    - `T_i = sum_B ||grad f_i((b_i, h_i); B)||^2` over the minibatches B of its examples.

    The server: `b <- b - sum_i T_i (b - b_i) / sum_i T_i`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      tune: solver of the alignment.
      model: the network of the task, which must have features.
      personal: the head.
      batch_size: of the minibatches in `T_i`, static.
      server: server optimizer of the body; plain averaging if None.

    Returns:
      An algorithm whose clients keep `(b_i, h_i)` (|params|), receive |b| and upload |b| and `T_i`. A newcomer onboards
      by its half of a round. Where all `T_i` are 0 the server's body stays.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: as implemented in public code, where `T_i`, which the paper calls a trace of the Fisher
    information, is of minibatches and not of single examples, and each example is aligned with the prototype of its
    class; features are those of prediction.
    Source: Yang et al., "FedAS: Bridging Inconsistency in Personalized Federated Learning", CVPR 2024.

    Two clients that label the same example differently agree on a body and keep their heads:

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [0, label, label, label]) for label in (0, 1)]
    >>> model, solve = pfl.models.mlp((2,), 2, hidden=(3,)), pfl.descent(optax.sgd(0.5), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, [([[1.0, 1.0]], [label]) for label in (0, 1)])
    >>> result = pfl.simulate(task, fedas(task, solve, solve, model, masks.head(model)), data, rounds=9)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    number = classes.number(model, "fedas aligns features")
    shared = masks.negate(personal)

    def sharpness(v: Params, data: ClientData, key: Array) -> Array:
        def step(n: Array, total: Array) -> Array:
            batch = gather(data, n * batch_size + jnp.arange(batch_size, dtype=n.dtype))
            return total + tree.squared_norm(gradient(task.loss, v, batch, jax.random.fold_in(key, n))[0])

        return jax.lax.fori_loop(0, -(-data.size // batch_size), step, jnp.zeros(()))

    def client_update(b: Params, own: Params, data: ClientData, key: Array) -> Reply:
        q, _ = classes.means(model, own, data, number, "fedas")

        def apart(v: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            gaps = jnp.square(classes.flat_features(model, v, batch.x) - q[batch.y.astype(int)])
            return masked_mean(jnp.mean(gaps, axis=1), batch.mask), v.stats

        start = tree.merge(b, tree.split(shared(own), own)[1])
        aligned = only(shared, tune)(apart, start, data, jax.random.fold_in(key, 1))
        v = local(task.loss, aligned, data, jax.random.fold_in(key, 0))
        weight = sharpness(v, data, jax.random.fold_in(key, 2))
        return Reply((weight, tree.scale(weight, tree.sub(b, tree.split(shared(v), v)[0]))), v)

    algorithm = decoupled(task, [(masks.everything, local)], shared=shared, server=server, reduce=uniform(mean))
    return algorithm._replace(
        init_client=lambda b, id, key: task.init(key),
        client_update=client_update,
        server_update=by_own_weights(server),
        personalize=lambda b, own, data, key: own,
        onboard=lambda b, own, data, key: client_update(b, own, data, key).client,
    )
