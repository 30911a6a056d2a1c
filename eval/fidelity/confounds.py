"""Confounds of a free-running comparison: differences between its two sides besides the simulator, in words."""

from __future__ import annotations

from eval.fidelity.report_record import Report, SimulatorReport
from eval.fidelity.samples.prepare import Side
from usersim.report.svg import percent
from usersim.users.guards import Guards

ANSWER_RATIO = 1.5
"""Median lengths of answers further apart than this are not one assistant's."""
FIRST_PAGE = (
    "This is the second page: conversations that ran freely, so that everything after the opening also depends on the "
    "assistant. The first page measures the next turn at people's own histories (usersim eval next-turn)."
)


def confounds(report: Report, simulator: SimulatorReport) -> list[str]:
    """Lines for beside the headline: n, the assistant, guards, the longest turn."""
    return [
        f"{report.n} conversations of {simulator.name} and {report.n} of people, the same n for every simulator; "
        "gates included.",
        answers_in_words(simulator.side, report.human),
        f"Guards: {guards_in_words(simulator.guards)}",
        f"Its longest turn has {simulator.side.longest_turn} words; {percent(simulator.people_longer)} of people's "
        "turns are longer. Where a cap forbids those, figures of length measure the cap as well.",
    ]


def answers_in_words(simulated: Side, human: Side) -> str:
    """Length of the assistant's answers on both sides; records do not name the assistant."""
    ours, theirs = simulated.answer_words, human.answer_words
    if ours is None or theirs is None:
        return "Assistant: one side has no answers."
    sentence = f"Assistant: its answers have {ours:.0f} words in the median, those to people {theirs:.0f}"
    if max(ours, theirs, 1.0) < ANSWER_RATIO * max(1.0, min(ours, theirs)):
        return sentence + "."
    return sentence + ": not the same assistant. Figures after the opening also measure that difference."


def guards_in_words(guards: Guards | None) -> str:
    if guards is None:
        return (
            "unknown (no record beside the file says). Where they were on, a low share of what they refuse is no "
            "finding."
        )
    names = [name for name in ("empty", "repeat", "goal_copy", "assistant_speak") if getattr(guards, name)]
    names += [f"turns over {guards.max_words} words"] if guards.max_words is not None else []
    if not names:
        return "off, as for people."
    return (
        f"on ({', '.join(names)}): such turns were thrown away and drawn anew, people's were not. A low share of "
        "them is no finding."
    )
