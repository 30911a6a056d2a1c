"""Metrics on plain lists of user turns: without records, floors or intervals. What the modules of Hugging Face
`evaluate` beside this file share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from eval.fidelity.metrics.metric_protocol import Metric
from eval.fidelity.metrics.texts.embedded import unavailable
from eval.fidelity.samples.features import Sample
from usersim.errors import DataError
from usersim.stats.estimates import Draws
from usersim.types import Conversation, Turn

Turns = Sequence[Sequence[str]]
"""Of every conversation its user turns."""


def values(metric: Metric, simulated: Turns, human: Turns) -> dict[str, float]:
    """{figure: value}; figures that cannot be measured are left out. Without a floor a value is not a verdict.

    Raises DataError for an empty side, sides of unequal size, a conversation without a turn, and where nothing at
    all can be measured.
    """
    if len(simulated) != len(human):
        raise DataError(f"{len(simulated)} simulated and {len(human)} human conversations: give equally many")
    ours, theirs = sample_of(simulated, "simulated"), sample_of(human, "human")
    draws = Draws(np.ones((1, len(ours))), np.ones((1, len(theirs))))
    measured = metric.measure(ours, theirs, pool=theirs, draws=draws)
    if not measured:
        raise DataError(f"cannot be measured on these conversations: {_labels(metric)}")
    return {key: found.value for key, found in measured.items()}


def _labels(metric: Metric) -> str:
    missing = unavailable() if any("embeddings" in spec.key for spec in metric.specs) else None
    return ", ".join(spec.label for spec in metric.specs) + (f" ({missing})" if missing else "")


def sample_of(conversations: Turns, origin: Literal["human", "simulated"]) -> Sample:
    """An empty answer stands between two user turns; nothing that reads answers can be measured of these."""
    if not conversations:
        raise DataError(f"no {origin} conversations")
    for number, texts in enumerate(conversations, start=1):
        if not texts:
            raise DataError(f"{origin} conversation {number} has no user turn")
    return Sample.of(
        [
            Conversation(
                id=f"{origin} {index}",
                origin=origin,
                source="turns",
                turns=tuple(
                    turn
                    for text in texts
                    for turn in (Turn(role="user", text=text), Turn(role="assistant", text=""))
                )[:-1],
            )
            for index, texts in enumerate(conversations)
        ]
    )


def module_info(description: str) -> Any:
    """The `evaluate.MetricInfo` of a module whose predictions and references are lists of user turns."""
    import datasets  # type: ignore[import-untyped]
    import evaluate  # type: ignore[import-untyped]

    turns = datasets.Sequence(datasets.Value("string"))
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions, references: the user turns of each simulated, each human conversation.",
        features=datasets.Features({"predictions": turns, "references": turns}),
    )
