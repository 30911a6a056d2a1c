"""Usage of a model: requests, tokens, failures, cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelUsage:
    """Usage counts. Cached answers cost nothing and count only as hits."""

    price_in: float | None = None
    """Price per million prompt tokens, in any currency."""
    price_out: float | None = None
    questions: int = 0
    cache_hits: int = 0
    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    """Sum over requests, which run concurrently."""
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def cost(self) -> float | None:
        """Cost in the currency of the prices; None without a price."""
        if self.price_in is None and self.price_out is None:
            return None
        spent = self.prompt_tokens * (self.price_in or 0) + self.completion_tokens * (self.price_out or 0)
        return spent / 1e6

    def summary(self) -> dict[str, Any]:
        names = ("questions", "cache_hits", "requests", "retries", "prompt_tokens", "completion_tokens")
        return {
            **{name: getattr(self, name) for name in names},
            "request_seconds": round(self.seconds, 2),
            "failures": dict(self.failures.most_common()),
            "cost": None if self.cost is None else round(self.cost, 6),
        }
