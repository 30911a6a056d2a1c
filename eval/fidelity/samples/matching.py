"""Comparability of the two sides: differences become notes, and a meaningless comparison is an error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from eval.fidelity.samples.events import is_english
from eval.fidelity.samples.features import user_texts
from eval.fidelity.samples.language import language_of
from eval.fidelity.settings import TRUSTED_N, EvalConfig
from usersim.errors import DataError
from usersim.types import Conversation

FEW_CLUSTERS = 20
"""People or tasks below which the bootstrap's intervals are too narrow."""
FEW_PERSONAS = 10
"""So few personas are a design, not a sample; they are not resampled."""
LEAST_LANGUAGE_SHARE = 0.05


def person_of(conversation: Conversation) -> str:
    """Returns the person of a conversation as far as it is recorded: the cluster of the human side."""
    return conversation.user or conversation.group or conversation.id


def task_clusters(conversations: Sequence[Conversation]) -> list[str]:
    """Returns the cluster of each simulated conversation: its goal; without goals its persona, where there are many."""
    personas = [c.profile.persona.description if c.profile.persona else "" for c in conversations]
    many = len(set(personas) - {""}) >= FEW_PERSONAS
    return [
        c.profile.goal.summary if c.profile.goal else c.group or (many and persona) or c.id
        for c, persona in zip(conversations, personas, strict=True)
    ]


def check_sets(
    human: Sequence[Conversation], simulated: Mapping[str, Sequence[Conversation]], config: EvalConfig
) -> None:
    """Raises DataError for an empty side, a single person, a simulator that copies, and different languages."""
    for name, conversations in {"human": human, **simulated}.items():
        if not conversations:
            raise DataError(f"{name}: no conversation is left to compare; see what was left out, or the file")
    people = {person_of(c) for c in human}
    if len(people) == 1:
        raise DataError(
            f"human: all {len(human)} conversations are from one user or group; the human baseline compares different "
            "people with each other"
        )
    texts = {tuple(user_texts(c)) for c in human}
    for name, conversations in simulated.items():
        copied = sum(tuple(user_texts(c)) in texts for c in conversations)
        if copied > len(conversations) / 2:
            raise DataError(
                f"{name}: {copied} of {len(conversations)} conversations equal a human one word for word; give "
                "human conversations that the simulator does not contain"
            )
        simulated_language, human_language = main_language(conversations), main_language(human)
        if simulated_language and human_language and simulated_language != human_language:
            raise DataError(
                f"{name} is mostly in {simulated_language!r}, the human conversations in {human_language!r}; compare "
                "one language at a time (--language keeps one)"
            )


def matching_notes(
    human: Sequence[Conversation],
    simulated: Mapping[str, Sequence[Conversation]],
    n: int,
    config: EvalConfig,
) -> list[str]:
    """Returns the notes that a reader needs before the results."""
    notes = [_floor_note(human)]
    if n < TRUSTED_N:
        notes.append(f"Too few: {n} conversations per side. No verdicts; {TRUSTED_N} are the least.")
    notes += [
        note
        for note in (_languages("human", human), _long("human", human, config), _unread("human", human))
        if note
    ]
    for name, conversations in simulated.items():
        simulator_notes = (
            _clusters(name, conversations),
            *_goals(name, conversations, human),
            _systems(name, conversations, human),
            _languages(name, conversations),
            _long(name, conversations, config),
            _unread(name, conversations),
            _copies(name, conversations, human),
        )
        notes += [note for note in simulator_notes if note]
    return notes


def language_shares(conversations: Sequence[Conversation]) -> dict[str, float]:
    """Returns the share of each language among the conversations whose language is detected."""
    counts = Counter(language for c in conversations if (language := language_of(user_texts(c))))
    return {language: count / counts.total() for language, count in counts.most_common()}


def main_language(conversations: Sequence[Conversation]) -> str | None:
    """Returns the language of more than half of the conversations whose language is detected."""
    best = next(iter(language_shares(conversations).items()), None)
    return best[0] if best and best[1] > 0.5 else None


