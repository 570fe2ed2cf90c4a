"""Heterogeneity on purpose: what a client sees, or what it calls it, is changed by a level of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pfljax import checks
from pfljax.checks import NotNegative, Seed, Share, Size
from pfljax.data.drift import transformed
from pfljax.data.federated import SPLITS, FederatedData
from pfljax.data.groups import truth
from pfljax.printing import brief
from pfljax.types import Examples

Spread = Literal["turns", "blocks", "random", "ramp", "each", "group"]
"""Who has which level, see `shifted`."""

_ASSIGNED, _DRAWN, _PERMUTED = range(3)


class Shift(NamedTuple):
    """A kind of heterogeneity."""

    change: Callable[..., Any]  # (values, level, draw, classes) -> values of one client
    labels: bool = False  # whether it changes labels, not inputs
    tests: bool = True  # whether test examples change too
    level: Any = float  # what levels may be


def shifted(
    data: FederatedData,
    kind: str,
    levels: Sequence[float] | np.ndarray,
    *,
    spread: Spread = "turns",
    seed: int = 0,
) -> FederatedData:
    """The same clients, whose inputs or labels are changed: feature skew, concept shift, noise.

    Kinds and their levels; level 0 changes nothing, except that a contrast of 1 does not:
      rotation: of images, in degrees, as `np.rot90` turns; quarters are exact, others interpolate linearly.
      blur: of images, by a Gaussian of so many pixels.
      colour: of images with three channels, the hue turned by so many degrees; 120 permutes the channels.
      brightness, contrast: `x + level`, and `level` times the distance from the middle.
      noise: `x + level z`, z standard normal.
      pixels: the places of the inputs, permuted: level 1 is one permutation, 2 another.
      permutation: the names of the classes, permuted alike.
      roll: class c is called `(c + level) mod C`.
      swap: the classes 0 and 1 change names at level 1, 2 and 3 at level 2, and so forth.
      label_noise: such a share of a client's training and validation labels is another class, drawn evenly.

    Bytes count as 255ths: a brightness of 0.1 adds 25.5 to them; they are rounded and stay in 0..255.

    Who has which level:
      turns, blocks, random: K levels make K groups, in turn, of neighbours, or in turn in random order; the trait
        `group` says who is in which, the truth that clusters are compared to.
      group: K levels for the groups that the trait `group` tells already.
      ramp: two levels, of the first client and of the last; between them it grows evenly.
      each: one level for each of the N + U clients.

    Args:
      data: a federation that does not drift; unseen clients are shifted too, public examples are not.
      kind: see above.
      levels: see above.
      spread: see above.
      seed: of what is random.

    Raises:
      ValueError: if the kind does not fit the examples, or the levels do not fit kind or clients.

    >>> from pfljax.data import from_clients
    >>> data = from_clients([([[1.0]] * 3, [0, 1, 2])] * 3)
    >>> data = shifted(data, "swap", [0, 1])
    >>> data.examples.y.tolist(), data.traits["group"].tolist()
    ([0, 1, 2, 1, 0, 2, 0, 1, 2], [0, 1, 0])
    """
    found = checked(kind, levels)
    shift = SHIFTS[kind]
    checks.each(Spread, spread=spread)
    checks.each(Seed, seed=seed)
    if data.drift is not None:
        raise ValueError(f"{data.name} drifts: shift its concepts, and let them drift then")
    level, group = _levels(data, found, spread, seed)
    _check(data, kind, shift)

    def change(examples: Examples) -> Examples:
        values: Any = np.array(examples.y if shift.labels else examples.x)
        for client, mine in enumerate(level):
            draw = _stream(seed, _DRAWN, client)
            for split in SPLITS if shift.tests else SPLITS[:2]:
                rows = getattr(data, split)
                own = slice(start := int(rows.start[client]), start + int(rows.size[client]))
                if own.stop > own.start:
                    values[own] = shift.change(values[own], mine, draw, _Fixed(seed, data.num_classes, data.ignore))
        return examples._replace(y=values) if shift.labels else examples._replace(x=values)

    made = transformed(data, change)
    return made if group is None else made.with_traits({**_named(data), "group": group})


def checked(kind: str, levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """The levels of a kind; whole numbers may come as floats.

    Raises:
      ValueError: if there is no such kind, or a level is none of its own.

    >>> checked("roll", [0.0, 3.0])
    array([0, 3])
    """
    hint, found = SHIFTS[checks.choice(kind, SHIFTS, "kind")].level, np.asarray(levels)
    if hint is Size and found.dtype.kind == "f" and (found == np.rint(found)).all():
        found = found.astype(int)
    checks.each(tuple[hint, ...], levels=tuple(found.tolist()))
    return found


class _Fixed(NamedTuple):
    """What all clients have in common."""

    seed: int
    classes: int | None
    ignore: int | None

    def permutation(self, number: int, length: int) -> np.ndarray:
        """Permutation `number` of so many; 0 leaves all in place."""
        return _stream(self.seed, _PERMUTED, number).permutation(length) if number else np.arange(length)


def _stream(seed: int, *path: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, 7, *path]))


def _named(data: FederatedData) -> dict[str, Any]:
    return data.traits if isinstance(data.traits, dict) else {"context": data.traits} if np.size(data.traits) else {}


def _levels(
    data: FederatedData, levels: np.ndarray, spread: Spread, seed: int
) -> tuple[list[float], np.ndarray | None]:
    """The level of each client [N + U], and its group where there are new ones."""
    clients, known = data.num_clients + data.num_unseen, truth(data)
    if spread == "each":
        if len(levels) != clients:
            raise ValueError(f"levels={brief(levels)}: spread='each' needs one for each of {clients} clients")
        return levels.tolist(), None
    if spread == "ramp":
        if len(levels) != 2:
            raise ValueError(f"levels={brief(levels)}: spread='ramp' needs that of the first client and of the last")
        return np.linspace(levels[0], levels[1], clients).tolist(), None
    if spread == "group":
        if known is None or known.min() < 0 or known.max() >= len(levels):
            raise ValueError(
                f"levels={brief(levels)}: spread='group' needs the trait 'group' of {data.name}, and a level for each "
                "group from 0 on"
            )
        return levels[known].tolist(), None
    if known is not None:
        raise ValueError(f"clients of {data.name} are in groups already: set spread='group', 'each' or 'ramp'")
    if not 0 < len(levels) <= clients:
        raise ValueError(f"levels={brief(levels)} of {clients} clients: give one for each group, at most {clients}")
    place = np.arange(clients)
    if spread == "random":
        place = _stream(seed, _ASSIGNED).permutation(clients)
    group = place * len(levels) // clients if spread == "blocks" else place % len(levels)
    return levels[group].tolist(), group


def _check(data: FederatedData, kind: str, shift: Shift) -> None:
    if shift.labels:
        if data.num_classes is None:
            raise ValueError(f"{kind} changes the names of classes, and the targets of {data.name} are real numbers: "
                             "choose a kind that changes inputs")  # fmt: skip
        return
    x = data.examples.x
    channels = {"rotation": None, "blur": None, "colour": 3}.get(kind, 0)
    image = hasattr(x, "ndim") and x.ndim == 4 and channels in (None, x.shape[-1])
    number = hasattr(x, "dtype") and (x.dtype == np.uint8 or x.dtype.kind == "f")
    if kind == "pixels" and hasattr(x, "dtype") and x.ndim > 1:
        return
    if not number or (channels != 0 and not image):
        needs = "images [T, height, width, 3]" if channels == 3 else "images [T, height, width, channels]"
        raise ValueError(
            f"the inputs of {data.name} are {brief(x)}, and {kind} changes {'numbers' if channels == 0 else needs}: "
            "choose noise, pixels, or a kind that changes labels"
        )


def _measured(change: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """`change` of numbers, in which bytes are 255ths."""

    def in_bytes(x: np.ndarray, level: float, draw: np.random.Generator, fixed: _Fixed) -> np.ndarray:
        if x.dtype != np.uint8:
            return change(x, level, draw).astype(x.dtype)
        return np.clip(np.rint(255 * change(x / 255, level, draw)), 0, 255).astype(np.uint8)

    return in_bytes


def _rotation(x: np.ndarray, level: float, draw: Any, fixed: Any) -> np.ndarray:
    from scipy import ndimage

    if level % 90 == 0 and (x.shape[1] == x.shape[2] or level % 180 == 0):
        return np.rot90(x, int(level // 90), axes=(1, 2))
    return ndimage.rotate(x, level, axes=(1, 2), reshape=False, order=1, mode="nearest")


def _blur(x: np.ndarray, level: float, draw: Any) -> np.ndarray:
    from scipy import ndimage

    return ndimage.gaussian_filter(x, level, axes=(1, 2), mode="nearest")


def _colour(x: np.ndarray, level: float, draw: Any) -> np.ndarray:
    """Red, green and blue turned around grey."""
    from scipy.spatial.transform import Rotation

    grey = np.ones(3) / np.sqrt(3)
    return x @ Rotation.from_rotvec(np.deg2rad(level) * grey).as_matrix().T


def _noise(x: np.ndarray, level: float, draw: np.random.Generator) -> np.ndarray:
    return x + level * draw.standard_normal(x.shape)


def _pixels(x: np.ndarray, level: int, draw: Any, fixed: _Fixed) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return flat[:, fixed.permutation(level, flat.shape[1])].reshape(x.shape)


def _renamed(names: Callable[[int, _Fixed], np.ndarray]) -> Callable[..., np.ndarray]:
    """Labels under the names that a level gives the classes; labels that do not count keep theirs."""

    def change(y: np.ndarray, level: int, draw: Any, fixed: _Fixed) -> np.ndarray:
        counts = np.ones(y.shape, bool) if fixed.ignore is None else y != fixed.ignore
        return np.where(counts, names(level, fixed)[np.where(counts, y, 0)], y)

    return change


def _swapped(level: int, fixed: _Fixed) -> np.ndarray:
    names, first = np.arange(fixed.classes or 0), 2 * (level - 1)
    if level and first + 1 >= len(names):
        raise ValueError(f"levels with {level}: {len(names)} classes are {len(names) // 2} pairs, give at most as much")
    if level:
        names[[first, first + 1]] = names[[first + 1, first]]
    return names


def _label_noise(y: np.ndarray, level: float, draw: np.random.Generator, fixed: _Fixed) -> np.ndarray:
    classes = fixed.classes or 0
    wrong = draw.random(y.shape) < level
    if fixed.ignore is not None:
        wrong &= y != fixed.ignore
    return np.where(wrong, (y + draw.integers(1, max(classes, 2), y.shape)) % classes, y)


SHIFTS: dict[str, Shift] = {
    "rotation": Shift(_rotation),
    "blur": Shift(_measured(_blur), level=NotNegative),
    "colour": Shift(_measured(_colour)),
    "brightness": Shift(_measured(lambda x, level, draw: x + level)),
    "contrast": Shift(_measured(lambda x, level, draw: 0.5 + level * (x - 0.5)), level=NotNegative),
    "noise": Shift(_measured(_noise), level=NotNegative),
    "pixels": Shift(_pixels, level=Size),
    "permutation": Shift(_renamed(lambda level, fixed: fixed.permutation(level, fixed.classes or 0)), True, level=Size),
    "roll": Shift(_renamed(lambda level, fixed: np.roll(np.arange(fixed.classes or 0), -level)), True, level=Size),
    "swap": Shift(_renamed(_swapped), True, level=Size),
    "label_noise": Shift(_label_noise, True, tests=False, level=Share),
}
"""Kind -> what it does to a client's examples."""
