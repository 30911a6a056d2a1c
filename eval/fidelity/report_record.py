"""The report record: everything that `report.json` holds."""

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
from eval.fidelity.samples.prepare import Side
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
    """One attribute of human and simulated turns, for the eye. Each conversation weighs the same."""

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
    """What the classifiers go by."""

    simulated_ngrams: tuple[str, ...]
    human_ngrams: tuple[str, ...]
    features: tuple[tuple[str, float], ...]
    """(feature, AUC of it alone); above 0.5: the simulator has more of it."""


class Headline(Record):
    """What differs, what is equivalent and what could not be told, by label; no count and no index."""

    gates: tuple[str, ...]
    """Gates that differ."""
    different: tuple[str, ...]
    """Figures with the verdict "different", after Holm's adjustment; the furthest from people first."""
    equivalent: tuple[str, ...]
    not_told: tuple[str, ...]
    """All others: equality is not shown for them, and neither is a difference."""
    p: float
    """Share of human splits whose worst figure is at least as far out: one p-value over all figures."""
    is_different: bool
    """p ≤ 0.05. Wrong for about one in twenty sets of humans, however many figures there are."""
    too_few: bool = False
    """Fewer conversations than carry a verdict (`settings.TRUSTED_N`): never called different."""

    @property
    def overall(self) -> str:
        if self.too_few:
            return "too few for a verdict"
        return "different from human" if self.is_different else "no difference found"


class SimulatorReport(Record):
    name: str
    file: FileFacts | None = None
    side: Side
    guards: Guards | None = None
    """Guards that it ran under; None: not known."""
    people_longer: float = 0.0
    """Share of people's turns with more words than its longest turn."""
    headline: Headline
    gates: tuple[GateResult, ...]
    figures: tuple[Figure, ...]
    telling: Telling
    curves: tuple[Curve, ...] = ()
    nearest: tuple[Conversation, ...] = ()
    """Its conversations that the classifiers took most for human; chat text, empty under `--no-text`."""
    farthest: tuple[Conversation, ...] = ()
    missing: dict[str, str] = Field(default_factory=dict)
    """Figures that could not be measured, with the reason."""


class QuizItem(Record):
    """Two openings of conversations side by side: which one is human?"""

    first: Conversation
    second: Conversation
    human: Literal["first", "second"]
    simulator: str


class Report(Record):
    kind: Literal["fidelity"] = "fidelity"
    title: str = "Simulated against human users"
    n: int
    """Conversations per side in every figure with a floor."""
    turn_cap: int | None
    turn_cap_from: Literal["given", "inferred", "none"]
    human: Side
    human_file: FileFacts | None = None
    simulators: tuple[SimulatorReport, ...]
    features: tuple[FeatureShape, ...]
    notes: tuple[str, ...]
    config: EvalConfig
    versions: dict[str, str]
    seconds: float
    human_examples: tuple[Conversation, ...] = ()
    """Chat text; empty under `--no-text`."""
    simulated_examples: dict[str, tuple[Conversation, ...]] = Field(default_factory=dict)
    quiz: tuple[QuizItem, ...] = ()
    """Chat text; empty under `--no-text`."""
    command: str = ""
    """What was typed."""
    costs: dict[str, float] = Field(default_factory=dict)
    """Judges' tokens, calls and money, where a judge was asked."""


def headline(
    figures: Sequence[Figure], gates: Sequence[GateResult], floors: Mapping[str, Floats]
) -> Headline:
    """Gates first, then every figure by name under its verdict, the furthest from people first."""
    named = sorted((figure for figure in figures if figure.headline), key=lambda f: -floor_widths(f))
    p, too_few = worst_of_all_p(named, floors), named[0].verdict == "too few"

    def labels(*verdicts: str) -> tuple[str, ...]:
        return tuple(figure.label for figure in named if figure.verdict in verdicts)

    return Headline(
        gates=tuple(gate.label for gate in gates if gate.verdict == "different"),
        different=labels("different"),
        equivalent=labels("equivalent"),
        not_told=labels("inconclusive", "too few"),
        p=p,
        is_different=p <= 0.05 and not too_few,
        too_few=too_few,
    )


def in_words(found: Headline) -> list[str]:
    """The headline as sentences: gates, then different, equivalent, not told, then the test over all figures."""

    def listed(labels: Sequence[str]) -> str:
        return "; ".join(labels) if labels else "none"

    return [
        f"Gates that differ: {listed(found.gates)}.",
        f"Different from people: {listed(found.different)}.",
        f"Equivalent within the margin: {listed(found.equivalent)}.",
        f"Not told, which is not the same as equal: {listed(found.not_told)}.",
        f"One test over all figures: {found.overall} (p {found.p:.3f}).",
    ]


def floor_widths(figure: Figure) -> float:
    """Excess over the distance from the floor's median to its far end: 1 is the edge of what humans do."""
    # Where hardly any split shows anything (a rare act), the floor has next to no width.
    return figure.excess.value / max(floor_width(figure.floor, figure.worse), _newcomer_width(figure) / 4)


def worst_of_all_p(figures: Sequence[Figure], floors: Mapping[str, Floats]) -> float:
    """Westfall and Young's max statistic: the worst figure of the simulator among the worst of every split.

    The splits are shared by all figures, so their dependence is taken as it is. A figure's width is that of its
    floor, the simulator's own value included, but no less than what the newcomer's own bootstrap says: the splits
    know the pool only. Without that, a set of humans with a few rare acts or long tails more than the pool is called
    different far too often (15 to 30 % for 16 independent figures at n = 100; with it 2 to 4 %, at the power of a
    permutation test over both sides). A split in which a figure has nothing to measure is judged by the others.
    """
    worst = np.full(len(floors[figures[0].key]) + 1, -np.inf)
    for figure in figures:
        sign = 1.0 if figure.worse == "higher" else -1.0
        values = sign * np.append(floors[figure.key], figure.value.value)
        middle, end = np.nanquantile(values, [0.5, 0.975])
        worst = np.fmax(worst, (values - middle) / max(end - middle, _newcomer_width(figure)))
    return float((worst[:-1] >= worst[-1]).sum() + 1) / len(worst)


def _newcomer_width(figure: Figure) -> float:
    """What the floor's width would be by the bootstrap: the median of |Z| is 1.57 standard deviations below its
    97.5 % quantile, and the interval of the excess is 3.92 wide."""
    return max(1.567 / (2 * Z95) * (figure.excess.high - figure.excess.low), 1e-9)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
