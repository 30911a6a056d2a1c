"""Scores of conversations under conditions, kept on disk: an interrupted evaluation goes on where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.likelihood.conditions import Condition, Pass, passes
from eval.likelihood.likelihood import ConversationScore, Scorer, TurnScore
from usersim.chat_models.answer_cache import AnswerCache, key_of
from usersim.rendering.conditioning import style_words
from usersim.stats.estimates import rng_for
from usersim.types import Conversation, UserProfile

Scores = dict[Condition, list[ConversationScore]]
CANDIDATES = 10


@dataclass(frozen=True)
class ScoreBook:
    """A scorer with its memory. `identity` names everything that its scores depend on: weights, rendering, prompt."""

    scorer: Scorer
    identity: dict[str, str]
    cache: AnswerCache

    @classmethod
    def at(cls, folder: Path, scorer: Scorer, **identity: str) -> ScoreBook:
        return cls(scorer, identity, AnswerCache(folder))

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
        key = key_of(
            {
                **self.identity,
                "turns": [turn.model_dump() for turn in conversation.turns],
                "ended_by": conversation.ended_by,
                "profile": profile.model_dump(),
                **_words(profile),
            }
        )
        found = self.cache.get(key)
        if found is None:
            found = dataclasses.asdict(self.scorer.score(conversation, profile))
            self.cache.put(key, found)
        return ConversationScore(tuple(TurnScore(**turn) for turn in found["turns"]), found["closing"])


def _words(profile: UserProfile) -> dict[str, list[str]]:
    """A measured style is put in words before anybody reads it, and the words may change between versions."""
    style = profile.persona and profile.persona.style
    return {"style": style_words(style)} if style else {}


def score_all(
    book: Scorer,
    conversations: Sequence[Conversation],
    conditions: Sequence[Condition],
    seed: int,
    progress: Callable[[], None] | None = None,
) -> Scores:
    scores: Scores = {}
    for condition in conditions:
        scores[condition] = []
        planned = passes(conversations, condition, seed)
        for conversation, steps in zip(conversations, planned, strict=True):
            scores[condition].append(_merged(book, conversation, steps))
            if progress:
                progress()
    return scores


def _merged(book: Scorer, conversation: Conversation, steps: Sequence[Pass]) -> ConversationScore:
    """Every turn from the pass that may count it; the closing from the first."""
    found = [(step, book.score(conversation, step.profile)) for step in steps]
    first = found[0][1]
    turns = [
        next(score.turns[index] for step, score in found if step.parity in (None, index % 2))
        for index in range(len(first.turns))
    ]
    return ConversationScore(tuple(turns), first.closing)


def candidates(
    conversations: Sequence[Conversation], seed: int, count: int = CANDIDATES
) -> list[list[Conversation]]:
    """For each conversation itself and `count` - 1 others, drawn; retrieval has to find the first."""
    rng = rng_for(seed, "candidate goals")
    drawn = []
    for index, own in enumerate(conversations):
        others = [i for i in range(len(conversations)) if i != index]
        chosen = rng.choice(others, size=min(count - 1, len(others)), replace=False)
        drawn.append([own, *(conversations[int(i)] for i in chosen)])
    return drawn


def opening_nats(
    book: Scorer,
    conversations: Sequence[Conversation],
    seed: int,
    progress: Callable[[], None] | None = None,
) -> list[list[float]]:
    """NLL of each real opening under the goals of its candidates, the own one first."""
    rows = []
    for own, group in zip(conversations, candidates(conversations, seed), strict=True):
        opening = _opening(own)
        rows.append([book.score(opening, UserProfile(goal=c.profile.goal)).turns[0].nats for c in group])
        if progress:
            progress()
    return rows


def _opening(conversation: Conversation) -> Conversation:
    first = next(i for i, turn in enumerate(conversation.turns) if turn.role == "user")
    return conversation.model_copy(update={"turns": conversation.turns[: first + 1], "ended_by": "cut"})
