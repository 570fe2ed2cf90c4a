"""How values print themselves: one line without arrays, or what rich draws, as text and as HTML in notebooks."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from rich.console import Console
from rich.jupyter import JupyterMixin

Kind = TypeVar("Kind")

_FEW = 12  # leaves of a tree that are listed one by one


class Shown(JupyterMixin):
    """What prints itself as rich draws it: in terminals, as text, and as HTML in notebooks."""

    def __repr__(self) -> str:
        console = Console(file=io.StringIO(), color_system=None, force_terminal=False, force_jupyter=False)
        with console.capture() as text:
            console.print(self)
        return "\n".join(line.rstrip() for line in text.get().rstrip().split("\n"))

    def _repr_html_(self) -> str:
        return self._repr_mimebundle_((), ())["text/html"]  # pyright: ignore[reportAttributeAccessIssue]


def in_brief(kind: type[Kind]) -> type[Kind]:
    """Lets the values of a class print themselves as `brief` has it."""
    kind.__repr__ = brief  # pyright: ignore[reportAttributeAccessIssue]
    return kind


def brief(value: Any) -> str:
    """A value in one line: shapes of arrays, makers of functions, numbers and texts as they are.

    >>> import collections, jax.numpy as jnp
    >>> brief({"w": jnp.zeros((8, 2)), "step": 3, "solve": functools.partial(max)})
    "{'w': float32[8,2], 'step': 3, 'solve': max}"
    """
    if isinstance(value, np.generic | type):
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    if hasattr(value, "_fields"):
        fields = zip(value._fields, value, strict=True)
        return f"{type(value).__name__.lstrip('_')}({', '.join(f'{name}={brief(field)}' for name, field in fields)})"
    if isinstance(value, Mapping | list | tuple):
        return _listed(value)
    if isinstance(value, functools.partial):
        return brief(value.func)
    maker = getattr(value, "__qualname__", None) if callable(value) else None
    return repr(value) if maker is None else maker.split(".")[0].lstrip("_")


def _listed(values: Mapping | list | tuple) -> str:
    leaves = jax.tree.leaves(values)
    if len(leaves) > _FEW:
        return f"<{len(leaves)} leaves, {sum(np.size(leaf) for leaf in leaves):,} numbers>"
    if isinstance(values, Mapping):
        return "{" + ", ".join(f"{name!r}: {brief(value)}" for name, value in values.items()) + "}"
    inside = ", ".join(map(brief, values))
    if isinstance(values, list):
        return f"[{inside}]"
    return f"({inside},)" if len(values) == 1 else f"({inside})"
