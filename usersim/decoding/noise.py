"""Random streams: derivation of sampler seeds.

Equal seeds give samplers equal noise, whatever the prompt. Users with different goals, and turns of one conversation,
would then be correlated. So the sampler's seed is mixed with a hash of the prompt, and the n seeds of a request are
scattered like any other seeds. With common random numbers the sampler's seed is the seed itself.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

BITS = 53
"""Bits of a derived seed: a JSON number that every client reads exactly."""
WORD: int = 2**BITS
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Multipliers of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), whose steps are invertible."""
FIRST_UNDONE: int = pow(FIRST, -1, WORD)
SECOND_UNDONE: int = pow(SECOND, -1, WORD)


def non_negative(seed: int) -> int:
    """Maps a negative seed to a large one, so that n consecutive seeds do not wrap."""
    return seed if 0 <= seed < 2**63 else seed % 2**62


def sampler_seed(seed: int, prompt_ids: Sequence[int], *, common: bool) -> int:
    """Returns the seed for a sampler (`Draw.seed`). Its n continuations use n consecutive seeds from there on."""
    if common:
        return non_negative(seed)
    return (_scatter(seed) + _hash(array("q", prompt_ids).tobytes())) % 2**62


def nth_seed(seed: int, index: int, *, common: bool) -> int:
    """Returns the seed with which a request for one continuation reproduces continuation `index` of a request with
    `seed`."""
    if index == 0:
        return seed
    if common:
        return (non_negative(seed) + index) % 2**63
    return _gather(_scatter(seed) + index)


def _scatter(seed: int) -> int:
    """Scatters neighbouring seeds: a bijection on 53-bit seeds; other seeds are hashed to 53 bits first."""
    word = seed if 0 <= seed < WORD else _hash(str(seed).encode()) % WORD
    word = (word ^ word >> 30) * FIRST % WORD
    word = (word ^ word >> 27) * SECOND % WORD
    return word ^ word >> 31


def _gather(word: int) -> int:
    """Inverts `_scatter` for 53-bit seeds."""
    word = _unshift(word % WORD, 31) * SECOND_UNDONE % WORD
    word = _unshift(word, 27) * FIRST_UNDONE % WORD
    return _unshift(word, 30)


def _unshift(word: int, by: int) -> int:
    """Returns x for `word` = x ^ x >> by; two steps suffice for the shifts used here."""
    return word ^ word >> by ^ word >> 2 * by


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
