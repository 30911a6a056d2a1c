"""Confounds of a free-running comparison: differences between its two sides besides the simulator, as sentences."""

from __future__ import annotations

from eval.fidelity.report_record import Report, SimulatorReport
from eval.fidelity.samples.prepare import SideFacts
from usersim.report.svg import percent
from usersim.users.guards import Guards

ANSWER_RATIO = 1.5
"""Ratio of median answer lengths above which the two sides did not talk to the same assistant."""
FIRST_PAGE = (
    "This is the second page: conversations that ran freely, so that everything after the opening also depends on the "
    "assistant. The first page measures the next turn at people's own histories (usersim eval next-turn)."
)


def confounds(report: Report, simulator: SimulatorReport) -> list[str]:
    """Returns the lines that stand beside the headline: n, the assistant, guards, the longest turn."""
    return [
        f"{report.n} conversations of {simulator.name} and {report.n} of people, the same n for every simulator; "
        "gates included.",
        answers_in_words(simulator.side, report.human),
        f"Guards: {guards_in_words(simulator.guards)}",
        f"Its longest turn has {simulator.side.longest_turn} words; {percent(simulator.people_longer)} of people's "
        "turns are longer. Where a cap forbids those, metrics of length also measure the cap.",
    ]


def answers_in_words(simulated: SideFacts, human: SideFacts) -> str:
    """Compares the length of the assistant's answers on both sides, as a sentence; records do not name the
    assistant."""
    simulated_words, human_words = simulated.answer_words, human.answer_words
    if simulated_words is None or human_words is None:
        return "Assistant: one side has no answers."
    sentence = (
        f"Assistant: its answers have {simulated_words:.0f} words in the median, "
        f"those to people {human_words:.0f}"
    )
    if max(simulated_words, human_words, 1.0) < ANSWER_RATIO * max(1.0, min(simulated_words, human_words)):
        return sentence + "."
    return sentence + ": not the same assistant. Metrics after the opening also measure that difference."


def guards_in_words(guards: Guards | None) -> str:
    if guards is None:
        return (
            "unknown (no record beside the file). Where they were on, a low share of what they reject is no "
            "finding."
        )
    rules = [name for name in ("empty", "repeat", "goal_copy", "assistant_speak") if getattr(guards, name)]
    rules += [f"turns over {guards.max_words} words"] if guards.max_words is not None else []
    if not rules:
        return "off, as for people."
    return (
        f"on ({', '.join(rules)}): such turns were rejected and sampled again, people's were not. A low share of "
        "them is no finding."
    )
