"""Prometheus metrics. Requests by outcome add up: every request that came in ends in exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from usersim.types import UserTurn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "usersim_requests", "Requests by route and outcome", ["route", "outcome"], registry=registry
        )
        self.in_flight = Gauge("usersim_requests_in_flight", "Requests being answered", registry=registry)
        self.seconds = Histogram(
            "usersim_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.tokens = Counter(
            "usersim_tokens", "Tokens of the prompts and of accepted turns", ["kind"], registry=registry
        )
        self.turns = Counter("usersim_turns", "User turns given out", registry=registry)
        self.ends = Counter("usersim_ends", "… of which ended the conversation", registry=registry)
        self.rejections = Counter(
            "usersim_guard_rejections", "Attempts the guards threw away", ["reason"], registry=registry
        )
        self.engine_up = Gauge("usersim_engine_up", "1 while the last probe succeeded", registry=registry)
        self.restarts = Gauge("usersim_engine_restarts", "Starts after the first", registry=registry)

    def finished(self, route: str, outcome: str, seconds: float) -> None:
        self.requests.labels(route, outcome).inc()
        self.seconds.labels(route).observe(seconds)

    def gave(self, turns: Sequence[UserTurn]) -> None:
        self.turns.inc(len(turns))
        self.ends.inc(sum(turn.ends for turn in turns))
        self.tokens.labels("prompt").inc(turns[0].prompt_tokens)
        self.tokens.labels("sampled").inc(sum(turn.tokens for turn in turns))
        for turn in turns:
            self.rejected(turn.rejected)

    def rejected(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            self.rejections.labels(reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
