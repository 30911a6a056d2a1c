"""Metrics on plain lists of user turns, without records, baselines or intervals; shared by the Hugging Face `evaluate`
modules beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from eval.fidelity.metrics.metric_protocol import MetricFamily
from eval.fidelity.metrics.texts.embedded import unavailable
from eval.fidelity.samples.features import Sample
from usersim.errors import DataError
from usersim.stats.estimates import Draws
from usersim.types import Conversation, Turn

Turns = Sequence[Sequence[str]]
"""User turns of every conversation."""


def values(family: MetricFamily, simulated: Turns, human: Turns) -> dict[str, float]:
    """Returns {metric: value}; metrics that cannot be measured are left out. Without a human baseline a value is no
    verdict.

    Raises:
        DataError: An empty side, sides of unequal size, a conversation without a turn, or no metric that can be
            measured.
    """
    if len(simulated) != len(human):
        raise DataError(f"{len(simulated)} simulated and {len(human)} human conversations: give equally many")
    simulated_sample, human_sample = sample_of(simulated, "simulated"), sample_of(human, "human")
    draws = Draws(np.ones((1, len(simulated_sample))), np.ones((1, len(human_sample))))
    measured = family.measure(simulated_sample, human_sample, pool=human_sample, draws=draws)
    if not measured:
        raise DataError(f"cannot be measured on these conversations: {_labels(family)}")
    return {key: measurement.value for key, measurement in measured.items()}


def _labels(family: MetricFamily) -> str:
    missing = unavailable() if any("embeddings" in spec.key for spec in family.specs) else None
    return ", ".join(spec.label for spec in family.specs) + (f" ({missing})" if missing else "")


def sample_of(conversations: Turns, origin: Literal["human", "simulated"]) -> Sample:
    """Returns a sample with an empty answer between user turns; metrics that read answers cannot be measured on it."""
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
