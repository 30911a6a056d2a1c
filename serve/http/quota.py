"""Per-key quotas of requests and tokens per minute: token buckets on the monotonic clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from serve.config import ApiKey


@dataclass
class TokenBucket:
    """Token bucket that refills at a constant rate."""

    per_minute: int
    level: float = field(init=False)
    _updated_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.level, self._updated_s = float(self.per_minute), time.monotonic()

    def _fill(self) -> None:
        now = time.monotonic()
        gained = (now - self._updated_s) * self.per_minute / 60
        self.level, self._updated_s = min(float(self.per_minute), self.level + gained), now

    def wait_s(self, needed: float = 1.0) -> float:
        """Returns the seconds until `needed` tokens are available; 0 if they are."""
        self._fill()
        return max(0.0, (needed - self.level) * 60 / self.per_minute)

    def take(self, amount: float) -> None:
        """Removes tokens. The level may become negative: token costs are known only after the request."""
        self._fill()
        self.level -= amount

    def headers(self, kind: str) -> list[tuple[bytes, bytes]]:
        full_s = self.wait_s(self.per_minute)
        facts = {
            f"x-ratelimit-limit-{kind}": str(self.per_minute),
            f"x-ratelimit-remaining-{kind}": str(max(0, math.floor(self.level))),
            f"x-ratelimit-reset-{kind}": f"{full_s:.1f}s",
        }
        return [(name.encode(), value.encode()) for name, value in facts.items()]


class Quota:
    """Request and token limits of one key name."""

    def __init__(self, key: ApiKey) -> None:
        self.requests = TokenBucket(key.requests_per_minute) if key.requests_per_minute else None
        self.tokens = TokenBucket(key.tokens_per_minute) if key.tokens_per_minute else None

    def matches(self, key: ApiKey) -> bool:
        return (
            (self.requests and self.requests.per_minute) == key.requests_per_minute
            and (self.tokens and self.tokens.per_minute) == key.tokens_per_minute
        )  # fmt: skip

    def admit(self) -> float:
        """Counts one request and returns 0.0, or counts nothing and returns the seconds to wait."""
        wait_s = max(bucket.wait_s() for bucket in self._buckets()) if self._buckets() else 0.0
        if not wait_s and self.requests:
            self.requests.take(1)
        return wait_s

    def count_requests(self, requests: int) -> None:
        """Counts further requests that arrived in one HTTP request."""
        if self.requests:
            self.requests.take(requests)

    def charge_tokens(self, tokens: int) -> None:
        if self.tokens:
            self.tokens.take(tokens)

    def headers(self) -> list[tuple[bytes, bytes]]:
        requests = self.requests.headers("requests") if self.requests else []
        return requests + (self.tokens.headers("tokens") if self.tokens else [])

    def _buckets(self) -> list[TokenBucket]:
        return [bucket for bucket in (self.requests, self.tokens) if bucket]
