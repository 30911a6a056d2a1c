"""Records of a next-turn evaluation: everything that its report.json holds."""

from __future__ import annotations

from eval.fidelity.report_record import FileFacts
from eval.next_turn.comparison import Claim, Measurement
from usersim.stats.estimates import Estimate
from usersim.types import Record


class ReliabilityBin(Record):
    """Prefixes at which P(end) lay in one bin."""

    predicted: float
    """Mean P(end)."""
    observed: float
    """Share of the persons who left there."""
    prefixes: int


class SimulatorResult(Record):
    """One simulator at the shared prefixes."""

    name: str
    drawn_with: str
    """Model, prompt, temperature, guards."""
    spoke: int
    """Prefixes with a turn of the person at which it wrote something."""
    silent: int
    """Prefixes with a turn of the person at which it wrote nothing: it left, or failed."""
    failed: dict[str, int]
    """Prefixes at which it failed, by error; left out of both sides."""
    measurements: tuple[Measurement, ...]
    claims: tuple[Claim, ...]
    undefined: dict[str, str]
    """Metrics that could not be measured, with the reason."""
    reliability: tuple[ReliabilityBin, ...] = ()
    calibration_slope: Estimate | None = None
    """Slope of a logistic regression of the persons' leaving on the logit of P(end); 1 is ideal."""
    calibration_intercept: Estimate | None = None
    """0 is ideal."""
    bits_per_character: Estimate | None = None
    """Bits a character of people's turns under its own weights, where they are at hand."""
    tells_probability: bool
    """It gives P(end); otherwise whether it left counts as 0 or 1."""


class SourceFacts(Record):
    """One corpus of the human side."""

    conversations: int
    people: int
    prefixes: int
    with_goal: int
    known_ends: int


class NextTurnReport(Record):
    """Simulators beside people, at prefixes of the people's conversations."""

    title: str
    sources: dict[str, SourceFacts]
    excluded: dict[str, int]
    """Human conversations left out, by reason."""
    prefixes: int
    """Prefixes at which the person and every simulator wrote something: the text metrics are measured there."""
    conversations: int
    leaving_prefixes: int
    """Prefixes from the second turn on, with the person's decision to go on or to leave."""
    people: dict[str, Estimate]
    """People's own values by metric key."""
    simulators: tuple[SimulatorResult, ...]
    scorer: str
    """Model of the language-model scorer."""
    scorer_is_base_of: tuple[str, ...] = ()
    """Simulators that were trained from the scorer's weights."""
    family_b_use: int | None = None
    """Number of this use of discriminator family B, over all logged ones; None where it was not run."""
    notes: tuple[str, ...]
    seed: int
    files: tuple[FileFacts, ...]
    command: str = ""
    versions: dict[str, str]
    seconds: float
    minutes_by_stage: dict[str, float]
