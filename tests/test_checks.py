"""Values at the door: what fits a type hint passes as the hint has it, all else gets one sentence."""

# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pfljax import algorithms, checks, masks, models
from pfljax.checks import Bounds, When
from pfljax.learning import local
from pfljax.types import LocalSolver, Mask, Task

_WORDS = Literal["auto", "vmap"]


@pytest.mark.parametrize(
    ("given", "hint", "expected"),
    [
        (1, float, 1.0),
        (np.float32(0.5), float, 0.5),
        (jnp.asarray(0.5), checks.Share, 0.5),
        (np.int64(3), checks.Count, 3),
        ([1, 2], tuple[int, ...], (1, 2)),
        ((3,), Sequence[checks.Count], (3,)),
        ("mirror", float | str, "mirror"),
        (None, int | None, None),
        (2**32 - 1, checks.Seed, 2**32 - 1),
        (0, checks.Part, 0.0),
        ({"a": 1}, Mapping[str, float], {"a": 1.0}),
        ("vmap", _WORDS | checks.Count, "vmap"),
        (8, _WORDS | checks.Count, 8),
    ],
)
def test_what_fits_passes_as_the_hint_has_it(given: Any, hint: Any, expected: Any) -> None:
    made = checks.value(given, hint, "x")
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("given", "hint", "message"),
    [
        (1.5, int, "x=1.5: it must be a whole number"),
        (True, int, "x=True: it must be a whole number"),
        (True, float, "x=True: it must be a number"),
        (1, bool, "x=1: it must be True or False"),
        (1, str, "x=1: it must be text"),
        ("a", int | None, "x='a': it must be a whole number or None"),
        (math.nan, checks.NotNegative, "x=nan: it must be a finite number of at least 0"),
        (math.inf, checks.Positive, "x=inf: it must be a finite number above 0"),
        (10**400, checks.NotNegative, "it must be a number of at least 0"),
        (0, checks.Positive, "x=0: it must be a number above 0"),
        (1, checks.Part, "x=1: it must be a number of at least 0 and below 1"),
        (1.1, checks.Share, "x=1.1: it must be a number from 0 to 1"),
        (2**32, checks.Seed, "x=4294967296: it must be a whole number from 0 to 4294967295"),
        (0, _WORDS | checks.Count, "x=0: it must be a whole number of at least 1"),
        (True, _WORDS | checks.Count, "x=True: it must be 'auto' or 'vmap' or a whole number"),
        ("vmpa", _WORDS | checks.Count, "did you mean 'vmap'"),
        ("vmpa", _WORDS, "x='vmpa': did you mean 'vmap'"),
        ("x", _WORDS, "x='x': choose 'auto', 'vmap'"),
        (5, Sequence[int], "x=5: it must be a list"),
        ((0,), Sequence[checks.Count], "x=0: it must be a whole number of at least 1"),
        ((1, 2, 3), tuple[int, int], r"x=\(1, 2, 3\): it must be a list of 2"),
        ({"a": "b"}, Mapping[str, float], r"x\['a'\]='b': it must be a number"),
        (jnp.ones(3), float, "it must be a number"),
        (optax.sgd(0.1), LocalSolver, r"x is a Gradient.*: it must be a solver, such as pfl\.descent\("),
        (local.descent, LocalSolver, "x is the function descent: it must be a solver"),
        (1, Mask, r"x=1: it must be a mask, such as pfl\.masks\.head\(model\)"),
        (models.logistic((4,), 3), Task, r"x is a Model: it must be a task, such as pfl\.classification\(model"),
    ],
)
def test_all_else_gets_a_sentence(given: Any, hint: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checks.value(given, hint, "x")


def test_what_is_traced_is_left_alone() -> None:
    """One program serves all values: bounds are for numbers that are known."""
    traced = jax.make_jaxpr(lambda rate: checks.value(rate, checks.Share, "rate") * 2)
    assert traced(3.0).eqns


@checks.spelled()
@dataclass(frozen=True)
class Trip:
    """A dataclass that checks itself."""

    by: Literal["train", "foot"] = "foot"
    seats: Annotated[checks.Count, When("by", ("train",))] = 2
    hurry: float = 0.0
    late: Annotated[bool, When("hurry")] = False

    def __post_init__(self) -> None:
        checks.fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seat": 3}, "Trip takes no 'seat': did you mean 'seats'"),
        ({"by": "tarin"}, "by='tarin': did you mean 'train'"),
        ({"seats": 3}, "seats=3 is for by='train', not 'foot': set by or leave it out"),
        ({"late": True}, "late=True is for hurry above 0"),
        ({"by": "train", "seats": 0}, "seats=0: it must be a whole number of at least 1"),
    ],
)
def test_dataclasses_check_themselves(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Trip(**values)
    assert Trip(by="train", seats=3, hurry=1).hurry == 1.0


@checks.by_hints()
def _inner(*, rounds: checks.Count, rate: Annotated[float, Bounds(least=0)] = 1.0) -> int:
    return rounds


@checks.by_hints(rest=_inner)
def _outer(name: str, *, seed: checks.Seed = 0, **options: Any) -> int:
    return _inner(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _outer("a", rouds=3), "_outer takes no 'rouds': did you mean 'rounds'"),
        (lambda: _outer("a", rounds=0), "_inner: rounds=0: it must be a whole number of at least 1"),
        (lambda: _outer("a"), "_inner: missing a required argument: 'rounds'; it takes rounds, rate"),
        (lambda: _outer(3, rounds=1), "_outer: name=3: it must be text"),
        (lambda: _outer("a", 3, rounds=1), "_outer: too many positional arguments"),
    ],
)
def test_calls_are_checked_by_their_hints(call: Callable[[], Any], message: str) -> None:
    assert _outer("a", rounds=3, rate=0) == 3
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", algorithms.METHODS)
def test_numbers_of_every_method_are_bounded(name: str) -> None:
    """Below their range, above it, and not finite; what a method needs besides is not looked at before."""
    hints = algorithms.METHODS[name].hints()
    for key, hint in hints.items():
        bounds = next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Bounds)), None)
        if bounds is not None:
            for bad in (-1, math.nan, math.inf, "much", *([bounds.most + 1] if bounds.most else [])):
                with pytest.raises(ValueError, match=rf"{key}=.*: it must be"):
                    checks.value(bad, hint, key)
    assert all(hints[key] for key in algorithms.METHODS[name].sweep), "what may be swept is a number"


def test_masks_are_of_models() -> None:
    with pytest.raises(ValueError, match=r"model is a .*: it must be a model.*from_linen\(module, shape\)"):
        masks.head(object())
