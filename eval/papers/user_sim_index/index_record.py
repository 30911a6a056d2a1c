"""Records of a comparison by the User-Sim Index."""

from __future__ import annotations

from typing import Literal

from eval.fidelity.report_record import FileFacts
from eval.papers.user_sim_index.outcomes import OutcomeCalibration
from eval.papers.user_sim_index.survey import SurveyScore
from usersim.stats.estimates import Estimate, Figure
from usersim.types import Record

Label = Literal["D1-D4 only", "D1-D4 and ECE", "D1-D4 and Eval", "D1-D4, Eval and ECE"]


class Published(Record):
    """The paper's number: all conversations, a mean over batches of people."""

    label: Label
    usi: Estimate
    """Interval: people and goals (and tasks) resampled, the parts treated as independent."""
    usi_sd: float | None
    """SD over the batches of people, the paper's "±"; None with one batch."""
    dimensions: dict[str, Estimate]
    evaluation: float | None
    ece: float | None


class FeatureMeans(Record):
    key: str
    human: float
    simulated: float


class SimulatorIndex(Record):
    name: str
    file: FileFacts | None = None
    given: int
    empty: int
    """Conversations without a user turn, left out."""
    published: Published
    figures: tuple[Figure, ...]
    """At the same n as the human ceiling: D1 to D4, their mean, the Dice of each feature, coverage and density."""
    features: tuple[FeatureMeans, ...]
    """Over all conversations."""
    calibration: OutcomeCalibration | None
    agreement: SurveyScore | None


class IndexReport(Record):
    kind: Literal["usi"] = "usi"
    n: int
    """Conversations per side in `figures`."""
    human: int
    batches: tuple[int, ...]
    """Conversations of each batch of people."""
    clusters: int
    """Persons; or conversations, where their persons are unknown."""
    simulators: tuple[SimulatorIndex, ...]
    notes: tuple[str, ...]
    seed: int
    bootstrap: int
    floor_repeats: int
    versions: dict[str, str]
    seconds: float
    human_files: tuple[FileFacts, ...] = ()
    command: str = ""
