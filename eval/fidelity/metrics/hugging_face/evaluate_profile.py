"""The marginal profile as a module of Hugging Face `evaluate`: `evaluate.load(".../evaluate_profile.py")`.

A prediction and a reference is one conversation each: the list of its user turns. As that library demands,
both sides hold equally many.
"""

from __future__ import annotations

from typing import Any

import evaluate  # type: ignore[import-untyped]

from eval.fidelity.metrics.hugging_face.plain_turns import module_info, values
from eval.fidelity.metrics.texts.marginals import Marginals


class EvaluateProfile(evaluate.Metric):  # type: ignore[misc]
    """Returns {metric: value} for every metric of `Marginals`; without a human baseline and interval, so it is no
    verdict."""

    def _info(self) -> evaluate.MetricInfo:
        return module_info("Wasserstein-1 (human SD) and Jensen-Shannon (bits) of user turns, per attribute.")

    def _compute(
        self, *, predictions: list[list[str]], references: list[list[str]], **_: Any
    ) -> dict[str, float]:
        return values(Marginals(), predictions, references)
