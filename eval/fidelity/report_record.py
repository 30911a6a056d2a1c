"""Report record: everything that `report.json` holds."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from eval.fidelity.metrics.gates import GateResult
from eval.fidelity.metrics.metric_protocol import Curve
from eval.fidelity.samples.prepare import SideFacts
from eval.fidelity.settings import EvalConfig
from eval.fidelity.verdicts import floor_width
from usersim.cli import readable
from usersim.stats.estimates import Z95, Figure, Floats
from usersim.types import Conversation, Record
from usersim.users.guards import Guards
from usersim.weights.default_model import file_hash

PACKAGES = ("usersim-lm", "numpy", "scikit-learn", "pydantic", "torch", "transformers")


class FileFacts(Record):
    path: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        return cls(path=readable(path), sha256=file_hash(path))


class FeatureShape(Record):
    """Distribution of one attribute over human and simulated turns, for display. Each conversation has the
    same weight."""

    key: str
    label: str
    bins: tuple[str, ...]
    is_share: bool
    """`average` is a mean share or ratio; otherwise a median count."""
    human: tuple[float, ...]
    """Share of turns per bin."""
    human_average: float | None
    simulated: dict[str, tuple[float, ...]]
    simulated_average: dict[str, float | None]


class Telling(Record):
    """Features that the classifiers rely on."""

    simulated_ngrams: tuple[str, ...]
    human_ngrams: tuple[str, ...]
    features: tuple[tuple[str, float], ...]
    """(feature, AUC of the feature alone); above 0.5 the simulator has more of it."""


class Headline(Record):
    """Labels of the metrics that differ, that are equivalent, and that are inconclusive; no count and no index."""

    gates: tuple[str, ...]
    """Gates that differ."""
    different: tuple[str, ...]
    """Metrics with the verdict "different", after Holm's adjustment; the furthest from people first."""
    equivalent: tuple[str, ...]
    not_told: tuple[str, ...]
    """All other metrics: neither equality nor a difference is shown for them."""
    p: float
    """Share of human splits whose worst metric is at least as far out: one p-value over all metrics."""
    is_different: bool
    """p ≤ 0.05. Wrong for about one in twenty sets of humans, whatever the number of metrics."""
    too_few: bool = False
    """Fewer conversations than a verdict needs (`settings.TRUSTED_N`): never called different."""

    @property
    def overall(self) -> str:
        if self.too_few:
            return "too few for a verdict"
        return "different from human" if self.is_different else "no difference found"


class SimulatorReport(Record):
    name: str
    file: FileFacts | None = None
    side: SideFacts
    guards: Guards | None = None
    """Guards that it ran under; None: unknown."""
    people_longer: float = 0.0
    """Share of people's turns with more words than its longest turn."""
    headline: Headline
    gates: tuple[GateResult, ...]
    figures: tuple[Figure, ...]
    telling: Telling
    curves: tuple[Curve, ...] = ()
    nearest: tuple[Conversation, ...] = ()
    """Its conversations that the classifiers took most for human; chat text, empty with `--no-text`."""
    farthest: tuple[Conversation, ...] = ()
    missing: dict[str, str] = Field(default_factory=dict)
    """Metrics that could not be measured, with the reason."""


class QuizItem(Record):
    """Quiz question: which of two openings is human?"""

    first: Conversation
    second: Conversation
    human: Literal["first", "second"]
    simulator: str


class Report(Record):
    kind: Literal["fidelity"] = "fidelity"
    title: str = "Simulated against human users"
    n: int
    """Conversations per side in every metric with a human baseline."""
    turn_cap: int | None
    turn_cap_from: Literal["given", "inferred", "none"]
    human: SideFacts
    human_file: FileFacts | None = None
    simulators: tuple[SimulatorReport, ...]
    features: tuple[FeatureShape, ...]
    notes: tuple[str, ...]
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    human_examples: tuple[Conversation, ...] = ()
    """Chat text; empty with `--no-text`."""
    simulated_examples: dict[str, tuple[Conversation, ...]] = Field(default_factory=dict)
    quiz: tuple[QuizItem, ...] = ()
    """Chat text; empty with `--no-text`."""
    command: str = ""
    """Command line of the run."""
    costs: dict[str, float] = Field(default_factory=dict)
    """Tokens, calls and money of an LLM judge, where one was used."""


