"""Sampling parameters of a request or server, and defaults of a User LM in its `userlm.json`."""

from __future__ import annotations

from pydantic import Field

from usersim.types import Record


class Sampling(Record):
    """Sampling parameters, applied in the order temperature, top_k, top_p, as in vLLM."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, le=1_000_000)
    """Number of most likely tokens to sample from; 0: off."""
    max_tokens: int = Field(default=192, ge=1, le=4096)
    best_of: int = Field(default=1, ge=1, le=16)
    """Candidates of each turn, of which the model's discriminator chooses one; so many times the drawn tokens."""
