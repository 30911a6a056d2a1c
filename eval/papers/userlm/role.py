"""Role adherence: whether the simulated user stays a user when the assistant does not help, by rules.

A user asks a multiple-choice question and the assistant cannot decide, or asks to trade places. The user keeps
its role if its next turn names none of the choices (the paper's test, by substring) and has no phrase of an
assistant. A user who leaves keeps its role; the number who left is reported beside it. No person was in these
situations, so people are measured on ordinary turns: the error rate of the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from eval.fidelity.metrics.gates import ROLE_LABEL
from eval.likelihood.drawing import Ask, Batch
from eval.likelihood.roles import Said, Voice
from eval.papers.userlm.metric_rows import Row
from eval.papers.userlm.temptations import HEDGES, QUESTIONS, SWAPS, ChoiceQuestion
from usersim.stats.estimates import newcombe, wilson
from usersim.types import Goal, Turn, UserProfile
from usersim.users.guards import ASSISTANT_SPEAK

Temptation = Literal["undecided", "swap"]
QUIZ_GOAL = Goal(summary="find out which choice of a multiple-choice question is right")
LETTERS = "ABCDEFGH"


def role_asks(kind: Temptation, count: int) -> list[tuple[Ask, ChoiceQuestion]]:
    """Returns `count` prefixes that cycle through the questions and then the assistant's lines."""
    lines = HEDGES if kind == "undecided" else SWAPS
    prefixes = []
    for index in range(count):
        question = QUESTIONS[index % len(QUESTIONS)]
        line = lines[(index // len(QUESTIONS) + index) % len(lines)]
        choices_text = "\n".join(f"{a}) {c}" for a, c in zip(LETTERS, question.choices, strict=False))
        turns = (
            Turn(role="user", text=f"{question.text}\n{choices_text}"),
            Turn(role="assistant", text=line),
        )
        prefixes.append((Ask(f"role {kind} {index}", UserProfile(goal=QUIZ_GOAL), turns), question))
    return prefixes


def names_a_choice(text: str, question: ChoiceQuestion) -> bool:
    normal_text = f" {_normal(text)} "
    return any(f" {_normal(choice)} " in normal_text for choice in question.choices)


def _normal(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def speaks_as_assistant(text: str) -> bool:
    return bool(ASSISTANT_SPEAK.search(text) or ROLE_LABEL.match(text))


def role_rows(
    speaker: str,
    kind: Temptation,
    prefixes: Sequence[tuple[Ask, ChoiceQuestion]],
    batch: Batch,
    voice: Voice | None,
    people: Sequence[Said],
) -> list[Row]:
    """Returns the rows of a kind. Turns that could not be sampled are left out. `people` are at most as many real
    turns in ordinary positions."""
    answered = [(batch.turns[ask.key], question) for ask, question in prefixes if ask.key in batch.turns]
    if not answered:
        return []
    label = {"undecided": "assistant cannot decide", "swap": "assistant asks to trade places"}[kind]
    left_count = sum(turn.ends for turn, _ in answered)
    note = f"{left_count} of {len(answered)} left instead"
    no_choice_flags = [turn.ends or not names_a_choice(turn.text, question) for turn, question in answered]
    rows = [
        _row(speaker, f"{kind}_no_answer", f"{label}: names no choice", no_choice_flags, None, note),
        _row(
            speaker,
            f"{kind}_no_phrases",
            f"{label}: no stock phrase of assistants",
            [turn.ends or not speaks_as_assistant(turn.text) for turn, _ in answered],
            [not speaks_as_assistant(turn.text) for turn in people],
            "people: ordinary turns",
        ),
    ]
    texts = [turn.text for turn, _ in answered if not turn.ends and turn.text.strip()]
    if voice is not None and texts:
        simulated_flags = list(voice.scores(texts) <= voice.threshold)
        human_flags = list(voice.scores([turn.text for turn in people]) <= voice.threshold)
        rows.append(
            _row(
                speaker,
                f"{kind}_voice",
                f"{label}: a classifier hears a user",
                simulated_flags,
                human_flags,
                f"finds {voice.sensitivity:.0%} of real assistant turns; people: ordinary turns",
            )
        )
    return rows


def _row(
    speaker: str, key: str, label: str, flags: Sequence[bool], people: Sequence[bool] | None, note: str
) -> Row:
    value = wilson(sum(map(bool, flags)), len(flags))
    human = wilson(sum(map(bool, people)), len(people)) if people else None
    return Row(
        metric="role adherence",
        speaker=speaker,
        key=key,
        label=label,
        better="higher",
        value=value,
        human=human,
        gap=newcombe(value, human) if human else None,
        note=note,
    )
