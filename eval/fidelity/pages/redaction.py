"""Redaction: reports without any chat text."""

from __future__ import annotations

from eval.fidelity.report_record import Report


def without_text(report: Report) -> Report:
    """Returns the report without conversations, quiz and character n-grams; a few n-grams side by side can spell a
    name."""
    simulators = tuple(
        simulator.model_copy(
            update={
                "nearest": (),
                "farthest": (),
                "telling": simulator.telling.model_copy(update={"simulated_ngrams": (), "human_ngrams": ()}),
            }
        )
        for simulator in report.simulators
    )
    return report.model_copy(
        update={"simulators": simulators, "human_examples": (), "simulated_examples": {}, "quiz": ()}
    )


def has_text(report: Report) -> bool:
    return report != without_text(report)
