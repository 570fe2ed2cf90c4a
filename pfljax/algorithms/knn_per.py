"""kNN-Per: the shared model, corrected by the nearest of the client's own examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.federation.server import ServerOptimizer
from pfljax.federation.skeletons import averaging
from pfljax.learning.local import average
from pfljax.learning.plans import epochs
from pfljax.learning.tasks import masked_mean
from pfljax.types import Algorithm, Array, Batch, ClientData, LocalSolver, Model, Params, Task, Tree


class Neighbours(NamedTuple):
    """What a client deploys."""

    params: Params
    keys: Array  # [capacity, d] features of the client's examples
    values: Array  # [capacity] their classes
    mask: Array  # [capacity] of {0., 1.}
    lam: Array  # [] weight of the neighbours


def knn_per(
    task: Task,
    local: LocalSolver,
    model: Model,
    capacity: int,
    *,
    lam: Array | float | None = 0.5,
    neighbours: int = 7,
    scale: Array | float = 1.0,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for `w`; a client mixes the model with a vote of its own examples that look most alike.

    With z the features of `w`, d their number, and `(z_s, y_s)` the k stored examples with the smallest
    `D_s = ||z - z_s||^2`:

    - `p_knn(c) = sum_{s: y_s = c} e_s / sum_s e_s`, `e_s = exp(-D_s / (d scale))`;
    - `p = lam p_knn + (1 - lam) softmax(logits)`.

    What is predicted are logits of `p`: `log p` plus the logarithm of the sum of `exp(logits)`.

    Args:
      task: the model and its loss.
      local: solver of a client's round.
      model: the network of the task, which must have features.
      capacity: examples that a client stores, static; a random part of those of a client that has more. The paper's
        fraction of a client's examples is this number.
      lam: weight of the neighbours, in [0, 1], traced; 0 is FedAvg, bit for bit. None, the paper's way: each client
        takes that of 0, 0.1, ..., 1 which is most accurate on its validation examples, the smallest of equals; without
        any it takes 0.5.
      neighbours: k, static; a client with fewer examples takes all of them, one without any has `lam = 0`.
      scale: of the squared distances, > 0, traced.
      server: server optimizer; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing and upload |params|. They deploy `Neighbours`; unseen clients do too,
      without training.

    Raises:
      ValueError: if the model has no features, or, when traced, if labels are not one class for each example.

    Deviations from the source: one `lam` for all clients unless it is None; the kernel is of squared distances, as in
    the authors' code; probabilities are at least the smallest positive float.
    Source: Marfoq et al., "Personalized Federated Learning through Local Memorization", ICML 2022, Algorithm 1 and
    equations 7 and 8.

    Two clients label the same example differently: one model cannot serve both, their examples do.

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.ones((4, 2)), [label] * 4) for label in (0, 1)]
    >>> model, solve = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.1), pfl.full_batch(1, 4))
    >>> task, data = pfl.classification(model), pfl.from_clients(held, held)
    >>> scores = pfl.simulate(task, knn_per(task, solve, model, capacity=4), data, rounds=1).scores
    >>> [scores[which, "test", "accuracy"].mean().item() for which in ("global", "personal")]
    [0.5, 1.0]
    """
    features = model.features
    if features is None:
        raise ValueError("knn_per compares features, and the model has none: see pfljax.models.from_linen")

    def personalize(w: Params, client: Tree, data: ClientData, key: Array) -> Neighbours:
        stored = epochs(1, capacity).batch(data, jax.random.fold_in(key, 0), jnp.asarray(0))
        checks.classes(stored.y, "knn_per")
        keys = features(w, stored.x)[0].reshape(capacity, -1)
        own = Neighbours(w, keys, stored.y, stored.mask, jnp.asarray(0.5 if lam is None else lam, float))
        weight = chosen(own, data) if lam is None else own.lam
        return own._replace(lam=jnp.where(data.size > 0, weight, 0))

    def chosen(own: Neighbours, data: ClientData) -> Array:
        """The `lam` that is most accurate on validation examples."""

        def accuracy(lam: Array) -> Array:
            def of(batch: Batch, number: Array) -> Array:
                classes = jnp.argmax(predict(own._replace(lam=lam), batch.x), axis=-1)
                return masked_mean((classes == batch.y.astype(int)).astype(float), batch.mask)

            return average(of, data.on(data.validation), batch_size=64)

        choices = jnp.linspace(0, 1, 11)
        best = choices[jnp.argmax(jax.vmap(accuracy)(choices))]
        return jnp.where(data.validation.size > 0, best, own.lam)

    def predict(own: Neighbours, x: Tree) -> Array:
        z = features(own.params, x)[0]
        logits = model.head(own.params, z)[0]
        limits, d = jnp.finfo(logits.dtype), own.keys.shape[1]
        distances = jnp.sum(jnp.square(z.reshape(-1, 1, d) - own.keys[None]), axis=-1)
        distances = jnp.where(own.mask[None] > 0, distances, jnp.inf)
        closeness, nearest = jax.lax.top_k(-distances, min(neighbours, capacity))
        shares = jax.nn.softmax(jnp.maximum(closeness / (d * scale), limits.min), axis=-1)
        classes = jax.nn.one_hot(own.values[nearest], logits.shape[-1], dtype=logits.dtype)
        p_knn = jnp.sum(shares[..., None] * classes, axis=1)
        whole = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        mixed = jnp.logaddexp(jnp.log(own.lam * p_knn) + whole, jnp.log1p(-own.lam) + logits)
        return jnp.maximum(mixed, whole + jnp.log(limits.tiny))

    return averaging(task, local, server=server)._replace(personalize=personalize, predict=predict)
