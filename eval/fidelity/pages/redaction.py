"""Reports without anything that somebody wrote."""

from __future__ import annotations

from eval.fidelity.report_record import Report


def without_text(report: Report) -> Report:
    """No conversation, no quiz, and no character runs either: a few of them side by side spell a name."""
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
