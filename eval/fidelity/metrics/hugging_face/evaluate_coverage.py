"""Coverage and density as a module of Hugging Face `evaluate`: `evaluate.load(".../evaluate_coverage.py")`.

A prediction and a reference is one conversation each: the list of its user turns. Both sides hold equally many.
"""

from __future__ import annotations

from typing import Any

import evaluate  # type: ignore[import-untyped]

from eval.fidelity.metrics.hugging_face.plain_turns import module_info, values
from eval.fidelity.metrics.texts.coverage import Coverage, Space


class EvaluateCoverage(evaluate.Metric):  # type: ignore[misc]
    """Returns {metric: value} for every metric of `Coverage`; attributes are scaled by the references."""

    def _info(self) -> evaluate.MetricInfo:
        return module_info(
            "Share of humans with a simulated neighbour, and how densely humans lie around simulated conversations."
        )

    def _compute(
        self,
        *,
        predictions: list[list[str]],
        references: list[list[str]],
        neighbours: int = 5,
        spaces: tuple[Space, ...] = ("behaviour",),
        **_: Any,
    ) -> dict[str, float]:
        return values(Coverage(neighbours, tuple(spaces)), predictions, references)
