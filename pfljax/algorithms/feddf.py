"""FedDF: after averaging, the server distils the clients' models into the average, on public examples."""

import jax
import jax.numpy as jnp
import optax

from pfljax import checks, tree
from pfljax.federation.reduce import beside, mean
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning.local import annealed
from pfljax.learning.losses import imitation
from pfljax.learning.plans import epochs
from pfljax.learning.schedules import cosine
from pfljax.types import Algorithm, Array, Batch, Cohort, LocalSolver, Params, Plan, Task, Tree


def feddf(
    task: Task,
    local: LocalSolver,
    *,
    distil_steps: int = 500,
    distil_lr: Array | float = 1e-3,
    distil_batch_size: int = 128,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for w, then w learns on public examples what the models that were received say on average.

    Clients train and the server averages as in `fedavg`. From that average the server descends, for `t = 1 ... T`,

    `KL(softmax(mean_k z(x; w_k)) || softmax(z(x; w)))`, the mean over a minibatch of public examples x,

    with z the logits and `w_k` the model that client k has sent. All of the round's clients count equally in the
    ensemble; labels of the public examples are not read.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      distil_steps: T, static; 0 is FedAvg.
      distil_lr: learning rate of Adam on the server, traced. It falls to 0 along half a cosine over the T steps, and
        begins anew in the next round.
      distil_batch_size: public examples of a minibatch, static; reshuffled each time they are used up.
      server: optimizer of the averaging before the distillation; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|. The server holds all uploads of a round at once.

    Raises:
      ValueError: when traced, if the federation has no public examples, or labels are not one class for each example.

    Deviations from the source: T steps in every round, where the authors stop early on validation examples of the
    server and may leave out the worst teachers; one architecture; teachers and student are evaluated as in prediction,
    with norm layers' running statistics and without dropout.
    Source: Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020,
    Algorithm 1.

    The student of two clients that are sure of different classes says both on examples of either:

    >>> import numpy as np
    >>> from pfljax import data, models
    >>> from pfljax.engine.simulation import Simulation
    >>> from pfljax.learning import local, plans, tasks
    >>> task = tasks.classification(models.logistic((2,), 2))
    >>> held = [([axis] * 4, [label] * 4) for label, axis in enumerate(np.eye(2))]
    >>> method = feddf(task, local.descent(optax.sgd(1.0), plans.full_batch(9, 4)), distil_steps=9)
    >>> run = Simulation(task, method, data.from_clients(held, held).with_public(np.eye(2)))
    >>> state, _ = run.run(run.init(jax.random.key(0)), jax.random.key(1), 9)
    >>> run.evaluate(state, jax.random.key(1))["personal", "test", "accuracy"].tolist()
    [1.0, 1.0]
    """
    server = fedopt() if server is None else server
    algorithm = averaging(task, local, server=server, reduce=beside(mean))
    plan = Plan(lambda data: jnp.asarray(distil_steps), epochs(1, distil_batch_size).batch)
    distil = annealed(optax.adam(cosine(distil_lr, rounds=distil_steps)), plan)

    def server_update(model: Server, cohort: Cohort, key: Array) -> Server:
        public = checks.public(cohort.public, "feddf distils on")
        checks.classes(public.examples.y, "feddf")
        difference, uploads = cohort.uploads
        teachers = jax.vmap(lambda upload: tree.sub(model.params, upload))(uploads)
        heard = (cohort.weights > 0).astype(float)

        def divergence(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            logits = jax.vmap(task.predict, (0, None))(teachers, batch.x)
            ensemble = jnp.tensordot((heard / jnp.maximum(jnp.sum(heard), 1)).astype(logits.dtype), logits, 1)
            return imitation(task.predict(w, batch.x), ensemble, batch.mask), w.stats

        student = server.step(model, difference)
        return student._replace(params=distil(divergence, student.params, public, key))

    return algorithm._replace(server_update=server_update)
