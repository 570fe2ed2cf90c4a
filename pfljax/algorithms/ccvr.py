"""CCVR: the head of the common model is trained anew on features that are drawn as those of all clients are spread."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.federation.server import Server, ServerOptimizer, fedopt
from pfljax.federation.skeletons import averaging
from pfljax.learning import classes
from pfljax.learning.linalg import eigh
from pfljax.learning.local import average, only
from pfljax.learning.metrics import cross_entropy, masked_mean
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


class Calibrated(NamedTuple):
    """The server of CCVR."""

    model: Server
    head: Params  # that is deployed; clients train that of the model


class Moments(NamedTuple):
    """Means over examples of what belongs to each class; those of several clients have the mean as theirs."""

    share: Array  # [C]
    first: Array  # [C, d] of the features
    second: Array  # [C, d, d] of their products


def ccvr(
    task: Task,
    local: LocalSolver,
    tune: LocalSolver,
    model: Model,
    *,
    samples: int = 200,
    power: Array | float | None = None,
    server: ServerOptimizer | None = None,
) -> Algorithm:
    """FedAvg for w; its head is calibrated on virtual features, drawn class by class from a Gaussian of all clients.

    With z the features of the received w, clients i of the cohort and their examples s of class k,

    - `N_k = sum_i n_ik`, `mu_k = (1/N_k) sum_{i,s} z_s`, `S_k = 1/(N_k - 1) sum_{i,s} (z_s - mu_k) (z_s - mu_k)'`;
    - G features of each class are drawn from `Normal(mu_k, S_k)`, and `h <- tune(CE(h(z), k))` from the head of the new
      w on. Clients deploy the body of w under h, and train w with its own head.

    Args:
      task: the model and its loss.
      local: solver of a client's round. Without steps, a round from a trained model (`tasks.starting`) is the paper's
        calibration after training.
      tune: solver of the head on the server.
      model: the network of the task, which must have features.
      samples: G, static.
      power: None: features as they are. A number beta > 0, traced: the transform of Tukey, by which features of
        rectified layers are more like Gaussian ones: z is `sign(z) |z|^beta` in all of the above and under the
        calibrated head; the paper's is 0.5. Clients then deploy what only the method's own `predict` reads.
      server: server optimizer of w; plain averaging if None.

    Returns:
      An algorithm whose clients keep nothing, upload |params| + C (1 + d + d^2) for d features and C classes, and
      receive |params| + |h|. The server model of the scores is w under its own head.

    Raises:
      ValueError: if `samples` is below 1 or the model has no features, or, when traced, if labels are not one class for
        each example.

    Deviations from the source: calibration in each round, by features of the w before it; clients send moments, which
    make the same `mu_k` and `S_k` as means and covariances do.
    Source: Luo et al., "No Fear of Heterogeneity: Classifier Calibration for Federated Learning with Non-IID Data",
    NeurIPS 2021, section 4.

    Each client has one class, and the features are the examples, which a few steps of the head alone tell apart:

    >>> import numpy as np, optax, pfljax as pfl
    >>> held = [(np.eye(2)[[label] * 4] + 0.1 * np.eye(4, 2), [label] * 4) for label in (0, 1)]
    >>> model, rest = pfl.models.logistic((2,), 2), pfl.descent(optax.sgd(0.0), pfl.full_batch(1, 4))
    >>> task, tune = pfl.classification(model), pfl.descent(optax.sgd(1.0), pfl.steps(40, 20))
    >>> result = pfl.simulate(task, ccvr(task, rest, tune, model), pfl.from_clients(held, held), rounds=1)
    >>> result.scores["personal", "test", "accuracy"].tolist()
    [[1.0, 1.0]]
    """
    checks.each(checks.Count, samples=samples)
    number, head = classes.number(model, "ccvr draws features"), masks.head(model)
    algorithm, optimizer = averaging(task, local, server=server), fedopt() if server is None else server

    def client_update(received: tuple[Params, Params], client: Tree, data: ClientData, key: Array) -> Reply:
        w, _ = received
        reply = algorithm.client_update(w, client, data, key)
        return reply._replace(upload=(reply.upload, moments(model, w, data, number, power)))

    def server_update(before: Calibrated, cohort: Cohort, key: Array) -> Calibrated:
        moved, pooled = cohort.uploads
        new = optimizer.step(before.model, moved)
        drawn = virtual(*gaussians(pooled, jnp.sum(cohort.weights)), jax.random.fold_in(key, 0), samples)

        def loss(w: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            logits = model.head(w, batch.x.reshape(-1, *model.features_shape))[0]
            return masked_mean(cross_entropy(logits, batch.y), batch.mask), w.stats

        tuned = only(head, tune)(loss, new.params, drawn, jax.random.fold_in(key, 1))
        return Calibrated(new, tree.split(head(tuned), tuned)[0])

    def init_server(key: Array, num_clients: int) -> Calibrated:
        start = algorithm.init_server(key, num_clients)
        return Calibrated(start, tree.split(head(start.params), start.params)[0])

    def deployed(received: tuple[Params, Params], client: Tree, data: ClientData, key: Array) -> Params:
        w, calibrated = received
        return tree.merge(calibrated, w)

    def predict(own: Params, x: Tree) -> Array:
        z = transformed(classes.flat_features(model, own, x), power)
        return model.head(own, z.reshape(-1, *model.features_shape))[0]

    return algorithm._replace(
        predict=None if power is None else predict,
        init_server=init_server,
        download=lambda server, id: (server.model.params, server.head),
        init_client=lambda received, id, key: (),
        client_update=client_update,
        server_update=server_update,
        personalize=deployed,
        server_model=lambda received, client: received[0],
    )


def transformed(z: Array, power: Array | float | None) -> Array:
    """`sign(z) |z|^power`, or z.

    >>> transformed(jnp.array([-4.0, 0.0, 9.0]), 0.5).tolist()
    [-2.0, 0.0, 3.0]
    """
    return z if power is None else jnp.sign(z) * jnp.abs(z) ** jnp.asarray(power, z.dtype)


def moments(model: Model, w: Params, data: ClientData, number: int, power: Array | float | None = None) -> Moments:
    """What a client sends of its features under w."""
    checks.classes(data.examples.y, "ccvr")

    def of(batch: Batch, _: Array) -> Moments:
        z = transformed(classes.flat_features(model, w, batch.x), power)
        own = jax.nn.one_hot(batch.y, number, dtype=z.dtype) * batch.mask.astype(z.dtype)[:, None]
        own = own / jnp.maximum(jnp.sum(own), 1)
        return Moments(jnp.sum(own, axis=0), own.T @ z, jnp.einsum("bk,bi,bj->kij", own, z, z))

    return average(of, data, batch_size=128)


def gaussians(pooled: Moments, examples: Array) -> tuple[Array, Array, Array]:
    """`N_k` [C], `mu_k` [C, d] and the unbiased `S_k` [C, d, d], zeros for classes of no example.

    Args:
      pooled: of all examples together.
      examples: how many they are.

    >>> one = Moments(jnp.ones(1), jnp.array([[1.0]]), jnp.array([[[3.0]]]))  # 1 - sqrt(2) and 1 + sqrt(2)
    >>> [float(part.ravel()[0]) for part in gaussians(one, jnp.asarray(2.0))]
    [2.0, 1.0, 4.0]
    """
    share = jnp.where(pooled.share > 0, pooled.share, 1)
    N = pooled.share * examples.astype(share.dtype)
    mu = pooled.first / share[:, None]
    spread = pooled.second / share[:, None, None] - mu[:, :, None] * mu[:, None]
    unbiased = N / jnp.maximum(N - 1, 1)
    return N, mu, unbiased[:, None, None] * spread


def virtual(N: Array, mu: Array, S: Array, key: Array, samples: int) -> ClientData:
    """As many drawn features [d] of each class that there is, as the examples of one client."""
    normal = jax.random.normal(key, (samples, *mu.shape), mu.dtype)
    values, vectors = jax.vmap(eigh)(S)
    noise = jnp.finfo(S.dtype).eps * S.shape[-1] * jnp.max(values, axis=1)
    lengths = jnp.sqrt(jnp.where(values > noise[:, None], values, 0))
    roots = jnp.einsum("kij,kj,klj->kil", vectors, lengths, vectors)
    z = mu[None] + jnp.einsum("kij,skj->ski", roots, normal)
    order = jnp.argsort(N <= 0, stable=True)
    x = jnp.swapaxes(z[:, order], 0, 1).reshape(-1, mu.shape[1])
    zero = jnp.zeros((), jnp.int32)
    return ClientData(Examples(x, jnp.repeat(order, samples)), zero, samples * jnp.sum(N > 0, dtype=jnp.int32), zero)
