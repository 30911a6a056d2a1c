"""The report record: everything that `report.json` holds."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from eval.estimates import Figure, Floats
from eval.metrics.gates import GateResult
from eval.prepare import Side
from eval.settings import EvalConfig
from usersim.types import Conversation, Record

PACKAGES = ("usersim-lm", "numpy", "scikit-learn", "pydantic", "torch", "transformers")


class FileFacts(Record):
    path: str
    sha256: str


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
    inside_floor: int
    figures: int
    called_different: int
    """Figures with the verdict "different", each judged by itself."""
    worst: str
    """Label of the figure furthest beyond the floor, in widths of the floor (median to its far end)."""
    worst_floor_widths: float
    humans_worst: float
    """The same of two human halves: 95 % of the splits stay below it in all figures at once."""
    different: bool
    """`worst_floor_widths` is beyond `humans_worst`: one verdict over all figures, wrong for 1 in 20 humans."""


class SimulatorReport(Record):
    name: str
    file: FileFacts | None = None
    side: Side
    headline: Headline
    gates: tuple[GateResult, ...]
    figures: tuple[Figure, ...]
    telling: Telling


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


def headline(figures: Sequence[Figure], floors: Mapping[str, Floats]) -> Headline:
    """A vector and not an index: how many figures lie inside the floor, and the worst of them."""
    counted = [figure for figure in figures if figure.headline]
    worst = max(counted, key=floor_widths)
    # Splits are shared by all figures, so the worst figure of a split is taken over dependent ones as it should.
    of_splits = np.max([widths(figure, floors[figure.key]) for figure in counted], axis=0)
    humans_worst = float(np.quantile(of_splits, 0.95))
    return Headline(
        inside_floor=sum(figure.inside_floor for figure in counted),
        figures=len(counted),
        called_different=sum(figure.verdict == "different" for figure in counted),
        worst=worst.label,
        worst_floor_widths=floor_widths(worst),
        humans_worst=humans_worst,
        different=floor_widths(worst) > humans_worst and worst.verdict != "too few",
    )


def floor_widths(figure: Figure) -> float:
    """Excess over the distance from the floor's median to its far end: 1 is the edge of what humans do."""
    return float(widths(figure, np.array([figure.value.value]))[0])


def widths(figure: Figure, values: Floats) -> Floats:
    floor = figure.floor
    if figure.worse == "higher":
        return (values - floor.median) / max(floor.high - floor.median, 1e-9)
    return (floor.median - values) / max(floor.median - floor.low, 1e-9)


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
