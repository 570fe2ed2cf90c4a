"""Detectors of change against loops over the definitions, alarms where they must be, and none where they must not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pfljax.learning import detectors
from pfljax.learning.detectors import Detector

pytestmark = pytest.mark.usefixtures("x64", "strict")

DRAW = np.random.default_rng(11)
# Levels of Bernoulli numbers, which rise twice and fall once, and of smooth ones between 0 and 1.
ERRORS = np.concatenate([DRAW.random(n) < p for n, p in [(120, 0.1), (90, 0.6), (80, 0.2), (90, 0.9)]]).astype(float)
SMOOTH = np.concatenate([DRAW.beta(a, b, n) for n, a, b in [(120, 2, 8), (90, 8, 4), (80, 2, 8), (90, 9, 1)]])


def alarms(detector: Detector, numbers: np.ndarray) -> list[int]:
    """Where there is one."""
    found = jax.lax.scan(detector.step, detector.init(), jnp.asarray(numbers))[1]
    return np.flatnonzero(np.asarray(found)).tolist()


def page_hinkley(numbers: np.ndarray, threshold: float, slack: float) -> Iterator[int]:
    """`m_t - min m` by the sums themselves."""
    begin = 0
    for t in range(len(numbers)):
        seen = numbers[begin : t + 1]
        m = np.cumsum([x - seen[: s + 1].mean() - slack for s, x in enumerate(seen)])
        if m[-1] - min(0, m.min()) > threshold:
            yield t
            begin = t + 1


def cusum(numbers: np.ndarray, threshold: float, slack: float, reference: int) -> Iterator[int]:
    begin = 0
    for t in range(len(numbers)):
        first, later = np.split(numbers[begin : t + 1], [reference])
        g = 0.0
        for x in later:
            g = max(0.0, g + (x - first.mean()) / first.std(ddof=1) - slack)
        if g > threshold:
            yield t
            begin = t + 1


def ddm(numbers: np.ndarray, threshold: float, reference: int) -> Iterator[int]:
    begin = 0
    for t in range(len(numbers)):
        levels = []
        for n in range(1, t - begin + 2):
            p = numbers[begin : begin + n].mean()
            levels.append((p, math.sqrt(p * (1 - p) / n)))
        if len(levels) < reference:
            continue
        p, s = levels[-1]
        p_min, s_min = min(levels[reference - 1 :], key=sum)
        if p + s > p_min + threshold * s_min:
            yield t
            begin = t + 1


def adwin(numbers: np.ndarray, threshold: float, window: int) -> Iterator[int]:
    kept: list[float] = []

    def differ() -> bool:
        n = len(kept)
        for cut in range(1, n):
            older, newer = np.array(kept[:cut]), np.array(kept[cut:])
            m = 1 / (1 / len(older) + 1 / len(newer))
            likely = math.log(2 * math.log(max(n, 2)) / threshold)
            if abs(older.mean() - newer.mean()) > math.sqrt(2 / m * np.var(kept) * likely) + 2 / (3 * m) * likely:
                return True
        return False

    for t, x in enumerate(numbers):
        kept = [*kept, float(x)][-window:]
        before, shrunk = np.mean(kept), False
        while differ():
            kept, shrunk = kept[1:], True
        if shrunk and np.mean(kept) > before:
            yield t


CASES: dict[str, tuple[Callable[..., Detector], Callable[..., Iterator[int]], dict[str, Any]]] = {
    "page_hinkley": (detectors.page_hinkley, page_hinkley, {"threshold": 6.0, "slack": 0.05}),
    "cusum": (detectors.cusum, cusum, {"threshold": 8.0, "slack": 0.4, "reference": 25}),
    "ddm": (detectors.ddm, ddm, {"threshold": 3.0, "reference": 30}),
    "adwin": (detectors.adwin, adwin, {"threshold": 0.3, "window": 120}),
}


@pytest.mark.parametrize("numbers", [ERRORS, SMOOTH], ids=["errors", "smooth"])
@pytest.mark.parametrize("name", CASES)
def test_alarms_are_those_of_a_loop(name: str, numbers: np.ndarray) -> None:
    """In all stretches, after alarms too, which begin the detector anew."""
    make, loop, options = CASES[name]
    expected = list(loop(numbers, **options))
    assert alarms(make(**options), numbers) == expected
    assert any(120 < t < 165 for t in expected), "the first rise"
    assert any(290 < t < 335 for t in expected), "the second"


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_change_or_falls_is_no_alarm(name: str) -> None:
    make, _, options = CASES[name]
    assert alarms(make(**options), np.full(200, 0.3)) == []
    falling = np.concatenate([DRAW.random(100) < 0.8, DRAW.random(100) < 0.1]).astype(float)
    assert [t for t in alarms(make(**options), falling) if t > 100] == []


def test_the_delay_of_page_hinkley_is_computable() -> None:
    """From 0 to 1 after n zeros: `g` grows by `n / (n + k) - slack` with the k-th one."""
    grown = np.cumsum([100 / (100 + k) - 0.1 for k in range(1, 30)])
    first = 100 + int(np.argmax(grown > 4.0))
    assert alarms(detectors.page_hinkley(4.0, 0.1), np.repeat([0.0, 1.0], [100, 30]))[0] == first


def test_false_alarms_are_rare() -> None:
    """Defaults on streams without change; each of 40 streams is as long as ten rounds of sixty examples."""
    streams = jnp.asarray((DRAW.random((40, 600)) < 0.2).astype(float))
    for make in (detectors.page_hinkley, detectors.adwin):
        found = jax.vmap(lambda row, detector=make(): detector.over(detector.init(), row, jnp.ones(600))[1])(streams)
        assert float(found.mean()) <= 0.05


def test_masked_numbers_are_not_seen() -> None:
    mask = DRAW.random(len(ERRORS)) < 0.7
    for make, _, options in CASES.values():
        detector = make(**options)
        state, alarm = detector.over(detector.init(), jnp.asarray(ERRORS), jnp.asarray(mask, float))
        seen, heard = detector.over(detector.init(), jnp.asarray(ERRORS[mask]), jnp.ones(mask.sum()))
        assert bool(alarm) == bool(heard)
        jax.tree.map(np.testing.assert_array_equal, state, seen)
