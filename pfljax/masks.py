"""Masks: which leaves of a model are meant. A mask maps `Params` to the same tree of Python bools.

A leaf is named by its path without the collection, so that a norm layer's scale, its shift and its running
statistics all carry that layer's name: a mask says what happens to the statistics too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax import checks
from pfljax.types import Mask, Model, Params, Tree


def _paths(tree: object) -> object:
    def name(path: tuple[object, ...], _leaf: object) -> str:
        return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)

    return jax.tree_util.tree_map_with_path(name, tree)


def everything(params: Params) -> Params:
    """All leaves.

    >>> everything(Params({"a": 0.0}, {"mean": 0.0}))
    Params(trainable={'a': True}, stats={'mean': True})
    """
    return jax.tree.map(lambda _: True, params)


def nothing(params: Params) -> Params:
    """No leaf.

    >>> nothing(Params({"a": 0.0}, {"mean": 0.0}))
    Params(trainable={'a': False}, stats={'mean': False})
    """
    return jax.tree.map(lambda _: False, params)


def stats(params: Params) -> Params:
    """Running statistics only.

    >>> stats(Params({"a": 0.0}, {"mean": 0.0}))
    Params(trainable={'a': False}, stats={'mean': True})
    """
    return Params(nothing(params.trainable), everything(params.stats))


def trained(upload: Tree) -> Tree:
    """Of an upload, which may hold models and more: floating leaves that are no running statistics.

    >>> trained((jnp.zeros((), int), Params({"a": jnp.zeros(2)}, {"mean": jnp.zeros(2)})))
    (False, Params(trainable={'a': True}, stats={'mean': False}))
    """

    def floats(part: Tree) -> Tree:
        return jax.tree.map(lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating), part)

    def part(content: Tree) -> Tree:
        if isinstance(content, Params):
            return Params(floats(content.trainable), nothing(content.stats))
        return floats(content)

    return jax.tree.map(part, upload, is_leaf=lambda content: isinstance(content, Params))


def negate(mask: Mask) -> Mask:
    """The complement of `mask`.

    >>> negate(stats)(Params({"a": 0.0}, {"mean": 0.0}))
    Params(trainable={'a': True}, stats={'mean': False})
    """
    return lambda params: jax.tree.map(lambda m: not m, mask(params))


def union(*masks: Mask) -> Mask:
    """Leaves in any of `masks`.

    >>> union(named("a"), named("b"))(Params({"a": 0.0, "b": 0.0, "c": 0.0})).trainable
    {'a': True, 'b': True, 'c': False}
    """
    return lambda params: jax.tree.map(lambda *m: any(m), *(mask(params) for mask in masks))


def intersection(*masks: Mask) -> Mask:
    """Leaves in all of `masks`.

    >>> intersection(named("a"), negate(stats))(Params({"a": 0.0, "b": 0.0}, {"a": 0.0}))
    Params(trainable={'a': True, 'b': False}, stats={'a': False})
    """
    return lambda params: jax.tree.map(lambda *m: all(m), *(mask(params) for mask in masks))


def named(*prefixes: str) -> Mask:
    """Leaves below a module path, such as `"Dense_1"` or `"Block_0/Conv_0"`.

    Raises:
      ValueError: when traced on a tree where a prefix names nothing; the message lists the paths there are.

    >>> named("Dense_1")(Params({"Dense_1": {"kernel": 0.0}, "Dense_10": {"kernel": 0.0}})).trainable
    {'Dense_1': {'kernel': True}, 'Dense_10': {'kernel': False}}
    """

    def below(path: str, prefix: str) -> bool:
        return path == prefix or path.startswith(prefix + "/")

    def mask(params: Params) -> Params:
        paths = _paths(params.trainable), _paths(params.stats)
        known = jax.tree.leaves(paths)
        for prefix in prefixes:
            if not any(below(path, prefix) for path in known):
                raise ValueError(f"no parameter below {prefix!r}; there are {sorted(set(known))}")
        return Params(*jax.tree.map(lambda path: any(below(path, prefix) for prefix in prefixes), paths))

    return mask


def head(model: Model, blocks: int = 1) -> Mask:
    """The last `blocks` basic blocks of `model`, the classifier included: FedPer's K_P.

    Raises:
      ValueError: if the model has fewer blocks.

    >>> model = Model(lambda key: Params({"body": 0.0, "top": 0.0}), None, lambda params, x: (x, {}), ("body", "top"))
    >>> head(model)(model.init(jax.random.key(0))).trainable
    {'body': False, 'top': True}
    """
    checks.each(Model, model=model)
    checks.each(checks.Size, blocks=blocks)
    if not 0 <= blocks <= len(model.blocks):
        raise ValueError(f"{blocks} personal blocks asked for, but the model has {len(model.blocks)}: {model.blocks}")
    return named(*model.blocks[len(model.blocks) - blocks :])


def norms(model: Model, *, affine: bool = True, stats: bool = True) -> Mask:
    """The normalisation layers of `model`: their scale and shift (`affine`), their running statistics (`stats`).

    >>> init = lambda key: Params({"n": 0.0, "w": 0.0}, {"n": 0.0})
    >>> model = Model(init, None, lambda params, x: (x, {}), norms=("n",))
    >>> norms(model, affine=False)(model.init(jax.random.key(0)))
    Params(trainable={'n': False, 'w': False}, stats={'n': True})
    """
    layers = named(*model.norms)

    def mask(params: Params) -> Params:
        chosen = layers(params)
        return Params(
            chosen.trainable if affine else nothing(params.trainable),
            chosen.stats if stats else nothing(params.stats),
        )

    return mask
