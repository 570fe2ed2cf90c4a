"""Models of several parts that one solver trains, and the part that is the head."""

from __future__ import annotations

from collections.abc import Callable

import jax

from pfljax import masks, tree
from pfljax.types import Model, Params


def joined(**parts: Params) -> Params:
    """Several models as one, each below its name.

    >>> joined(generic=Params({"w": 1.0}), personal=Params({"w": 2.0}))
    Params(trainable={'generic': {'w': 1.0}, 'personal': {'w': 2.0}}, stats={'generic': {}, 'personal': {}})
    """
    return Params(*({name: part[half] for name, part in parts.items()} for half in range(2)))


def parted(whole: Params, *names: str) -> tuple[Params, ...]:
    """The models of `joined` by their names.

    >>> parted(joined(generic=Params({"w": 1.0}), personal=Params({"w": 2.0})), "personal")
    (Params(trainable={'w': 2.0}, stats={}),)
    """
    return tuple(Params(whole.trainable[name], whole.stats[name]) for name in names)


def head(model: Model) -> Callable[[Params], Params]:
    """What gives the leaves of the head of `model`, None in place of the others.

    >>> model = Model(lambda key: Params({"body": 0.0, "top": 1.0}), None, lambda params, x: (x, {}), ("body", "top"))
    >>> head(model)(model.init(None)).trainable
    {'body': None, 'top': 1.0}
    """
    top = masks.head(model)
    return lambda w: tree.split(top(w), w)[0]


def below(body: Params, does: str) -> Params:
    """`body`, if the head leaves any of the network to it.

    Args:
      body: what is not the head.
      does: the method and what it does with the body, for the error.

    Raises:
      ValueError: if nothing is.

    >>> below(Params({"top": None}), "hcfl groups clients by their bodies")
    Traceback (most recent call last):
    ValueError: hcfl groups clients by their bodies, and all of this network is its head: take one with hidden layers
    """
    if not jax.tree.leaves(body.trainable):
        raise ValueError(f"{does}, and all of this network is its head: take one with hidden layers")
    return body