def _floor_note(human: Sequence[Conversation]) -> str:
    people = len({c.user for c in human if c.user})
    if 2 * sum(c.user is not None for c in human) > len(human):
        warning = " So few people make intervals too narrow." if people < FEW_CLUSTERS else ""
        return (
            f"The human baseline compares disjoint sets of the {people} people, and intervals resample whole people."
            + warning
        )
    return (
        "The human baseline comes from random halves of the human conversations. Without user ids the same "
        "person may be on both sides, so it is a lower bound: people differ more than it shows. For the same "
        "reason intervals resample conversations and may be too narrow."
    )


def _clusters(name: str, conversations: Sequence[Conversation]) -> str | None:
    count = len(set(task_clusters(conversations)))
    if count >= FEW_CLUSTERS:
        return None
    return f"{name}: only {count} different goals or personas; intervals over so few are too narrow."


def _goals(name: str, conversations: Sequence[Conversation], human: Sequence[Conversation]) -> list[str]:
    notes = []
    goals = {c.profile.goal.summary for c in human if c.profile.goal}
    stated_goals = [c.profile.goal.summary for c in conversations if c.profile.goal]
    unmatched = sum(goal not in goals for goal in stated_goals)
    if unmatched:
        notes.append(
            f"{name}: {unmatched} of {len(stated_goals)} goals do not occur among the human conversations."
        )
    if stated_goals and len(stated_goals) > unmatched:
        notes.append(
            f"{name} had goals of the human conversations. Where these goals were written from what people said, "
            "people have said nearly all of it: goal disclosure then compares simulators with each other, "
            "not with people."
        )
    without_goal = sum(c.profile.goal is None for c in human)
    if 2 * len(stated_goals) > len(conversations) and without_goal > 0.1 * len(human):
        notes.append(
            f"{name} had goals; {without_goal} of {len(human)} human conversations have none, so topics may "
            "differ. --same-goals keeps only human conversations with a simulated goal."
        )
    if 2 * len(stated_goals) < len(conversations) and 2 * without_goal < len(human):
        notes.append(f"{name}: most conversations state no goal, most human ones do; topics may differ.")
    return notes


def _systems(name: str, conversations: Sequence[Conversation], human: Sequence[Conversation]) -> str | None:
    simulated_systems, human_systems = ({c.system for c in side} for side in (conversations, human))
    if simulated_systems <= human_systems:
        return None
    return (
        f"{name}: the assistant's system prompt is not that of the human side; metrics after the opening also "
        "measure that difference."
    )


def _languages(name: str, conversations: Sequence[Conversation]) -> str | None:
    shares = language_shares(conversations)
    shares_text = ", ".join(f"{language} {share:.0%}" for language, share in shares.items())
    is_mixed = 1 - max(shares.values(), default=1.0) >= LEAST_LANGUAGE_SHARE
    return f"{name}: mixed languages ({shares_text}). --language keeps one." if is_mixed else None


def _long(name: str, conversations: Sequence[Conversation], config: EvalConfig) -> str | None:
    long = sum(sum(map(len, user_texts(c))) > config.text_characters for c in conversations)
    if not long:
        return None
    return (
        f"{name}: the text classifier reads the first {config.text_characters} characters of {long} longer "
        "conversations. Embeddings read the beginnings of the first eight turns; the other metrics read all."
    )


def _unread(name: str, conversations: Sequence[Conversation]) -> str | None:
    """Returns a note on the conversations that dynamics and grounding leave out, because their rules know only
    English."""
    if not (foreign := sum(not is_english(c) for c in conversations)):
        return None
    return f"{name}: dynamics and grounding leave out {foreign} conversations that are not in English."


def _copies(name: str, conversations: Sequence[Conversation], human: Sequence[Conversation]) -> str | None:
    texts = {tuple(user_texts(c)) for c in human}
    copied = sum(tuple(user_texts(c)) in texts for c in conversations)
    return f"{name}: {copied} conversations equal a human one word for word." if copied else None
