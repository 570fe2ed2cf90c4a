"""Accounting: what a round costs, read from shapes without a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.data import FederatedData
from pfljax.learning import losses, plans
from pfljax.types import Algorithm, Array, Params, Task, Tree


def wire_bytes(algorithm: Algorithm, data: FederatedData) -> tuple[int, int]:
    """Bytes `(down, up)` of one participating client in one round.

    Down is what `download` hands to it, or of that what it is sent (`Algorithm.sent`), up is the upload of
    `client_update`, both in their dtypes, without headers; of an upload that is compressed, what is sent of it
    (`Algorithm.wire`).
    A population of one, such as `FederatedData.pooled()`, sends nothing: there is no federation.
    """
    if data.num_clients == 1:
        return 0, 0

    def wire(data: FederatedData, key: Array) -> tuple[Tree, Tree]:
        id = jnp.asarray(0)
        download = algorithm.download(algorithm.init_server(key, data.num_clients), id)
        client = algorithm.init_client(download, id, key)
        upload = algorithm.client_update(download, client, data.client(id), key).upload
        return algorithm.sent(download) if algorithm.sent else download, upload

    download, upload = jax.eval_shape(wire, data, jax.random.key(0))
    return tree.nbytes(download), (algorithm.wire or tree.nbytes)(upload)


def step_flops(task: Task, data: FederatedData, batch_size: int) -> float | None:
    """Floating-point operations of one gradient on one minibatch, as the compiler counts them; None if it does not."""

    key = jax.random.key(0)

    def step(params: Params, data: FederatedData, key: Array) -> Tree:
        return losses.gradient(task.loss, params, plans.gather(data.client(0), jnp.arange(batch_size)), key)

    analysis = jax.jit(step).lower(jax.eval_shape(task.init, key), data, key).compile().cost_analysis()
    return None if not analysis else analysis.get("flops")
