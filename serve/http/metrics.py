"""Prometheus metrics. Outcomes add up: every received request ends in exactly one outcome."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from serve.http import request_context
from serve.http.request_context import RequestContext
from usersim.types import UserTurn

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class EngineMetrics:
    """Metrics of the load balancer and its engines, included in the application's `Metrics`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.queue_length = Gauge("usersim_queue_length", "Requests waiting for an engine", registry=registry)
        self.samples_in_flight = Gauge(
            "usersim_samples_in_flight", "Samples with the engines", registry=registry
        )
        self.queue_seconds = Histogram(
            "usersim_queue_seconds", "Time a request waited for an engine", buckets=SECONDS, registry=registry
        )
        self.refusals = Counter(
            "usersim_admission_refused",
            "Refused requests: queue full, or waited too long",
            ["why"],
            registry=registry,
        )
        self.healthy = Gauge(
            "usersim_engine_healthy", "0 while the engine is out of rotation", ["engine"], registry=registry
        )
        self.outstanding = Gauge(
            "usersim_engine_samples", "Samples with this engine", ["engine"], registry=registry
        )
        self.failures = Counter(
            "usersim_engine_failures", "Calls and probes that failed", ["engine"], registry=registry
        )
        self.retries = Counter("usersim_engine_retries", "Calls retried", registry=registry)

    def observe_queue_time(self, seconds: float) -> None:
        self.queue_seconds.observe(seconds)
        if (context := request_context.current()) is not None:
            context.queued_s += seconds


class Metrics:
    """Metrics of one application, in their own registry, so that one process can hold several applications."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.received = Counter(
            "usersim_requests_received", "Requests received, by route", ["route"], registry=registry
        )
        self.requests = Counter(
            "usersim_requests", "Requests by route and outcome", ["route", "outcome"], registry=registry
        )
        self.by_key = Counter(
            "usersim_key_requests", "Requests by the name of their key", ["key", "outcome"], registry=registry
        )
        self.in_flight = Gauge("usersim_requests_in_flight", "Requests in progress", registry=registry)
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
        self.turns = Counter("usersim_turns", "User turns returned", registry=registry)
        self.ends = Counter("usersim_ends", "… of which ended the conversation", registry=registry)
        self.rejections = Counter(
            "usersim_guard_rejections",
            "Sampled turns that the guards rejected",
            ["reason"],
            registry=registry,
        )
        self.engine_up = Gauge("usersim_engine_up", "1 while the last probe succeeded", registry=registry)
        self.restarts = Gauge("usersim_engine_restarts", "Engine restarts", registry=registry)
        self.log_dropped = Gauge("usersim_log_lines_dropped", "Log lines dropped", registry=registry)

    def include(self, engines: EngineMetrics) -> None:
        self.registry.register(engines.registry)

    def request_started(self, context: RequestContext) -> None:
        self.received.labels(context.route).inc()
        self.in_flight.inc()

    def request_finished(self, context: RequestContext, outcome: str, seconds: float) -> None:
        self.in_flight.dec()
        self.requests.labels(context.route, outcome).inc()
        self.seconds.labels(context.route).observe(seconds)
        if context.key is not None:
            self.by_key.labels(context.key, outcome).inc()

    def count_turns(self, turns: Sequence[UserTurn]) -> None:
        prompt, sampled = turns[0].prompt_tokens, sum(turn.cost_tokens for turn in turns)
        self.turns.inc(len(turns))
        self.ends.inc(sum(turn.ends for turn in turns))
        self.tokens.labels("prompt").inc(prompt)
        self.tokens.labels("sampled").inc(sampled)
        if (context := request_context.current()) is not None:
            context.prompt_tokens += prompt
            context.sampled_tokens += sampled
        for turn in turns:
            self.count_rejections(turn.rejected)

    def count_rejections(self, reasons: Sequence[str]) -> None:
        for reason in reasons:
            self.rejections.labels(reason).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
