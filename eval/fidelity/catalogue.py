"""The metrics of the battery by name. A new one is a line in `METRICS` and a name in `eval.fidelity.settings`."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from eval.fidelity.metrics.metric_protocol import Metric
from eval.fidelity.settings import EvalConfig, Name
from usersim.stats.estimates import FigureSpec

METRICS: dict[Name, tuple[str, Callable[[Any, EvalConfig], Metric]]] = {
    "marginals": ("texts.marginals", lambda m, _: m.Marginals()),
    "text": ("texts.classifier", lambda m, c: m.Classifier("text", c.folds, c.seed, c.text_characters)),
    "behaviour": ("texts.classifier", lambda m, c: m.Classifier("behaviour", c.folds, c.seed)),
    "embeddings": ("texts.classifier", lambda m, c: m.Classifier("embeddings", c.folds, c.seed)),
    "coverage": ("texts.coverage", lambda m, c: m.Coverage(c.neighbours, spaces(c, "behaviour"))),
    "diversity": ("texts.diversity", lambda m, c: m.Diversity(seed=c.seed, spaces=spaces(c, "text"))),
    "dynamics": ("interaction.dynamics", lambda m, _: m.Dynamics()),
    "hazard": ("endings.hazard", lambda m, _: m.Hazard()),
    "disclosure": ("interaction.disclosure", lambda m, _: m.Disclosure()),
    "entrainment": ("interaction.entrainment", lambda m, c: m.Entrainment(c.seed)),
    "grounding": ("interaction.grounding", lambda m, _: m.Grounding()),
}
"""Module of `eval.fidelity.metrics` and factory of every metric; only those asked for are imported. The
report's order."""


def spaces(config: EvalConfig, first: str) -> tuple[str, ...]:
    """Sentence embeddings are a second space of the metrics that take one, where they are asked for at all."""
    return (first, "embeddings") if "embeddings" in config.metrics else (first,)


def metrics(config: EvalConfig) -> dict[Name, Metric]:
    return {name: metric_of(name, config) for name in METRICS if name in config.metrics}


def metric_of(name: Name, config: EvalConfig) -> Metric:
    module, factory = METRICS[name]
    return factory(import_module(f"eval.fidelity.metrics.{module}"), config)


def specs(config: EvalConfig) -> dict[str, tuple[Name, FigureSpec]]:
    """Every figure by its key, with the metric that measures it."""
    return {spec.key: (name, spec) for name, metric in metrics(config).items() for spec in metric.specs}
