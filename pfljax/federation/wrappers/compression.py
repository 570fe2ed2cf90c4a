"""Compressed uploads, with the error of one round made up for in the next."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, masks, tree
from pfljax.checks import Bounds
from pfljax.federation.skeletons import Both, keeping
from pfljax.federation.wrappers.uploads import COMPRESSION, by_leaf, sending
from pfljax.printing import in_brief
from pfljax.types import Algorithm, Array, ClientData, Reply, Tree

_Some = Annotated[float, Bounds(above=0, most=1)]


@in_brief
class Compressor(NamedTuple):
    """What arrives of one leaf, and what it costs to send."""

    through: Callable[[Array, Array], Array]  # (leaf, key) -> the leaf as it arrives
    bits: Callable[[int, int], int]  # (numbers of a leaf, bits of each) -> bits on the wire
    contracts: bool = True  # ||u - through(u)|| <= ||u||, on average: what error feedback needs


@checks.by_hints()
def compressed(algorithm: Algorithm, compressor: Compressor, *, feedback: bool | None = None) -> Algorithm:
    """`algorithm` of whose uploads only `C(u)` arrives, leaf by leaf.

    With error feedback a client sends `C(u + e)` and keeps `e <- u + e - C(u + e)`, from `e = 0` on: what was sent, and
    e, is the sum of all u. Statistics and whole numbers are sent as they are. Bytes are those of `C(u)`.

    Args:
      algorithm: any; with feedback, one whose upload is shaped as its download.
      compressor: `top_k`, `random_k`, `sign`, `quantized`, or any other.
      feedback: whether the error is made up for; where the compressor contracts, if None.

    Returns:
      An algorithm whose clients keep e beside what they kept, as much as the upload before. An upload that is lost on
      its way is not sent again.

    Raises:
      ValueError: if feedback is asked of a compressor that does not contract, the upload is compressed already, or
        (from the first round) it is not shaped as the download.

    Source: Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014; Karimireddy et al., "Error Feedback
    Fixes SignSGD and other Gradient Compression Schemes", ICML 2019, Algorithm 2.

    One number of two arrives, in the end the right one of both:

    >>> import optax
    >>> from pfljax import algorithms, quadratics
    >>> from pfljax.learning import local, plans
    >>> task, data = quadratics.problem(w=[[1.0, 9.0], [3.0, 5.0]])
    >>> step = local.descent(optax.sgd(0.02), plans.full_batch(1, 1))
    >>> algorithm = compressed(algorithms.fedavg(task, step), top_k(0.5))
    >>> quadratics.deployed(algorithm, task, data, rounds=500, digits=1)
    {'w': [[2.0, 7.0], [2.0, 7.0]]}
    """
    if algorithm.wire is not None:
        raise ValueError("the upload is compressed already: compress it once")
    if feedback and not compressor.contracts:
        raise ValueError("feedback=True: the errors of this compressor would add up, leave feedback out")

    def through(part: Tree, data: ClientData, key: Array) -> Tree:
        return by_leaf(compressor.through, part, key)

    def wire(upload: Tree) -> int:
        part, rest = tree.split(masks.trained(upload), upload)
        bits = (compressor.bits(leaf.size, 8 * leaf.dtype.itemsize) for leaf in jax.tree.leaves(part))
        return sum(-(-count // 8) for count in bits) + tree.nbytes(rest)

    algorithm = algorithm._replace(wire=wire)
    if compressor.contracts if feedback is None else feedback:
        return _with_feedback(algorithm, through)
    return sending(algorithm, through, COMPRESSION)


def _with_feedback(algorithm: Algorithm, through: Callable[[Tree, ClientData, Array], Tree]) -> Algorithm:
    def nothing(download: Tree, client: Tree, key: Array) -> Tree:
        return tree.scale(0, tree.split(masks.trained(download), download)[0])

    def client_update(download: Tree, kept: Both, data: ClientData, key: Array) -> Reply:
        reply = algorithm.client_update(download, kept.client, data, key)
        part, rest = tree.split(masks.trained(reply.upload), reply.upload)
        if jax.tree.map(jnp.shape, part) != jax.tree.map(jnp.shape, kept.more):
            raise ValueError("feedback needs an upload shaped as the download, and here it is not: say feedback=False")
        due = tree.add(part, kept.more)
        sent = through(due, data, jax.random.fold_in(key, COMPRESSION))
        return reply._replace(upload=tree.merge(sent, rest), client=Both(reply.client, tree.sub(due, sent)))

    return keeping(algorithm, nothing, client_update)


def _entries(share: float, size: int) -> int:
    return max(1, math.ceil(share * size - 1e-9)) if size else 0


def _only(flat: Array, places: Array, shape: tuple[int, ...]) -> Array:
    return jnp.zeros_like(flat).at[places].set(flat[places]).reshape(shape)


@checks.by_hints()
def top_k(share: _Some = 0.01) -> Compressor:
    """The largest numbers of a leaf, zeros elsewhere: `ceil(share d)` of d, each with its place in 32 bits.

    Never more than the whole leaf. Source: Stich et al., "Sparsified SGD with Memory", NeurIPS 2018.

    Args:
      share: in (0, 1], static.

    >>> top_k(0.5).through(jnp.array([1.0, -3.0, 2.0, 0.5]), None).tolist()
    [0.0, -3.0, 2.0, 0.0]
    """

    def through(leaf: Array, key: Array) -> Array:
        flat = leaf.reshape(-1)
        return _only(flat, jax.lax.top_k(jnp.abs(flat), _entries(share, leaf.size))[1], leaf.shape)

    return Compressor(through, lambda size, width: min(_entries(share, size) * (width + 32), size * width))


@checks.by_hints()
def random_k(share: _Some = 0.01) -> Compressor:
    """`ceil(share d)` of a leaf's d numbers at random, zeros elsewhere; the places follow from a seed of 32 bits.

    Source: Stich et al., NeurIPS 2018.

    Args:
      share: in (0, 1], static.

    >>> int(jnp.sum(random_k(0.5).through(jnp.ones(6), jax.random.key(0))))
    3
    """

    def through(leaf: Array, key: Array) -> Array:
        places = jax.random.permutation(key, leaf.size)[: _entries(share, leaf.size)]
        return _only(leaf.reshape(-1), places, leaf.shape)

    return Compressor(through, lambda size, width: _entries(share, size) * width + 32)


@checks.by_hints()
def sign() -> Compressor:
    """The signs of a leaf times the mean of its absolute values: one bit for each number, and one number.

    Source: Karimireddy et al., ICML 2019, section 4.

    >>> sign().through(jnp.array([1.0, -3.0]), None).tolist()
    [2.0, -2.0]
    """

    def through(leaf: Array, key: Array) -> Array:
        return jnp.where(leaf >= 0, 1, -1).astype(leaf.dtype) * jnp.mean(jnp.abs(leaf))

    return Compressor(through, lambda size, width: size + width)


@checks.by_hints()
def quantized(bits: Annotated[int, Bounds(least=2, most=16)] = 8) -> Compressor:
    """QSGD: each number rounded at random to one of s levels of the leaf's norm, `s = 2^(bits - 1) - 1`.

    `||u|| sign(u_j) l / s`, with l one of the two whole numbers around `s |u_j| / ||u||`, so that its mean is u. The
    sign and l take `bits`, and the norm is a number of its own. Its errors do not contract: there is no feedback.

    Args:
      bits: of each number, from 2 to 16, static.

    Source: Alistarh et al., "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding", NeurIPS 2017,
    section 3.1.

    >>> quantized(2).through(jnp.array([0.0, -3.0]), jax.random.key(0)).tolist()
    [0.0, -3.0]
    """
    levels = 2 ** (bits - 1) - 1

    def through(leaf: Array, key: Array) -> Array:
        norm = jnp.linalg.norm(leaf.reshape(-1))
        exact = jnp.abs(leaf) * levels / jnp.where(norm > 0, norm, 1)
        level = jnp.floor(exact + jax.random.uniform(key, leaf.shape, leaf.dtype))
        return jnp.sign(leaf) * level * norm / levels

    return Compressor(through, lambda size, width: size * bits + width, contracts=False)
