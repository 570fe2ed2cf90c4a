"""A random permutation of `range(size)`, one place at a time: no array of its length is ever made.

The swap-or-not shuffle of Hoang, Morris and Rogaway ("An enciphering scheme based on a card shuffle", CRYPTO 2012):
in each of 24 rounds a place is paired with `shift - place (mod size)`, and a hashed bit of the pair says whether the
two change places. `size` may be traced and may differ from client to client.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pfljax.types import Array

_ROUNDS = 24


def permute(places: Array, size: Array, key: Array) -> Array:
    """The images of `places` under the permutation of `range(size)` that `key` stands for.

    Args:
      places: integers below `size`, any shape.
      size: [] length of the range; 0 counts as 1.
      key: a PRNG key.

    Returns:
      Integers of the shape and dtype of `places`, distinct where `places` are.

    >>> sorted(permute(jnp.arange(5), 5, jax.random.key(0)).tolist())
    [0, 1, 2, 3, 4]
    """
    size = jnp.maximum(jnp.asarray(size).astype(jnp.uint32), jnp.uint32(1))

    def swap_or_not(place: Array, words: Array) -> tuple[Array, None]:
        shift, salt = words[0] % size, words[1]
        partner = jnp.where(place > shift, shift + size - place, shift - place)
        return jnp.where(_bit(jnp.maximum(place, partner), salt), partner, place), None

    # A short loop compiles fast and costs a CPU little; an accelerator wants one kernel.
    unroll = 4 if jax.default_backend() == "cpu" else _ROUNDS
    words = jax.random.bits(key, (_ROUNDS, 2), jnp.uint32)
    place, _ = jax.lax.scan(swap_or_not, places.astype(jnp.uint32), words, unroll=unroll)
    return place.astype(places.dtype)


def _bit(word: Array, salt: Array) -> Array:
    """One well-mixed bit of `word`: the top bit after the two multiplications of MurmurHash3's finalizer."""
    word = (word ^ salt) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word >= jnp.uint32(1 << 31)
