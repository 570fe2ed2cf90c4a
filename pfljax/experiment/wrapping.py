"""Wrappers as a configuration has them: what becomes of every upload, and how uploads are reduced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pfljax import checks
from pfljax.checks import Bounds, When
from pfljax.federation import reduce, wrappers
from pfljax.federation.wrappers import Compressor
from pfljax.federation.wrappers.attacks import Attack, Attackers, Collusion
from pfljax.federation.wrappers.privacy import Place
from pfljax.learning import schedules
from pfljax.learning.schedules import Schedule
from pfljax.types import Algorithm, Array, Reduce

_Positive = checks.Positive | dict[str, Any]
_Kept = ("top_k", "random_k")


@checks.spelled()
@dataclass(frozen=True)
class WrappersConfig:
    """What becomes of every upload, in the order of these fields; see `federation.wrappers`.

    A traced number may be a schedule over the rounds, as in `local`.

    Args:
      compress: uploads are compressed, `quantize` by QSGD; None sends them as they are.
      kept: share of the numbers of a leaf that `top_k` and `random_k` send.
      bits: of each number in `quantize`.
      feedback: what was not sent is made up for in the next round.
      attack: what attackers upload: the upload with its sign flipped, scaled, or Gaussian noise in its place; or, with
        an eye on all uploads, `mean - strength std` of theirs (`alie`), `-strength` times that of others
        (`inner_product`).
      attackers: share of the clients that attack, always the same, traced.
      strength: of the attack, traced: what the upload is multiplied by, the std of the noise, or z of `alie`.
      seed: of who attacks.
      clip: longest L2 norm of an upload, traced; None leaves it out.
      noise: standard deviation of Gaussian noise in units of clip, traced, see `wrappers.noised`; None leaves it out.
      noise_at: the noise is on the sum of the uploads (`server`), clients counting equally, or on each (`client`).
      reduce: weights by examples (`mean`), equal ones (`uniform`), or what bears attackers; None: as the method does.
      trim: share of the clients that `trimmed` cuts at each end, traced.
      f: attackers that `krum` bears.
      m: uploads that `krum` averages.
    """

    compress: Literal["top_k", "random_k", "sign", "quantize"] | None = None
    kept: Annotated[float, Bounds(above=0, most=1), When("compress", _Kept)] = 0.01
    bits: Annotated[int, Bounds(least=2, most=16), When("compress", ("quantize",))] = 8
    feedback: Annotated[bool, When("compress", (*_Kept, "sign"))] = True
    attack: Literal["sign_flip", "scaling", "gaussian", "alie", "inner_product"] | None = None
    attackers: Annotated[checks.Share, When("attack")] = 0.2
    strength: Annotated[_Positive, When("attack")] = 1.0
    seed: Annotated[checks.Seed, When("attack")] = 0
    clip: _Positive | None = None
    noise: Annotated[checks.NotNegative | dict[str, Any] | None, When("clip")] = None
    noise_at: Annotated[Place, When("clip")] = "server"
    reduce: Literal["mean", "uniform", "median", "trimmed", "krum", "geometric_median"] | None = None
    trim: Annotated[float, Bounds(least=0, below=0.5), When("reduce", ("trimmed",))] = 0.1
    f: Annotated[checks.Size, When("reduce", ("krum",))] = 1
    m: Annotated[checks.Count, When("reduce", ("krum",))] = 1

    def __post_init__(self) -> None:
        checks.fields(self)
        numbers(self, 1)
        if self.attack == "scaling" and self.strength == 1:
            raise ValueError("strength=1.0: what is scaled by 1 is no attack, set strength=10.0")
        if self.noise is None and self.noise_at != "server":
            raise ValueError(f"noise_at={self.noise_at!r} is for noise: set noise or leave it out")
        if self.noise is not None and self.noise_at == "server" and self.reduce not in (None, "uniform"):
            raise ValueError(
                f"reduce={self.reduce!r}: noise at the server is for a mean with equal weights, "
                "set noise_at='client' or leave reduce out"
            )


_TRACED = {
    "attackers": ("attack", checks.Share),
    "strength": ("attack", checks.Positive),
    "clip": ("clip", checks.Positive),
    "noise": ("noise", checks.NotNegative),
    "trim": ("reduce", Annotated[float, Bounds(least=0, below=0.5)]),
}
"""Traced number -> the field without which there is none, and what it must be."""

_ATTACKS: dict[str | None, Callable[[Any], Attack]] = {
    "sign_flip": wrappers.sign_flip,
    "scaling": wrappers.scaling,
    "gaussian": wrappers.gaussian,
}
_COLLUSIONS: dict[str | None, Callable[[Any], Collusion]] = {
    "alie": wrappers.alie,
    "inner_product": wrappers.inner_product,
}


def numbers(config: WrappersConfig, rounds: int) -> dict[str, float | Schedule]:
    """The traced numbers, by the names of `Recipe.hyper`."""
    idle = checks.idle(WrappersConfig, vars(config))
    return {
        f"wrappers.{name}": schedules.number(getattr(config, name), hint, f"wrappers.{name}", rounds)
        for name, (field, hint) in _TRACED.items()
        if getattr(config, field) is not None and name not in idle
    }


def wrapped(
    algorithm: Algorithm, config: WrappersConfig, values: Mapping[str, Array | float], clients: int
) -> Algorithm:
    """`algorithm` in the wrappers of a configuration.

    Args:
      algorithm: any.
      config: which wrappers.
      values: the traced numbers, see `numbers`.
      clients: N, of whom some attack.

    Raises:
      ValueError: if the method cannot bear one of them.
    """
    of = {name.removeprefix("wrappers."): value for name, value in values.items()}
    if config.compress:
        algorithm = wrappers.compressed(algorithm, _compressor(config), feedback=config.feedback and None)

    def attackers() -> Attackers:
        return wrappers.some(clients, of["attackers"], seed=config.seed)

    if config.attack in _ATTACKS:
        algorithm = wrappers.attacked(algorithm, attackers(), _ATTACKS[config.attack](of["strength"]))
    if config.noise is not None:
        algorithm = wrappers.noised(algorithm, of["noise"], of["clip"], at=config.noise_at)
    elif config.clip:
        algorithm = wrappers.clipped(algorithm, of["clip"])
    if config.attack in _COLLUSIONS:
        algorithm = wrappers.colluding(algorithm, attackers(), _COLLUSIONS[config.attack](of["strength"]))
    return wrappers.reduced_by(algorithm, _reduction(config, of)) if config.reduce else algorithm


def _compressor(config: WrappersConfig) -> Compressor:
    kinds: dict[str | None, Callable[[], Compressor]] = {
        "top_k": lambda: wrappers.top_k(config.kept),
        "random_k": lambda: wrappers.random_k(config.kept),
        "sign": wrappers.sign,
        "quantize": lambda: wrappers.quantized(config.bits),
    }
    return kinds[config.compress]()


def _reduction(config: WrappersConfig, of: Mapping[str, Any]) -> Reduce:
    kinds: dict[str | None, Callable[[], Reduce]] = {
        "mean": lambda: reduce.mean,
        "uniform": lambda: reduce.uniform(reduce.mean),
        "median": lambda: reduce.median,
        "trimmed": lambda: reduce.trimmed(of["trim"]),
        "krum": lambda: reduce.krum(config.f, m=config.m),
        "geometric_median": reduce.geometric_median,
    }
    return kinds[config.reduce]()