def headline(
    metrics: Sequence[Figure], gates: Sequence[GateResult], floors: Mapping[str, Floats]
) -> Headline:
    """Returns the headline: gates, then the metrics by verdict, the furthest from people first."""
    headline_metrics = sorted(
        (metric for metric in metrics if metric.headline), key=lambda f: -floor_widths(f)
    )
    p, too_few = worst_of_all_p(headline_metrics, floors), headline_metrics[0].verdict == "too few"

    def labels(*verdicts: str) -> tuple[str, ...]:
        return tuple(metric.label for metric in headline_metrics if metric.verdict in verdicts)

    return Headline(
        gates=tuple(gate.label for gate in gates if gate.verdict == "different"),
        different=labels("different"),
        equivalent=labels("equivalent"),
        not_told=labels("inconclusive", "too few"),
        p=p,
        is_different=p <= 0.05 and not too_few,
        too_few=too_few,
    )


def in_words(summary: Headline) -> list[str]:
    """Returns the headline as sentences: gates, different, equivalent, inconclusive, then the test over all metrics."""

    def joined(labels: Sequence[str]) -> str:
        return "; ".join(labels) if labels else "none"

    return [
        f"Gates that differ: {joined(summary.gates)}.",
        f"Different from people: {joined(summary.different)}.",
        f"Equivalent within the margin: {joined(summary.equivalent)}.",
        f"Not told, which is not the same as equal: {joined(summary.not_told)}.",
        f"One test over all metrics: {summary.overall} (p {summary.p:.3f}).",
    ]


def floor_widths(metric: Figure) -> float:
    """Returns the excess divided by the distance from the baseline's median to its far end; 1 is the edge of human
    variation."""
    # Where hardly any split shows anything (a rare act), the baseline has next to no width.
    return metric.excess.value / max(floor_width(metric.floor, metric.worse), _bootstrap_width(metric) / 4)


def worst_of_all_p(metrics: Sequence[Figure], floors: Mapping[str, Floats]) -> float:
    """Returns one p-value over all metrics: Westfall and Young's max statistic.

    The simulator's worst metric is ranked among the worst metric of every human split. All metrics share
    the splits, so their dependence is taken into account.

    A metric's width is that of its human baseline, the simulator's value included. It is at least the width
    from the simulator's own bootstrap, because the splits know the pool only. Without that lower bound,
    humans with a few more rare acts or long tails than the pool are called different far too often. For 16
    independent metrics at n = 100 the share is 15 to 30 % of draws. With the bound it is 2 to 4 %, at the
    power of a permutation test over both sides.

    A split in which a metric has nothing to measure is judged by the other metrics.
    """
    worst = np.full(len(floors[metrics[0].key]) + 1, -np.inf)
    for metric in metrics:
        sign = 1.0 if metric.worse == "higher" else -1.0
        values = sign * np.append(floors[metric.key], metric.value.value)
        middle, end = np.nanquantile(values, [0.5, 0.975])
        worst = np.fmax(worst, (values - middle) / max(end - middle, _bootstrap_width(metric)))
    return float((worst[:-1] >= worst[-1]).sum() + 1) / len(worst)


def _bootstrap_width(metric: Figure) -> float:
    """Estimates the baseline's width from the bootstrap interval of the excess, which is 3.92 standard deviations wide.
    The median of |Z| lies 1.57 standard deviations below its 97.5 % quantile."""
    return max(1.567 / (2 * Z95) * (metric.excess.high - metric.excess.low), 1e-9)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    version_by_package = {"python": platform.python_version()}
    for package in packages:
        try:
            version_by_package[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return version_by_package
