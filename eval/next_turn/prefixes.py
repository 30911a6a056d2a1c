"""Prefixes of human conversations: a history with the person's next decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from eval.fidelity.samples.language import language_of
from eval.fidelity.samples.matching import person_of
from usersim.stats.estimates import rng_for
from usersim.types import Conversation, Goal, Record, Turn


class Prefix(Record):
    """History that ends before a user turn, with the person's decision there."""

    id: str
    """`CONVERSATION@POSITION`."""
    conversation: str
    cluster: str
    """Unit of resampling: the person if the corpus names one, else the conversation."""
    source: str
    position: int
    """Number of the next user turn, from 1."""
    history: tuple[Turn, ...]
    """Turns before it, alternating, from the opening on; empty at position 1."""
    goal: Goal | None
    text: str | None
    """The person's next turn; None if the person left."""

    @property
    def has_left(self) -> bool:
        return self.text is None

    @property
    def answer(self) -> str | None:
        """The assistant's last message; None at position 1."""
        return self.history[-1].text if self.history else None


def prefixes_of(conversation: Conversation) -> list[Prefix]:
    """Returns every prefix of a conversation before a user turn, and the closing one after a known end.

    The conversation begins with the user; `usable` excludes others beforehand.
    """
    prefixes = []
    for index, turn in enumerate(conversation.turns):
        if turn.role == "user":
            prefixes.append(_prefix(conversation, index, turn.text))
    if conversation.ended_by == "user" and conversation.turns and conversation.turns[-1].role == "assistant":
        prefixes.append(_prefix(conversation, len(conversation.turns), None))
    return prefixes


def usable(
    conversations: Sequence[Conversation], language: str | None = "en"
) -> tuple[list[Conversation], Counter[str]]:
    """Selects conversations that have prefixes to measure.

    Args:
        conversations: Human conversations.
        language: ISO 639-1 code of the user turns; None keeps all.

    Returns:
        The usable conversations in order, and the number of excluded ones by reason.
    """
    measurable, excluded = [], Counter[str]()
    for conversation in conversations:
        reason = _unusable(conversation, language)
        if reason is None:
            measurable.append(conversation)
        else:
            excluded[reason] += 1
    return measurable, excluded


def language_model_prefixes(prefixes: Sequence[Prefix], seed: int, per_conversation: int = 3) -> list[Prefix]:
    """At most `per_conversation` prefixes with a next turn from each conversation, for expensive metrics.

    These are positions 1 and 2, and one later position drawn with `seed`.
    """
    by_conversation: dict[str, list[Prefix]] = {}
    for prefix in prefixes:
        if not prefix.has_left:
            by_conversation.setdefault(prefix.conversation, []).append(prefix)
    subset = []
    for name, own in by_conversation.items():
        early = [prefix for prefix in own if prefix.position <= 2][:per_conversation]
        later = [prefix for prefix in own if prefix.position > 2]
        room = per_conversation - len(early)
        if later and room > 0:
            order = rng_for(seed, f"later prefix {name}").permutation(len(later))[:room]
            early += [later[i] for i in sorted(order)]
        subset += early
    return subset


def stratified(conversations: Sequence[Conversation], n: int, seed: int) -> list[Conversation]:
    """`n` conversations in random order, with equally many per source as far as available."""
    rng = rng_for(seed, "strata")
    by_source: dict[str, list[Conversation]] = {}
    for index in rng.permutation(len(conversations)):
        by_source.setdefault(conversations[index].source, []).append(conversations[index])
    sample: list[Conversation] = []
    while len(sample) < n and any(by_source.values()):
        for source in sorted(by_source):
            if by_source[source] and len(sample) < n:
                sample.append(by_source[source].pop())
    return sample


def _prefix(conversation: Conversation, index: int, text: str | None) -> Prefix:
    position = 1 + sum(turn.role == "user" for turn in conversation.turns[:index])
    return Prefix(
        id=f"{conversation.id}@{position}",
        conversation=conversation.id,
        cluster=person_of(conversation),
        source=conversation.source,
        position=position,
        history=conversation.turns[:index],
        goal=conversation.profile.goal,
        text=text,
    )


def _unusable(conversation: Conversation, language: str | None) -> str | None:
    turns = conversation.turns
    if not turns or turns[0].role != "user":
        return "does not begin with the user"
    if not any(turn.role == "assistant" for turn in turns):
        return "no assistant turn"
    if any(not turn.text.strip() for turn in turns):
        return "an empty turn"
    texts = [turn.text for turn in turns if turn.role == "user"]
    if language is not None and language_of(texts) not in (language, None):
        return f"not in {language}"
    return None
