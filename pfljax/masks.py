"""Masks: which leaves of a model are meant. A mask maps `Params` to the same tree of Python bools.

A leaf is named by its path without the collection, so that a norm layer's scale, its shift and its running
statistics all carry that layer's name: a mask says what happens to the statistics too.
"""

from __future__ import annotations

import jax

from pfljax.types import Mask, Model, Params


def _paths(tree: object) -> object:
    def name(path: tuple[object, ...], _leaf: object) -> str:
        return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)

    return jax.tree_util.tree_map_with_path(name, tree)


def everything(params: Params) -> Params:
    """All leaves."""
    return jax.tree.map(lambda _: True, params)


def nothing(params: Params) -> Params:
    """No leaf."""
    return jax.tree.map(lambda _: False, params)


def stats(params: Params) -> Params:
    """Running statistics only."""
    return Params(nothing(params.trainable), everything(params.stats))


def negate(mask: Mask) -> Mask:
    """The complement of `mask`."""
    return lambda params: jax.tree.map(lambda m: not m, mask(params))


def union(*masks: Mask) -> Mask:
    """Leaves in any of `masks`."""
    return lambda params: jax.tree.map(lambda *m: any(m), *(mask(params) for mask in masks))


def intersection(*masks: Mask) -> Mask:
    """Leaves in all of `masks`."""
    return lambda params: jax.tree.map(lambda *m: all(m), *(mask(params) for mask in masks))


def named(*prefixes: str) -> Mask:
    """Leaves below a module path, such as `"Dense_1"` or `"Block_0/Conv_0"`.

    Raises:
      ValueError: when traced on a tree where a prefix names nothing; the message lists the paths there are.
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
    """
    if not 0 <= blocks <= len(model.blocks):
        raise ValueError(f"{blocks} personal blocks asked for, but the model has {len(model.blocks)}: {model.blocks}")
    return named(*model.blocks[len(model.blocks) - blocks :])


def norms(model: Model, *, affine: bool = True, stats: bool = True) -> Mask:
    """The normalisation layers of `model`: their scale and shift (`affine`), their running statistics (`stats`)."""
    layers = named(*model.norms)

    def mask(params: Params) -> Params:
        chosen = layers(params)
        return Params(
            chosen.trainable if affine else nothing(params.trainable),
            chosen.stats if stats else nothing(params.stats),
        )

    return mask
