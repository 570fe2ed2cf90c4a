"""FedMD: clients of any networks learn from each other by what they say on public examples."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import checks, tree
from pfljax.federation.reduce import mean, uniform
from pfljax.federation.skeletons import Init, alone, initial
from pfljax.learning import classes
from pfljax.learning.local import annealed
from pfljax.learning.metrics import masked_mean
from pfljax.learning.plans import epochs
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    Examples,
    LocalSolver,
    Model,
    Params,
    Reply,
    Task,
    Tree,
)


class Consensus(NamedTuple):
    """What clients said on average, and on which public examples."""

    logits: Array  # [A, C]
    seen: Array  # [] of {0., 1.}: whether somebody has said anything
    before: Array  # [] uint32 that draws the examples of `logits`
    now: Array  # [] uint32 that draws those of this round


def fedmd(
    task: Task,
    local: LocalSolver,
    model: Model,
    *,
    alignment: int = 5000,
    digest_lr: Array | float = 1e-3,
    digest_epochs: int = 1,
    digest_batch_size: int = 256,
    init: Init = "common",
) -> Algorithm:
    """Each client has a model of its own; the server averages their logits on a draw of the public examples.

    With `f_i` the logits of client i, `S` the A public examples of the round before and `f(x)` their consensus:

    - digest: Adam descends `mean over x in S of mean_C |f_i(x) - f(x)|`;
    - revisit: `local` trains on the client's own examples;
    - communicate: logits `f_i(x)` on A other public examples; the server takes `f <- mean_i f_i`.

    Args:
      task: the model and its loss.
      local: solver of the client's own examples.
      model: the network of the task, whose head has an output for each class.
      alignment: A, public examples of a round, static; all of them where there are fewer.
      digest_lr: learning rate of Adam, traced; 0 is training alone.
      digest_epochs, digest_batch_size: passes over S, and examples of a minibatch, static.
      init: the same initial model for all clients, or a random one for each.

    Returns:
      An algorithm whose clients keep a model (|params|), which they deploy, and upload A C numbers. A newcomer digests
      and trains as others do.

    Raises:
      ValueError: if the model has no features, or, when traced, if the federation has no public examples, or labels are
        not one class for each example.

    Deviations from the source: the consensus is digested at the start of the next round; clients do not begin by
    training on labelled public examples (`tasks.starting` begins at any model).
    Source: Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", 2019, and the author's code.

    Two clients that know one class each hear of the other on two public examples:

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [([axis] * 4, [label] * 4) for label, axis in enumerate(np.eye(2))]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.1), pfl.full_batch(9, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held[::-1]).with_public(np.eye(2))
    >>> method = fedmd(task, solve, model, alignment=2, digest_lr=0.1, digest_epochs=9)
    >>> result = pfl.engine.simulate(task, method, data, rounds=20)
    >>> result.scores["personal", "test", "accuracy"][-1].tolist()
    [1.0, 1.0]
    """
    count = classes.number(model, "fedmd counts the outputs of a head on features")
    draw = epochs(1, alignment).batch
    digest = annealed(optax.adam(digest_lr), epochs(digest_epochs, digest_batch_size))

    def init_server(key: Array, num_clients: int) -> Consensus:
        logits = jnp.zeros((alignment, count), classes.dtype_of(task))
        draws = jax.random.bits(jax.random.fold_in(key, 1), (2,))
        return Consensus(logits, jnp.zeros((), logits.dtype), *draws)

    def shown(data: ClientData, number: Array) -> ClientData:
        """A draw of the public examples."""
        public = data.on(checks.public(data.public, "fedmd compares outputs on"))
        checks.classes(data.examples.y, "fedmd")
        batch = draw(public, jax.random.key(number), jnp.asarray(0, jnp.int32))
        size = jnp.sum(batch.mask > 0, dtype=jnp.int32)
        return ClientData(Examples(batch.x, batch.y), jnp.zeros((), jnp.int32), size, data.id, data.work)

    def misfit(params: Params, batch: Batch, key: Array, logits: Array) -> tuple[Array, Tree]:
        gaps = jnp.mean(jnp.abs(task.predict(params, batch.x) - logits[batch.rows]), axis=1)
        return masked_mean(gaps, batch.mask), params.stats

    def client_update(consensus: Consensus, own: Params, data: ClientData, key: Array) -> Reply:
        before, now = shown(data, consensus.before), shown(data, consensus.now)
        away = functools.partial(misfit, logits=consensus.logits)
        digested = digest(away, own, before, jax.random.fold_in(key, 1))
        own = local(task.loss, tree.where(consensus.seen > 0, digested, own), data, jax.random.fold_in(key, 0))
        return Reply(task.predict(own, now.examples.x), own)

    def server_update(consensus: Consensus, cohort: Cohort, key: Array) -> Consensus:
        return Consensus(cohort.uploads, jnp.ones_like(consensus.seen), consensus.now, jax.random.bits(key, ()))

    return Algorithm(
        init_server=init_server,
        download=lambda consensus, id: consensus,
        init_client=initial(task, init),
        client_update=client_update,
        server_update=server_update,
        personalize=lambda consensus, own, data, key: own,
        reduce=uniform(mean),
        onboard=alone(client_update),
    )
