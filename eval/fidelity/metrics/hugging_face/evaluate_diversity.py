"""Diversity of user text as a module of Hugging Face `evaluate`: `evaluate.load(".../evaluate_diversity.py")`.

A prediction and a reference is one conversation each: the list of its user turns. Both sides hold equally many.
"""

from __future__ import annotations

from typing import Any

import evaluate  # type: ignore[import-untyped]

from eval.fidelity.metrics.hugging_face.plain_turns import module_info, values
from eval.fidelity.metrics.texts.diversity import Diversity, Space


class EvaluateDiversity(evaluate.Metric):  # type: ignore[misc]
    """Returns {metric: value} for every metric of `Diversity` that needs no goals."""

    def _info(self) -> evaluate.MetricInfo:
        return module_info(
            "Distance of distinct-2, Vendi score and mean similarity from those of the references, at equal words."
        )

    def _compute(
        self,
        *,
        predictions: list[list[str]],
        references: list[list[str]],
        words: int = 32,
        seed: int = 0,
        spaces: tuple[Space, ...] = ("text",),
        **_: Any,
    ) -> dict[str, float]:
        return values(Diversity(words, seed, tuple(spaces)), predictions, references)
