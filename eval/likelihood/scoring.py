"""Scores of conversations under conditions, cached on disk so that an interrupted evaluation resumes."""

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
    """Scorer with a cache on disk.

    Attributes:
        scorer: Scorer of missing conversations.
        cache_keys: Everything that the scores depend on: weights, rendering, prompt.
        cache: Cached scores.
    """

    scorer: Scorer
    cache_keys: dict[str, str]
    cache: AnswerCache

    @classmethod
    def at(cls, folder: Path, scorer: Scorer, **cache_keys: str) -> ScoreBook:
        return cls(scorer, cache_keys, AnswerCache(folder))

    def score(self, conversation: Conversation, profile: UserProfile) -> ConversationScore:
        key = key_of(
            {
                **self.cache_keys,
                "turns": [turn.model_dump() for turn in conversation.turns],
                "ended_by": conversation.ended_by,
                "profile": profile.model_dump(),
                **_style_key(profile),
            }
        )
        stored = self.cache.get(key)
        if stored is None:
            stored = dataclasses.asdict(self.scorer.score(conversation, profile))
            self.cache.put(key, stored)
        return ConversationScore(tuple(TurnScore(**turn) for turn in stored["turns"]), stored["closing"])


def _style_key(profile: UserProfile) -> dict[str, list[str]]:
    """Part of the cache key: the model reads a style in words, and the words may change between versions."""
    style = profile.persona and profile.persona.style
    return {"style": style_words(style)} if style else {}


def score_all(
    book: Scorer,
    conversations: Sequence[Conversation],
    conditions: Sequence[Condition],
    seed: int,
    progress: Callable[[], None] | None = None,
) -> Scores:
    """Scores every conversation under every condition; `progress` is called after each of them."""
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
    """Score with every turn from the pass that counts it, and the closing from the first pass."""
    scores = [(step, book.score(conversation, step.profile)) for step in steps]
    first = scores[0][1]
    turns = [
        next(score.turns[index] for step, score in scores if step.parity in (None, index % 2))
        for index in range(len(first.turns))
    ]
    return ConversationScore(tuple(turns), first.closing)


def candidates(
    conversations: Sequence[Conversation], seed: int, count: int = CANDIDATES
) -> list[list[Conversation]]:
    """Returns for each conversation a list of itself, then `count` - 1 random others: candidates of goal retrieval."""
    rng = rng_for(seed, "candidate goals")
    groups = []
    for index, own in enumerate(conversations):
        others = [i for i in range(len(conversations)) if i != index]
        chosen = rng.choice(others, size=min(count - 1, len(others)), replace=False)
        groups.append([own, *(conversations[int(i)] for i in chosen)])
    return groups


def opening_nats(
    book: Scorer,
    conversations: Sequence[Conversation],
    seed: int,
    progress: Callable[[], None] | None = None,
) -> list[list[float]]:
    """Returns the negative log-likelihood of each real opening under the goals of its candidates, its own first."""
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
