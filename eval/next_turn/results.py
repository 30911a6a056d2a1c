"""Records of a next-turn evaluation: the content of its report.json."""

from __future__ import annotations

from eval.fidelity.report_record import FileFacts
from eval.next_turn.comparison import Claim, Measurement
from usersim.stats.estimates import Estimate
from usersim.types import Record


class ReliabilityBin(Record):
    """Prefixes whose P(end) is in one bin."""

    predicted: float
    """Mean P(end)."""
    observed: float
    """Share of people who left there."""
    prefixes: int


class SimulatorResult(Record):
    """Results of one simulator at the shared prefixes."""

    name: str
    drawn_with: str
    """Model, prompt, temperature, guards."""
    spoke: int
    """Number of prefixes with a turn of the person at which it wrote a turn."""
    silent: int
    """Number of prefixes with a turn of the person at which it wrote nothing: it left, or failed."""
    failed: dict[str, int]
    """Number of prefixes at which it failed, by error; left out of both sides."""
    measurements: tuple[Measurement, ...]
    claims: tuple[Claim, ...]
    undefined: dict[str, str]
    """Metrics that could not be measured, with the reason."""
    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_slope: Estimate | None = None
    """Slope of a logistic regression of people's leaving on the logit of P(end); the ideal is 1."""
    calibration_intercept: Estimate | None = None
    """Intercept of the same regression; the ideal is 0."""
    bits_per_character: Estimate | None = None
    """Bits per character of people's turns under its weights, if accessible."""
    tells_probability: bool
    """It has a P(end); otherwise its decision to leave counts as 0 or 1."""


class SourceFacts(Record):
    """One corpus of the human side."""

    conversations: int
    people: int
    prefixes: int
    with_goal: int
    known_ends: int


class NextTurnReport(Record):
    """Comparison of simulators with people, at prefixes of people's conversations."""

    title: str
    sources: dict[str, SourceFacts]
    excluded: dict[str, int]
    """Number of excluded human conversations by reason."""
    prefixes: int
    """Number of prefixes at which the person and every simulator wrote a turn: text metrics are measured there."""
    conversations: int
    leaving_prefixes: int
    """Number of prefixes from the second turn on, with the person's decision to go on or to leave."""
    people: dict[str, Estimate]
    """People's own values by metric key."""
    simulators: tuple[SimulatorResult, ...]
    scorer: str
    """Model of the language-model scorer."""
    scorer_is_base_of: tuple[str, ...] = ()
    """Simulators that were trained from the scorer's weights."""
    family_b_use: int | None = None
    """Number of this use of discriminator family B, over all logged ones; None if it was not run."""
    notes: tuple[str, ...]
    seed: int
    files: tuple[FileFacts, ...]
    command: str = ""
    versions: dict[str, str]
    seconds: float
    minutes_by_stage: dict[str, float]
