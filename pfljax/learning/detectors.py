"""Detectors of change: pure functions that watch a stream of numbers, such as losses, and say when it has become worse.

A detector takes one number after the other. What it returns with an alarm is its fresh state, so that it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pfljax import checks, tree
from pfljax.checks import Count
from pfljax.printing import in_brief
from pfljax.types import Array, Tree


@in_brief
class Detector(NamedTuple):
    """What watches a stream."""

    init: Callable[[], Any]  # () -> the state before the first number
    step: Callable[[Any, Array], tuple[Any, Array]]  # (state, number []) -> (state, alarm [] bool)

    def over(self, state: Tree, numbers: Array, mask: Array) -> tuple[Tree, Array]:
        """The state after those of the numbers [n] whose mask is not 0, and whether there was an alarm.

        >>> found = page_hinkley(threshold=2.0)
        >>> bool(found.over(found.init(), jnp.array([0.0, 0.0, 0.0, 9.0]), jnp.ones(4))[1])
        True
        """

        def one(carry: tuple[Tree, Array], row: tuple[Array, Array]) -> tuple[tuple[Tree, Array], None]:
            (state, alarm), (number, counts) = carry, row
            new, now = self.step(state, number)
            return (tree.where(counts > 0, new, state), alarm | (now & (counts > 0))), None

        return jax.lax.scan(one, (state, jnp.asarray(False)), (numbers.astype(float), mask))[0]


class Sums(NamedTuple):
    """What CUSUM and Page-Hinkley keep."""

    count: Array  # [] numbers seen
    mean: Array  # [] of them, or of the first ones
    spread: Array  # [] sum of squared differences to the mean
    total: Array  # [] the statistic


def _sums() -> Sums:
    return Sums(*jnp.zeros(4))


def page_hinkley(threshold: Array | float = 50.0, slack: Array | float = 0.005) -> Detector:
    """Numbers have risen above their own mean: `g_t = max(0, g_{t-1} + x_t - mean_t - slack)` passes the threshold.

    `mean_t` is that of all numbers up to t. `g_t` is `m_t - min_s m_s`, `m_t = sum_{s <= t} (x_s - mean_s - slack)`.

    Args:
      threshold: the paper's lambda, > 0, traced.
      slack: the paper's delta: what each number may exceed the mean by, >= 0, traced.

    Source: Page, "Continuous Inspection Schemes", Biometrika 1954; Gama et al., "A Survey on Concept Drift
    Adaptation", ACM Computing Surveys 2014, section 3.2.
    """

    def step(state: Sums, x: Array) -> tuple[Sums, Array]:
        count = state.count + 1
        mean = state.mean + (x - state.mean) / count
        total = jnp.maximum(state.total + x - mean - slack, 0)
        return _again(Sums(count, mean, state.spread, total), total > threshold, _sums())

    return Detector(_sums, step)


def cusum(threshold: Array | float = 5.0, slack: Array | float = 0.5, *, reference: int = 30) -> Detector:
    """Numbers have risen above what they were first: `g_t = max(0, g_{t-1} + (x_t - mu) / sigma - slack)`.

    mu and sigma are mean and deviation of the first n numbers, during which there is no alarm.

    Args:
      threshold: h, in deviations, > 0, traced.
      slack: k, in deviations, >= 0, traced; half of the shift that is to be found.
      reference: n, static, at least 2.

    Source: Page, "Continuous Inspection Schemes", Biometrika 1954, one-sided.
    """
    checks.each(Count, reference=reference)

    def step(state: Sums, x: Array) -> tuple[Sums, Array]:
        count, before = state.count + 1, state.count < reference
        mean = jnp.where(before, state.mean + (x - state.mean) / count, state.mean)
        spread = state.spread + jnp.where(before, (x - state.mean) * (x - mean), 0)
        deviation = jnp.sqrt(spread / max(reference - 1, 1))
        scaled = (x - mean) / jnp.maximum(deviation, jnp.finfo(deviation.dtype).eps)
        total = jnp.where(before, 0, jnp.maximum(state.total + scaled - slack, 0))
        return _again(Sums(count, mean, spread, total), total > threshold, _sums())

    return Detector(_sums, step)


class Errors(NamedTuple):
    """What DDM keeps."""

    count: Array  # [] numbers seen
    rate: Array  # [] p, their mean
    least_rate: Array  # [] p_min
    least_deviation: Array  # [] s_min


def ddm(threshold: Array | float = 3.0, *, reference: int = 30) -> Detector:
    """Errors have become more frequent: `p_t + s_t >= p_min + threshold s_min`, `s_t = sqrt(p_t (1 - p_t) / t)`.

    `p_t` is the share of errors among t examples; `p_min` and `s_min` are those of the smallest `p_t + s_t` so far.

    Args:
      threshold: in deviations, > 0, traced.
      reference: examples before which there is no alarm, and no smallest rate, static.

    Numbers lie in [0, 1].
    Source: Gama et al., "Learning with Drift Detection", SBIA 2004.
    """
    checks.each(Count, reference=reference)

    def init() -> Errors:
        return Errors(*jnp.zeros(2), *jnp.full(2, jnp.inf))

    def step(state: Errors, x: Array) -> tuple[Errors, Array]:
        count = state.count + 1
        p = state.rate + (x - state.rate) / count
        s = jnp.sqrt(jnp.maximum(p * (1 - p), 0) / count)
        known = count >= reference
        least = known & (p + s < state.least_rate + state.least_deviation)
        p_min, s_min = jnp.where(least, p, state.least_rate), jnp.where(least, s, state.least_deviation)
        alarm = known & (p + s > p_min + threshold * s_min)
        return _again(Errors(count, p, p_min, s_min), alarm, init())

    return Detector(init, step)


class Window(NamedTuple):
    """What ADWIN keeps."""

    numbers: Array  # [n] the last ones, the newest last
    count: Array  # [] how many of them are in the window


def adwin(threshold: Array | float = 0.002, *, window: int = 256) -> Detector:
    """The newer numbers of a window differ from the older ones: the oldest are dropped until no two parts do.

    Parts of n0 and n1 of the n numbers differ if `|mean_0 - mean_1| > eps`, with `1/m = 1/n0 + 1/n1`,

    `eps = sqrt(2/m variance ln(2 ln(n) / delta)) + 2/(3 m) ln(2 ln(n) / delta)`. The alarm is that something was
    dropped, and what is left is higher on average.

    Args:
      threshold: delta, the confidence, in (0, 1), traced.
      window: the most numbers that are kept, static. Each step compares all cuts, where the authors compare those of
        an exponential histogram.

    Numbers lie in [0, 1].
    Source: Bifet and Gavalda, "Learning from Time-Changing Data with Adaptive Windowing", SDM 2007.
    """
    checks.each(Count, window=window)

    def moments(state: Window) -> tuple[Array, Array, Array, Array]:
        """The numbers inside, 0 elsewhere, and how many they are, their mean and their variance."""
        inside, n = jnp.arange(window) >= window - state.count, state.count.astype(state.numbers.dtype)
        values = jnp.where(inside, state.numbers, 0)
        mean = jnp.sum(values) / n
        return values, n, mean, jnp.sum(jnp.where(inside, jnp.square(values - mean), 0)) / n

    def differ(state: Window) -> Array:
        """Whether the parts of any cut do."""
        values, n, mean, variance = moments(state)
        n1 = jnp.arange(1, window).astype(n.dtype)  # at each cut [window - 1] the newest so many
        n0 = jnp.maximum(n - n1, 1)
        newer = jnp.cumsum(values[:0:-1])
        apart = jnp.abs((n * mean - newer) / n0 - newer / n1)
        inverse, likely = 1 / n0 + 1 / n1, jnp.log(2 * jnp.log(jnp.maximum(n, 2)) / threshold)
        eps = jnp.sqrt(2 * inverse * variance * likely) + 2 / 3 * inverse * likely
        return jnp.any((apart > eps) & (n1 < n))

    def step(state: Window, x: Array) -> tuple[Window, Array]:
        full = Window(jnp.append(state.numbers[1:], x), jnp.minimum(state.count + 1, window))
        left = jax.lax.while_loop(differ, lambda state: state._replace(count=state.count - 1), full)
        return left, (left.count < full.count) & (moments(left)[2] > moments(full)[2])

    return Detector(lambda: Window(jnp.zeros(window), jnp.asarray(0)), step)


def _again(state: Tree, alarm: Array, fresh: Tree) -> tuple[Tree, Array]:
    return tree.where(alarm, fresh, state), alarm


KINDS: dict[str, Callable[..., Detector]] = {make.__name__: make for make in (cusum, page_hinkley, ddm, adwin)}
"""Name -> detector; each takes a `threshold`, and has one of its own."""
