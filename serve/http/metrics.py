"""Prometheus metrics. Requests by outcome add up: every request that came in ends in exactly one of them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.http import request_context as visit
from serve.http.request_context import Visit
from usersim.types import UserTurn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineMetrics:
    """What the pool of engines counts; part of a `Metrics` once an app serves over it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.waiting = Gauge("usersim_queue_length", "Requests before the engines", registry=registry)
        self.taken = Gauge("usersim_samples_in_flight", "Samples with the engines", registry=registry)
        self.queue_seconds = Histogram(
            "usersim_queue_seconds", "Time before an engine was free", buckets=SECONDS, registry=registry
        )
        self.refused = Counter(
            "usersim_admission_refused", "Refused: queue full, or waited too long", ["why"], registry=registry
        )
        self.healthy = Gauge("usersim_engine_healthy", "0 while set aside", ["engine"], registry=registry)
        self.outstanding = Gauge(
            "usersim_engine_samples", "Samples with this engine", ["engine"], registry=registry
        )
        self.failures = Counter(
            "usersim_engine_failures", "Calls and probes that failed", ["engine"], registry=registry
        )
        self.retries = Counter("usersim_engine_retries", "Calls made again", registry=registry)

    def waited(self, seconds: float) -> None:
        self.queue_seconds.observe(seconds)
        if (request := visit.current()) is not None:
            request.queued_s += seconds


class Metrics:
    """A registry of its own, so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.received = Counter(
            "usersim_requests_received", "Requests that came in, by route", ["route"], registry=registry
        )
        self.requests = Counter(
            "usersim_requests", "Requests by route and outcome", ["route", "outcome"], registry=registry
        )
        self.by_key = Counter(
            "usersim_key_requests", "Requests by the name of their key", ["key", "outcome"], registry=registry
        )
        self.in_flight = Gauge("usersim_requests_in_flight", "Requests being answered", registry=registry)
        self.seconds = Histogram(
            "usersim_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.first_token = Histogram(
            "usersim_first_token_seconds",
            "Streams: time to the first words",
            buckets=SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "usersim_tokens",
            "Tokens of the prompts and of accepted turns, all candidates counted",
            ["kind"],
            registry=registry,
        )
        self.turns = Counter("usersim_turns", "User turns given out", registry=registry)
        self.ends = Counter("usersim_ends", "… of which ended the conversation", registry=registry)
        self.rejections = Counter(
            "usersim_guard_rejections", "Attempts the guards threw away", ["reason"], registry=registry
        )
        self.engine_up = Gauge("usersim_engine_up", "1 while the last probe succeeded", registry=registry)
        self.restarts = Gauge("usersim_engine_restarts", "Starts after the first", registry=registry)
        self.log_dropped = Gauge(
            "usersim_log_lines_dropped", "Log lines that their sink did not take", registry=registry
        )

    def include(self, engines: EngineMetrics) -> None:
        self.registry.register(engines.registry)

    def came_in(self, request: Visit) -> None:
        self.received.labels(request.route).inc()
        self.in_flight.inc()

    def finished(self, request: Visit, outcome: str, seconds: float) -> None:
        self.in_flight.dec()
        self.requests.labels(request.route, outcome).inc()
        self.seconds.labels(request.route).observe(seconds)
        if request.key is not None:
            self.by_key.labels(request.key, outcome).inc()

    def gave(self, turns: Sequence[UserTurn]) -> None:
        prompt, sampled = turns[0].prompt_tokens, sum(turn.cost_tokens for turn in turns)
        self.turns.inc(len(turns))
        self.ends.inc(sum(turn.ends for turn in turns))
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("sampled").inc(sampled)
        if (request := visit.current()) is not None:
            request.prompt_tokens += prompt
            request.sampled_tokens += sampled
        for turn in turns:
            self.rejected(turn.rejected)

    def rejected(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            self.rejections.labels(reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
