"""The algebra of losses: a method is often another method on another loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from pfljax import tree
from pfljax.learning.metrics import masked_mean
from pfljax.types import Array, Batch, LossFn, Params, Task, Tree

Order = Literal["exact", "first", "hessian_free"]


def gradient(loss: LossFn, params: Params, batch: Batch, key: Array) -> tuple[Tree, Tree]:
    """The gradient of `loss` on the trainable part, and the new stats. The one place that differentiates.

    >>> f = lambda params, batch, key: ((params.trainable["w"] - 1) ** 2 / 2, {})
    >>> w = Params({"w": jnp.asarray(3.0)})
    >>> float(gradient(f, w, batch=None, key=None)[0]["w"])
    2.0
    """

    def value(trainable: Tree) -> tuple[Array, Tree]:
        return loss(Params(trainable, params.stats), batch, key)

    return jax.grad(value, has_aux=True)(params.trainable)


def given(loss: LossFn, fixed: Params) -> LossFn:
    """`loss` as a function of the leaves that `fixed` lacks; those it has are constants, their statistics too.

    A `Proximal` stays one: its quadratic is that of the leaves left, less the constant of the others.

    >>> f = lambda params, batch, key: (params.trainable["a"] * params.trainable["b"], {})
    >>> of_a = given(f, Params({"a": None, "b": 3.0}))
    >>> of_a(Params({"a": 2.0, "b": None}), batch=None, key=None)
    (6.0, {})
    """
    if isinstance(loss, Proximal):
        stiffness = None if loss.stiffness is None else tree.without(loss.stiffness, fixed.trainable)
        anchor = tree.without(loss.anchor, fixed.trainable)
        return Proximal(given(loss.loss, fixed), loss.lam, anchor, stiffness)

    def conditioned(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = loss(tree.merge(params, fixed), batch, key)
        return value, tree.like(stats, params.stats)

    return conditioned


class Proximal(NamedTuple):
    """`f(w) + lam/2 ||w - anchor||^2`. A solver may take the quadratic part apart (`local.proximal_descent`).

    With a `stiffness` s, such as a diagonal Fisher information, `f(w) + lam/2 sum_k s_k (w_k - anchor_k)^2`.

    >>> f = lambda params, batch, key: ((params.trainable["w"] - 1) ** 2 / 2, {})
    >>> w = Params({"w": jnp.asarray(3.0)})
    >>> float(proximal(f, lam=4.0, anchor={"w": jnp.asarray(2.0)})(w, batch=None, key=None)[0])
    4.0
    """

    loss: LossFn
    lam: Array | float
    anchor: Tree  # like the trainable part
    stiffness: Tree | None = None  # like the trainable part; None: 1 everywhere

    def __call__(self, params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = self.loss(params, batch, key)
        off = tree.sub(params.trainable, self.anchor)
        pulled = off if self.stiffness is None else jax.tree.map(jnp.multiply, self.stiffness, off)
        return value + 0.5 * self.lam * tree.vdot(pulled, off), stats


proximal = Proximal


def tilted(loss: LossFn, tilt: Tree) -> LossFn:
    """`f(w) + <tilt, w>`: the gradient moves by the constant `tilt`.

    >>> f = lambda params, batch, key: ((params.trainable["w"] - 1) ** 2 / 2, {})
    >>> w = Params({"w": jnp.asarray(3.0)})
    >>> float(tilted(f, {"w": jnp.asarray(5.0)})(w, batch=None, key=None)[0])
    17.0
    """

    def tilted_loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = loss(params, batch, key)
        return value + tree.vdot(tilt, params.trainable), stats

    return tilted_loss


def contrastive(z: Array, near: Array, far: Array, temperature: Array | float) -> Array:
    """`-log(e^{cos(z, near)/tau} / (e^{cos(z, near)/tau} + e^{cos(z, far)/tau}))` of each example [B].

    Features of a length below 1e-4 have a cosine of 0 with all others, and no gradient: they have no direction.

    >>> z, near, far = jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 1.0]]), jnp.array([[0.0, 1.0]])
    >>> round(float(contrastive(z, near, far, temperature=0.5)[0]), 4)
    0.2176
    """
    z, near, far = (rows.reshape(rows.shape[0], -1) for rows in (z, near, far))

    def cosine(other: Array) -> Array:
        directed = jnp.minimum(jnp.sum(z**2, axis=1), jnp.sum(other**2, axis=1)) > 1e-8
        here, there = (jnp.where(directed[:, None], rows, 1.0) for rows in (z, other))
        return jnp.where(directed, optax.losses.cosine_similarity(here, there), 0.0)

    return jax.nn.softplus((cosine(far) - cosine(near)) / temperature)


def imitation(outputs: Array, teacher: Array, mask: Array, temperature: Array | float = 1.0) -> Array:
    """`T^2 KL(softmax(teacher / T) || softmax(outputs / T))`, the mean over the unmasked rows of logits [B, ..., C].

    >>> one = jnp.ones(1)
    >>> round(float(imitation(jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.0, 1.0, 0.0]]), one, temperature=2.0)), 6)
    0.447297
    """
    said, meant = (jax.nn.log_softmax(logits / temperature, axis=-1) for logits in (outputs, teacher))
    apart = optax.losses.kl_divergence_with_log_targets(said, meant).reshape(mask.shape[0], -1).mean(axis=1)
    return temperature**2 * masked_mean(apart, mask)


def distilled(task: Task, teacher: Params, alpha: Array | float, temperature: Array | float) -> LossFn:
    """`alpha imitation(z(x; w), z(x; teacher)) + (1 - alpha) f(w)`; the models imitate as they predict.

    >>> from pfljax import models
    >>> from pfljax.learning import tasks
    >>> task = tasks.classification(models.logistic((1,), 2))
    >>> batch = Batch(jnp.ones((1, 1)), jnp.zeros(1, int), jnp.ones(1))
    >>> w = task.init(jax.random.key(0))
    >>> float(distilled(task, w, 1.0, 6.0)(w, batch, jax.random.key(0))[0])
    0.0
    """

    def imitating(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        value, stats = task.loss(params, batch, key)
        student, taught = task.predict(params, batch.x), task.predict(teacher, batch.x)
        apart = imitation(student, taught, batch.mask, temperature)
        return alpha * apart + (1 - alpha) * value, stats

    return imitating


def coral(z: Array, mask: Array, other: Array, other_mask: Array) -> Array:
    """`||Cov(z) - Cov(other)||_F^2 / (4 d^2)` of features [B, ..., d], by their unmasked rows.

    `Cov` is that of a sample, divided by its rows less one; of a single row it is 0.
    Source: Sun and Saenko, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", 2016, equations 1 to 3.

    >>> both = jnp.ones(2)
    >>> float(coral(jnp.array([[0.0], [2.0]]), both, jnp.array([[0.0], [4.0]]), both))  # variances 2 and 8
    9.0
    """
    difference = _covariance(z, mask) - _covariance(other, other_mask)
    return jnp.sum(jnp.square(difference)) / (4 * difference.size)


def _covariance(z: Array, mask: Array) -> Array:
    """[d, d] of the unmasked rows of features."""
    rows = z.reshape(z.shape[0], -1)
    weights = mask.astype(rows.dtype)[:, None]
    count = jnp.sum(weights)
    centered = (rows - jnp.sum(rows * weights, axis=0, keepdims=True) / jnp.maximum(count, 1)) * weights
    return centered.T @ centered / jnp.maximum(count - 1, 1)


def mixed(loss: LossFn, weight: Array | float, other: Params) -> LossFn:
    """`f(weight w + (1 - weight) other)`: its gradient is `weight grad f` at the mixture.

    >>> f = lambda params, batch, key: ((params.trainable["w"] - 1) ** 2 / 2, {})
    >>> w, other = Params({"w": jnp.asarray(3.0)}), Params({"w": jnp.asarray(5.0)})
    >>> float(gradient(mixed(f, 0.5, other), w, batch=None, key=None)[0]["w"])
    1.5
    """

    def mixed_loss(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        return loss(tree.mix(weight, params, other), batch, key)

    return mixed_loss


def discrepancy(x: Array, y: Array, mask: Array, scales: Sequence[float] = (10.0, 15.0, 20.0, 50.0)) -> Array:
    """`MMD^2` of the unmasked rows of x and y [B, d] (the V-statistic), by kernels of several widths.

    `mean k(x, x') + mean k(y, y') - 2 mean k(x, y)`, `k(u, v) = sum_a exp(-||u - v||^2 / (2 a))`.

    Source: Gretton et al., "A Kernel Two-Sample Test", Journal of Machine Learning Research 2012.

    >>> x, y = jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 1.0], [2.0, 0.0]])
    >>> round(float(discrepancy(x, y, jnp.ones(2))), 3)
    0.122
    """
    x, y = (rows.reshape(rows.shape[0], -1) for rows in (x, y))
    pairs = (mask[:, None] * mask[None]).astype(x.dtype)

    def mean(u: Array, v: Array) -> Array:
        apart = jnp.sum(u**2, axis=1)[:, None] + jnp.sum(v**2, axis=1)[None] - 2 * u @ v.T
        kernel = sum(jnp.exp(-apart / (2 * scale)) for scale in scales)
        return jnp.sum(pairs * kernel) / jnp.maximum(jnp.sum(pairs), 1)

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


def after_adaptation(loss: LossFn, alpha: Array | float, order: Order = "exact", delta: float = 1e-3) -> LossFn:
    """The loss after one step: `f(u; query)` at `u = w - alpha grad f(w; support)`.

    Its gradient is the direction of MAML, with `g = grad f(u; query)`:

    - `"exact"`: `(I - alpha H(w; support)) g`, by differentiating through the step;
    - `"first"`: `g`, the Hessian left out;
    - `"hessian_free"`: `H g` replaced by `[grad f(w + delta g) - grad f(w - delta g)] / (2 delta)`.

    Support and query are the even and the odd rows of a batch; without a second row the query is the support.
    Statistics are measured on the query.

    Raises:
      ValueError: if `order` is none of the three.

    >>> f = lambda params, batch, key: ((params.trainable["w"] - 1) ** 2 / 2, {})
    >>> w = Params({"w": jnp.asarray(3.0)})
    >>> rows = Batch(jnp.zeros(2), jnp.zeros(2), mask=jnp.ones(2))
    >>> float(gradient(after_adaptation(f, alpha=0.5), w, rows, jax.random.key(0))[0]["w"])
    0.5
    """
    if order not in ("exact", "first", "hessian_free"):
        raise ValueError(f"order={order!r}: choose 'exact', 'first' or 'hessian_free'")

    def adapted(params: Params, batch: Batch, key: Array) -> tuple[Array, Tree]:
        support, query = _halves(batch)
        step, _ = gradient(loss, params, support, key)
        if order != "exact":
            step = jax.lax.stop_gradient(step)
        moved = params._replace(trainable=tree.axpy(-alpha, step, params.trainable))
        query_key = jax.random.fold_in(key, 1)
        value, stats = loss(moved, query, query_key)
        if order == "hessian_free":
            curved, _ = gradient(loss, moved, query, query_key)

            def shifted(by: float) -> Tree:
                there = params._replace(trainable=tree.axpy(by, curved, params.trainable))
                return gradient(loss, there, support, key)[0]

            product = tree.scale(-alpha / (2 * delta), tree.sub(shifted(delta), shifted(-delta)))
            product = jax.lax.stop_gradient(product)
            value += tree.vdot(product, tree.sub(params.trainable, jax.lax.stop_gradient(params.trainable)))
        return value, stats

    return adapted


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    even = jax.tree.map(lambda leaf: leaf[0::2], batch)
    odd = jax.tree.map(lambda leaf: leaf[1::2], batch)
    rows = odd.mask.shape[0]
    if rows == 0:
        return even, even
    empty = jnp.sum(odd.mask) == 0
    return even, tree.where(empty, jax.tree.map(lambda leaf: leaf[:rows], even), odd)
