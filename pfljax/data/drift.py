"""Drift: clients whose examples, to train on, to validate and to test, are others from some round on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from pfljax import checks
from pfljax.checks import Count, Part, Seed, Share, Size
from pfljax.data import door
from pfljax.data.federated import FOREVER, SPLITS, Drift, FederatedData, digest, followed, places
from pfljax.printing import brief
from pfljax.types import Examples, Rows


def drifting(
    concepts: Sequence[FederatedData],
    changes: Sequence[int],
    *,
    gradual: int = 0,
    recurring: bool = False,
    delays: Sequence[int] | np.ndarray | None = None,
) -> FederatedData:
    """One federation whose clients hold other examples as rounds go by, in all three splits.

    The first concept holds from round 0 on, the next one from `changes[0]` on, and so forth. With `gradual`, g rounds
    come before each new concept: in the m-th of them a client has lost the first `m / (g + 1)` of its examples of the
    old concept, and has as large a part of those of the new one. Unseen clients drift as well.

    Args:
      concepts: federations of the same clients, such as `data` and `rotated(data, 1)`, or what `in_time` makes.
      changes: the rounds, counted from 0, in which the next concept begins, or begins to come in.
      gradual: g; 0 is a sudden change.
      recurring: the last change is back to the first concept, and then all comes again.
      delays: rounds by which each of the N + U clients is late, such as `delayed` draws; None: nobody is.

    Returns:
      The federation, with a copy of all concepts; `data.at(round)` is what it is in a round. Traits and public examples
      are those of the first concept.

    Raises:
      ValueError: if the concepts are not of the same clients, or the changes do not fit them.

    >>> from pfljax.data import from_clients
    >>> first, then = from_clients([([[1.0], [2.0]], [0, 1])]), from_clients([([[3.0], [4.0]], [1, 0])])
    >>> data = drifting([first, then], changes=[5], gradual=1)
    >>> [data.examples.x[int(now.train.start[0]) :][:2, 0].tolist() for now in map(data.at, (4, 5, 6))]
    [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]
    """
    first = _same_clients(concepts)
    rounds = begins(changes, len(concepts), gradual=gradual, recurring=recurring)
    held = [*concepts, first] if recurring and gradual else list(concepts)
    size, start = (
        np.stack([[np.asarray(getattr(each, split)[part]) for split in SPLITS] for each in held], axis=-1)
        for part in (1, 0)
    )  # [3, N + U, concepts]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(each.examples for each in held))
    before = np.cumsum([0, *(len(each.examples.y) for each in held[:-1])])
    order = places(start + before, size)
    shown = [] if first.public is None else [places(*first.public)]
    examples = jax.tree.map(lambda leaf: leaf[np.concatenate([order, *shown])], joined)
    segments = _windows(size, gradual, len(rounds) - recurring)
    period = rounds.pop() if recurring else FOREVER
    late = _late(first, delays)
    drift = Drift(*segments, starts=np.array(rounds, np.int32), delays=late, period=np.asarray(period, np.int32))
    now = {split: Rows(of.start[0], of.size[0]) for split, of in zip(SPLITS, segments, strict=True)}
    public = None if first.public is None else Rows(np.int32(len(order)), np.asarray(first.public.size))
    name, fingerprint = f"{first.name} (drifting)", digest(f"drift {jax.tree.structure(drift)}", (examples, drift))
    made = replace(first, **now, examples=examples, public=public, drift=drift, name=name, fingerprint=fingerprint)
    return replace(made, capacity=made.most())


def begins(changes: Sequence[int], concepts: int, *, gradual: int = 0, recurring: bool = False) -> list[int]:
    """The rounds in which the segments of `drifting` begin; if it is recurring, the last is that of the first again.

    Raises:
      ValueError: if the changes do not fit the concepts, or each other.

    >>> begins([10, 20], concepts=3, gradual=2)
    [0, 10, 11, 12, 20, 21, 22]
    """
    checks.each(Size, gradual=gradual)
    checks.each(bool, recurring=recurring)
    checks.each(tuple[Count, ...], changes=changes)
    if concepts < 2:
        raise ValueError(f"{concepts} concept is no drift: give at least 2, such as [data, rotated(data, 1)]")
    wanted = concepts if recurring else concepts - 1
    if len(changes) != wanted:
        raise ValueError(
            f"changes={list(changes)} of {concepts} concepts: give {wanted}, the round in which each concept after the "
            f"first begins{', and the first again' * recurring}"
        )
    rounds = [0, *(int(change) + m for change in changes for m in range(gradual + 1))]
    if sorted(set(rounds)) != rounds:
        raise ValueError(
            f"changes={list(changes)} with gradual={gradual}: each must be later than {gradual} rounds after the one "
            "before"
        )
    return rounds


def _windows(size: np.ndarray, gradual: int, segments: int) -> list[Rows]:
    """What each client holds in each segment, leaves [segments, N + U] for each split.

    The concepts of a client lie one after the other, and a window slides over them.
    """
    begin = (np.cumsum(size) - size.ravel()).reshape(size.shape)
    end = begin[..., -1:] + size[..., -1:]
    parts = np.arange(gradual + 1) / (gradual + 1)
    moved = np.rint(np.append(size, np.zeros_like(end), axis=-1)[..., None] * parts)
    cuts = np.append(begin, end, axis=-1)[..., None] + moved.astype(int)  # [3, N + U, concepts + 1, g + 1]
    first, last = (part.reshape(*size.shape[:2], -1)[..., :segments] for part in (cuts[..., :-1, :], cuts[..., 1:, :]))
    rows = (np.moveaxis(part, -1, 1).astype(np.int32) for part in (first, last - first))
    return [Rows(*pair) for pair in zip(*rows, strict=True)]


def _late(data: FederatedData, delays: Any) -> np.ndarray:
    """Rounds by which each client is late, checked."""
    clients = data.num_clients + data.num_unseen
    if delays is None:
        return np.zeros(clients, np.int32)
    late = door.array(delays, "delays")
    if late.shape != (clients,) or late.dtype.kind not in "iu" or late.min() < 0 or late.max() > FOREVER:
        raise ValueError(f"delays={brief(late)}: give one whole number of at least 0 for each of {clients} clients")
    return late.astype(np.int32)


def _same_clients(concepts: Any) -> FederatedData:
    """The first concept; the others must be of the same clients, and of examples of the same kind."""
    if not isinstance(concepts, Sequence) or not all(isinstance(each, FederatedData) for each in concepts):
        raise ValueError(f"concepts={brief(concepts)}: give a list of federations of the same clients")
    if not concepts:
        raise ValueError("concepts=[]: give at least 2 federations of the same clients")
    first = concepts[0]
    for number, each in enumerate(concepts):
        if each.drift is not None:
            raise ValueError(f"concept {number} drifts already: give all concepts at once")
        for what in ("num_clients", "num_unseen", "names", "num_classes", "class_names", "ignore"):
            mine, theirs = getattr(each, what), getattr(first, what)
            if mine != theirs:
                raise ValueError(
                    f"concept {number} has {what}={brief(mine)}, and the first has {brief(theirs)}: give the same "
                    "clients, with labels of the same kind"
                )
        door.same_rows(tuple(each.examples), tuple(first.examples), f"concept {number}", "the first")
    return first


def delayed(data: FederatedData, *, share: float = 1.0, spread: int = 0, seed: int = 0) -> np.ndarray:
    """[N + U] rounds by which each client is late in a drift, at random.

    Args:
      data: whose clients.
      share: of the clients that drift at all; the others are late by more rounds than any run has.
      spread: a client is late by 0 to `spread` rounds, each as likely.
      seed: of both.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[0.0]], [0])] * 4)
    >>> sorted((delayed(data, share=0.5) > 0).tolist())
    [False, False, True, True]
    """
    checks.each(Share, share=share)
    checks.each(Size, spread=spread)
    checks.each(Seed, seed=seed)
    clients, draw = data.num_clients + data.num_unseen, np.random.Generator(np.random.PCG64([seed, 1]))
    late = draw.integers(0, spread, clients, endpoint=True)
    late[draw.permutation(clients)[round(share * clients) :]] = FOREVER
    return late.astype(np.int32)


def transformed(data: FederatedData, change: Callable[[Examples], Examples]) -> FederatedData:
    """The same clients whose examples, all packed [T, ...] in NumPy, became others; public examples stay.

    Raises:
      ValueError: if the number of rows, their shapes or dtypes do not stay, or a label is no class of the data.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[1.0]], [0]), ([[2.0]], [1])])
    >>> transformed(data, lambda examples: examples._replace(x=-examples.x)).examples.x.ravel().tolist()
    [-1.0, -2.0]
    """
    own = jax.tree.map(np.asarray, data.examples)
    made: Any = change(own)
    if not isinstance(made, Examples):
        raise ValueError(f"the change made {brief(made)} of the examples of {data.name}: return Examples(x, y)")
    made = jax.tree.map(np.asarray, made)
    door.same_rows(tuple(made), tuple(own), f"what became of {data.name}", "what was")
    if len({len(leaf) for leaf in jax.tree.leaves((made, own))}) > 1:
        raise ValueError(f"the change of {data.name} made {len(made.y)} examples of {len(own.y)}: keep their number")
    door.check_inputs(made.x, data.name)
    door.check_labels(made.y, data.name, data.num_classes, data.ignore)
    if data.public is not None:
        shown = np.arange(len(own.y)) >= int(data.public.start)
        made = jax.tree.map(lambda new, old: np.where(shown.reshape(-1, *[1] * (old.ndim - 1)), old, new), made, own)
    return replace(data, examples=made, fingerprint=followed(data.fingerprint, "transformed", made))


def relabeled(data: FederatedData, classes: Sequence[int] | np.ndarray) -> FederatedData:
    """The same clients, who call class c `classes[c]`: the concept that no model of the old one knows.

    Raises:
      ValueError: if that is not one of the C classes for each.

    >>> from pfljax.data import from_clients
    >>> relabeled(from_clients([([[1.0]] * 3, [0, 1, 2])]), [1, 2, 0]).examples.y.tolist()
    [1, 2, 0]
    """
    if data.num_classes is None:
        raise ValueError(f"{data.name} has no classes to relabel: its targets are real numbers")
    table = door.array(classes, "classes")
    whole = table.shape == (data.num_classes,) and table.dtype.kind in "iu"
    if not whole or table.min() < 0 or table.max() >= data.num_classes:
        last = data.num_classes - 1
        raise ValueError(f"classes={brief(classes)}: give a class from 0 to {last} for each of {data.num_classes}")

    def change(examples: Examples) -> Examples:
        y = np.asarray(examples.y)
        counts = np.ones(y.shape, bool) if data.ignore is None else y != data.ignore
        new: Any = np.where(counts, table[np.where(counts, y, 0)], y).astype(y.dtype)
        return examples._replace(y=new)

    return transformed(data, change)


def rotated(data: FederatedData, turns: int) -> FederatedData:
    """The same clients, whose images are turned by so many quarters.

    Raises:
      ValueError: if the inputs are no square images [T, side, side, ...].

    >>> from pfljax.data import from_clients
    >>> rotated(from_clients([([[[1, 2], [3, 4]]], [0])]), 1).examples.x.tolist()
    [[[2, 4], [1, 3]]]
    """
    checks.each(int, turns=turns)
    x = data.examples.x
    if not hasattr(x, "shape") or x.ndim < 3 or x.shape[1] != x.shape[2]:
        raise ValueError(f"the inputs of {data.name} are {brief(x)}: only square images [T, side, side, ...] can turn")

    def change(examples: Examples) -> Examples:
        turned: Any = np.rot90(np.asarray(examples.x), turns, axes=(1, 2))
        return examples._replace(x=np.ascontiguousarray(turned))

    return transformed(data, change)


def in_time(data: FederatedData, parts: int, *, validation: float = 0.0) -> list[FederatedData]:
    """The clients at several times: what each trains on, in its order, is cut into so many parts of one size.

    At one time a client trains on a part and is tested on the next; at the last one on its test examples, which come
    after all if the data were dealt with `chronological=True`.

    Args:
      data: a federation without validation examples.
      parts: how many.
      validation: share of a part, its last examples, that validates.

    Raises:
      ValueError: if there are validation examples, or less than 2 parts.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[1.0], [2.0], [3.0], [4.0]], [0] * 4)], [([[5.0]], [0])])
    >>> [(int(now.train.start[0]), int(now.test.start[0])) for now in in_time(data, 2)]
    [(0, 2), (2, 4)]
    """
    checks.each(Count, parts=parts)
    checks.each(Part, validation=validation)
    if parts < 2:
        raise ValueError(f"parts={parts}: give at least 2")
    if data.most("validation"):
        raise ValueError(f"{data.name} has validation examples: deal it without, and give in_time their share")
    start, size = (np.asarray(leaf, np.int32) for leaf in data.train)
    cuts = [start + size * part // parts for part in range(parts + 1)]
    made = []
    for number in range(parts):
        part = Rows(cuts[number], cuts[number + 1] - cuts[number])
        kept = part.size - (part.size * validation).astype(np.int32)
        last = number == parts - 1
        rows = {
            "train": Rows(part.start, kept),
            "validation": Rows(part.start + kept, part.size - kept),
            "test": data.test if last else Rows(cuts[number + 1], cuts[number + 2] - cuts[number + 1]),
        }
        fingerprint = followed(data.fingerprint, "in time", rows)
        made.append(replace(data, **rows, capacity=int(kept.max()), fingerprint=fingerprint))
    return made
