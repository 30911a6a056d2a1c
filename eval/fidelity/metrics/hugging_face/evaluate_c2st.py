"""The classifier two-sample test as a module of Hugging Face `evaluate`: `evaluate.load(".../evaluate_c2st.py")`.

A prediction and a reference is one conversation each: the list of its user turns. Both sides hold equally many.
"""

from __future__ import annotations

from typing import Any

import evaluate  # type: ignore[import-untyped]

from eval.fidelity.metrics.hugging_face.plain_turns import module_info, values
from eval.fidelity.metrics.texts.classifier import Classifier, View


class EvaluateC2ST(evaluate.Metric):  # type: ignore[misc]
    """Returns {`auc_<view>`: value} for the views text, behaviour and embeddings; without a human baseline, and 0.5 is
    not the value between humans."""

    def _info(self) -> evaluate.MetricInfo:
        return module_info(
            "Out-of-fold AUC of classifiers that tell simulated from human conversations; 0.5 cannot tell."
        )

    def _compute(
        self,
        *,
        predictions: list[list[str]],
        references: list[list[str]],
        views: tuple[View, ...] = ("text", "behaviour"),
        folds: int = 5,
        seed: int = 0,
        **_: Any,
    ) -> dict[str, float]:
        return {
            key: value
            for view in views
            for key, value in values(Classifier(view, folds, seed), predictions, references).items()
        }
