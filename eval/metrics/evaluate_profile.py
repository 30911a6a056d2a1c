"""The marginal profile as a module of Hugging Face `evaluate`: `evaluate.load(".../evaluate_profile.py")`.

A prediction and a reference is one conversation each: the list of its user turns. As that library demands,
both sides hold equally many.
"""

from __future__ import annotations

from typing import Any

import datasets  # type: ignore[import-untyped]
import evaluate  # type: ignore[import-untyped]
import numpy as np

from eval.estimates import Draws
from eval.features import Sample
from eval.metrics.marginals import Marginals
from usersim.types import Conversation, Turn


class EvaluateProfile(evaluate.Metric):  # type: ignore[misc]
    """{figure: value} for every figure of `Marginals`; no floor and no interval, so not a verdict."""

    def _info(self) -> evaluate.MetricInfo:
        turns = datasets.Sequence(datasets.Value("string"))
        return evaluate.MetricInfo(
            description="Wasserstein-1 (human SD) and Jensen-Shannon (bits) of user turns, per attribute.",
            citation="",
            inputs_description="predictions, references: user turns of simulated, human conversations.",
            features=datasets.Features({"predictions": turns, "references": turns}),
        )

    def _compute(
        self, *, predictions: list[list[str]], references: list[list[str]], **_: Any
    ) -> dict[str, float]:
        simulated, human = _sample(predictions, "simulated"), _sample(references, "human")
        draws = Draws(np.ones((1, len(simulated))), np.ones((1, len(human))))
        measured = Marginals().measure(simulated, human, pool=human, draws=draws)
        return {key: found.value for key, found in measured.items()}


def _sample(conversations: list[list[str]], origin: Any) -> Sample:
    # An answer stands between two user turns; what it says is never measured here.
    return Sample.of(
        [
            Conversation(
                id=str(index),
                origin=origin,
                source="evaluate",
                turns=tuple(turn for text in texts for turn in (_turn("user", text), _turn("assistant", "")))[
                    :-1
                ],
            )
            for index, texts in enumerate(conversations)
        ]
    )


def _turn(role: Any, text: str) -> Turn:
    return Turn(role=role, text=text)
