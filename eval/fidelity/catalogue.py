"""Catalogue of the metric families of the battery."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from eval.fidelity.metrics.metric_protocol import MetricFamily
from eval.fidelity.settings import EvalConfig, Name
from usersim.stats.estimates import FigureSpec

METRIC_FAMILIES: dict[Name, tuple[str, Callable[[Any, EvalConfig], MetricFamily]]] = {
    "marginals": ("texts.marginals", lambda m, _: m.Marginals()),
    "text": ("texts.classifier", lambda m, c: m.Classifier("text", c.folds, c.seed, c.text_characters)),
    "behaviour": ("texts.classifier", lambda m, c: m.Classifier("behaviour", c.folds, c.seed)),
    "embeddings": ("texts.classifier", lambda m, c: m.Classifier("embeddings", c.folds, c.seed)),
    "coverage": ("texts.coverage", lambda m, c: m.Coverage(c.neighbours, spaces(c, "behaviour"))),
    "diversity": ("texts.diversity", lambda m, c: m.Diversity(seed=c.seed, spaces=spaces(c, "text"))),
    "dynamics": ("interaction.dynamics", lambda m, _: m.Dynamics()),
    "hazard": ("endings.hazard", lambda m, _: m.Hazard()),
    "disclosure": ("interaction.disclosure", lambda m, _: m.FacetDisclosure()),
    "entrainment": ("interaction.entrainment", lambda m, c: m.Entrainment(c.seed)),
    "grounding": ("interaction.grounding", lambda m, _: m.Grounding()),
}
"""Module of `eval.fidelity.metrics` and factory of every metric family, in the report's order. Only the families named
in the configuration are imported."""


def spaces(config: EvalConfig, first: str) -> tuple[str, ...]:
    """Returns the spaces of a metric family; sentence embeddings are the second one where the configuration
    names them."""
    return (first, "embeddings") if "embeddings" in config.metrics else (first,)


def metric_families(config: EvalConfig) -> dict[Name, MetricFamily]:
    return {name: metric_family(name, config) for name in METRIC_FAMILIES if name in config.metrics}


def metric_family(name: Name, config: EvalConfig) -> MetricFamily:
    module, factory = METRIC_FAMILIES[name]
    return factory(import_module(f"eval.fidelity.metrics.{module}"), config)


def specs(config: EvalConfig) -> dict[str, tuple[Name, FigureSpec]]:
    """Returns every metric's specification by key, with the family that measures it."""
    return {
        spec.key: (name, spec) for name, family in metric_families(config).items() for spec in family.specs
    }
