"""VIRTUAL: a Gaussian belief about shared weights, to which every client contributes a factor."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from pfljax import tree
from pfljax.federation.reduce import mean, one_each, uniform
from pfljax.federation.skeletons import alone
from pfljax.types import (
    Algorithm,
    Array,
    Batch,
    ClientData,
    Cohort,
    LocalSolver,
    LossFn,
    Mask,
    Params,
    Reply,
    Task,
    Tree,
)


class Natural(NamedTuple):
    """Gaussians of independent weights; products of them are sums of these."""

    precision: Tree
    shift: Tree  # precision times mean


class Normal(NamedTuple):
    """The same Gaussians as they are trained."""

    mean: Tree
    log_scale: Tree


class Own(NamedTuple):
    """What a client keeps."""

    factor: Natural  # s_i, about the shared weights
    phi: Params  # `Normal` of its own weights


def virtual(
    task: Task,
    local: LocalSolver,
    personal: Mask,
    *,
    prior: Array | float = 30.0,
    beta: Array | float = 0.01,
    damping: Array | float = 0.5,
    samples: int = 1,
) -> Algorithm:
    """Shared weights `theta ~ q(theta) = p(theta) prod_i s_i(theta)`, own weights `phi_i ~ q_i(phi_i)`, all Gaussian.

    - a client takes its factor out of what it receives, the cavity `q_-i = q / s_i`, and finds the `q_i(theta)` and
      `q_i(phi)` with the largest `E log p(D_i | theta, phi) - KL(q_i(theta) || q_-i) - beta KL(q_i(phi) || p(phi))`;
    - `s_i <- s_i (q_i / q_-i / s_i)^damping`, and it uploads the change; the server multiplies q by all of them.

    Products are sums of natural parameters `(1 / sigma^2, mu / sigma^2)`. `log p(y | x)` is minus the task's loss, its
    mean over q by pairs of samples `mu +- sigma epsilon`.

    Args:
      task: the model and its loss, a negative log-likelihood.
      local: solver of a round; it moves `mu` and `log sigma`, which start as received.
      personal: `phi_i`; the rest is `theta`.
      prior: precision `1 / sigma^2` of `p(theta)`, around the initial model, and of `p(phi_i)`, around 0, > 0, traced.
      beta: weight of what the client's own weights may know, traced.
      damping: in (0, 1], traced; clients that train at once from the same q together step too far at 1.
      samples: pairs of samples of a minibatch, static.

    Returns:
      An algorithm whose clients keep `s_i` and `q_i(phi_i)` (2 |params|), upload and receive 2 |theta|, and deploy the
      means. A newcomer's onboarding is a client's half of a round.

    Deviations from the source: one network, divided by a mask, where the paper's clients have networks of their own
    that also read the hidden layers of the shared one; the prior of theta is around the initial model; no `q_i` is less
    precise than its cavity, and q not less than the prior. Running statistics are averaged.
    Source: Corinzia et al., "Variational Federated Multi-Task Learning", 2019, Algorithm 1.

    The mean of the exact posterior, `sum_i c_i / (prior + N)`:

    >>> import optax
    >>> from pfljax.learning import local, plans
    >>> from pfljax import masks, quadratics
    >>> task, data = quadratics.problem(w=[1.0, 5.0])
    >>> step = local.descent(optax.sgd(0.1), plans.full_batch(10, 1))
    >>> method = virtual(task, step, masks.nothing, prior=1.0, damping=1.0)
    >>> quadratics.deployed(method, task, data, rounds=50)
    {'w': [2.0, 2.0]}
    """

    def around(w: Params) -> Params:
        width = jax.tree.map(lambda leaf: jnp.full_like(leaf, -jnp.log(prior) / 2), w.trainable)
        return w._replace(trainable=Normal(w.trainable, width))

    def parts(q: Params) -> tuple[Params, Params]:
        """What is the client's own, and what is shared."""
        mask = personal(q._replace(trainable=q.trainable.mean))
        return tree.split(mask._replace(trainable=Normal(mask.trainable, mask.trainable)), q)

    def init_server(key: Array, num_clients: int) -> Params:
        theta = parts(around(task.init(key)))[1]
        return theta._replace(trainable=_natural(theta.trainable))

    def init_client(q: Params, id: Array, key: Array) -> Own:
        return Own(tree.scale(0, q.trainable), parts(around(task.init(key)))[0])

    def free_energy(cavity: Natural, phi: Normal, data: ClientData) -> LossFn:
        """Minus the objective, by example, up to a constant."""
        own = Natural(*(jax.tree.map(lambda leaf, to=to: jnp.full_like(leaf, to), phi.mean) for to in (prior, 0)))
        reference = tree.merge(cavity, own)
        weights = tree.merge(jax.tree.map(lambda _: 1.0, cavity.precision), jax.tree.map(lambda _: beta, phi.mean))

        def loss(q: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
            wide = jax.tree.map(jnp.exp, q.trainable.log_scale)

            def unlikely(key: Array) -> tuple[Array, Tree]:
                noise = jax.random.normal(key, (sum(leaf.size for leaf in jax.tree.leaves(wide)),))
                away = jax.tree.map(jnp.multiply, wide, tree.shaped(wide, noise))
                (above, stats), (below, _) = (
                    task.loss(q._replace(trainable=side(q.trainable.mean, away)), batch, key)
                    for side in (tree.add, tree.sub)
                )
                return (above + below) / 2, stats

            values, stats = jax.vmap(unlikely)(jax.random.split(key, samples))
            information = sum(jax.tree.leaves(jax.tree.map(_divergence, weights, *q.trainable, *reference)))
            value = jnp.mean(values) + information / jnp.maximum(data.size, 1).astype(values.dtype)
            return value, jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), stats)

        return loss

    def client_update(q: Params, own: Own, data: ClientData, key: Array) -> Reply:
        cavity = tree.sub(q.trainable, own.factor)
        start = tree.merge(own.phi, q._replace(trainable=_normal(q.trainable)))
        loss = free_energy(cavity, own.phi.trainable, data)
        phi, theta = parts(local(loss, start, data, jax.random.fold_in(key, 0)))
        precision = jax.tree.map(jnp.maximum, _natural(theta.trainable).precision, cavity.precision)
        found = Natural(precision, jax.tree.map(jnp.multiply, precision, theta.trainable.mean))
        factor = tree.mix(damping, tree.sub(found, cavity), own.factor)
        return Reply(Params(tree.sub(own.factor, factor), tree.sub(q.stats, theta.stats)), Own(factor, phi))

    def server_update(q: Params, cohort: Cohort, key: Array) -> Params:
        (moved, stats), replies = cohort.uploads, jnp.sum(one_each(cohort.weights))
        precision, shift = tree.axpy(-replies, moved, q.trainable)
        precision = jax.tree.map(lambda leaf: jnp.maximum(leaf, prior), precision)
        return Params(Natural(precision, shift), tree.sub(q.stats, stats))

    def personalize(q: Params, own: Own, data: ClientData, key: Array) -> Params:
        theta = q._replace(trainable=_normal(q.trainable).mean)
        return tree.merge(own.phi._replace(trainable=own.phi.trainable.mean), theta)

    return Algorithm(
        init_server=init_server,
        download=lambda q, id: q,
        init_client=init_client,
        client_update=client_update,
        server_update=server_update,
        personalize=personalize,
        reduce=uniform(mean),
        onboard=alone(client_update),
    )


def _divergence(weight: Array | float, mean: Array, log_scale: Array, precision: Array, shift: Array) -> Array:
    """`weight KL(q || r)` up to a constant, for a leaf of q and the natural parameters of r."""
    squares = precision * (jnp.exp(2 * log_scale) + mean**2)
    return jnp.asarray(weight, mean.dtype) * jnp.sum(squares / 2 - shift * mean - log_scale)


def _natural(q: Normal) -> Natural:
    precision = jax.tree.map(lambda scale: jnp.exp(-2 * scale), q.log_scale)
    return Natural(precision, jax.tree.map(jnp.multiply, precision, q.mean))


def _normal(q: Natural) -> Normal:
    scale = jax.tree.map(lambda precision: -jnp.log(precision) / 2, q.precision)
    return Normal(jax.tree.map(jnp.divide, q.shift, q.precision), scale)
