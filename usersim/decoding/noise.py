"""Random streams: the noise that a seed stands for.

Samplers draw alike from equal seeds, whatever the prompt: users of different goals, and turns of one conversation,
would say and do alike together. So the seed that a sampler gets is mixed with a hash of the prompt, and seed i of n
lies as far from the others as any two seeds do. Common random numbers, where they are wanted, are the seed itself.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence

BITS = 53
"""Size of a derived seed: a JSON number that every client reads exactly."""
WORD: int = 2**BITS
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Multipliers of SplitMix64 (Steele, Lea & Flood 2014, OOPSLA), whose steps are invertible."""
FIRST_UNDONE: int = pow(FIRST, -1, WORD)
SECOND_UNDONE: int = pow(SECOND, -1, WORD)


def non_negative(seed: int) -> int:
    """The seed as samplers and engines count from it: a negative one as a large one, so that n of them do not wrap."""
    return seed if 0 <= seed < 2**63 else seed % 2**62


def sampler_seed(seed: int, prompt_ids: Sequence[int], *, common: bool) -> int:
    """Seed for a sampler (`Draw.seed`); its n continuations take the n seeds from there on."""
    if common:
        return non_negative(seed)
    return (_scatter(seed) + _hash(array("q", prompt_ids).tobytes())) % 2**62


def nth_seed(seed: int, index: int, *, common: bool) -> int:
    """The seed from which a request for one gets continuation `index` of a request from `seed`."""
    if index == 0:
        return seed
    if common:
        return (non_negative(seed) + index) % 2**63
    return _gather(_scatter(seed) + index)


def _scatter(seed: int) -> int:
    """One to one on seeds of 53 bits, to which others are hashed; neighbours land far apart."""
    word = seed if 0 <= seed < WORD else _hash(str(seed).encode()) % WORD
    word = (word ^ word >> 30) * FIRST % WORD
    word = (word ^ word >> 27) * SECOND % WORD
    return word ^ word >> 31


def _gather(word: int) -> int:
    """Undoes `_scatter` of 53 bits."""
    word = _unshift(word % WORD, 31) * SECOND_UNDONE % WORD
    word = _unshift(word, 27) * FIRST_UNDONE % WORD
    return _unshift(word, 30)


def _unshift(word: int, by: int) -> int:
    """The x of which `word` is x ^ x >> by; two steps are enough for the shifts here."""
    return word ^ word >> by ^ word >> 2 * by


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
