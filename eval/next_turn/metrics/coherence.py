"""Coherence of a turn with its own history, last answer and goal, as a contrast with another conversation's.

0 means that the turn fits any conversation equally well. Values above people's come from simulators that repeat the
context. Two unrelated scorers measure every contrast, because a claim needs both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eval.next_turn.metrics.chat_contexts import ChatRendering, TurnContext
from eval.next_turn.metrics.language_model import LanguageModelScorer, Progress
from eval.next_turn.metrics.values import MetricSpec, Positions, TurnMetric, Values, at_positions
from eval.next_turn.prefixes import Prefix, language_model_prefixes
from usersim.rendering.conditioning import describe
from usersim.stats.estimates import Floats
from usersim.text.embeddings import embed
from usersim.types import Goal, Turn, UserProfile

Part = Literal["history", "answer", "goal"]
Embed = Callable[[Sequence[str]], NDArray[Any]]

PARTS: dict[Part, Positions] = {"history": "2+", "answer": "2+", "goal": "all"}
"""Parts of the context, and the user turns at which each exists."""
LABELS = {"history": "the history", "answer": "the last answer", "goal": "the goal"}
MOST_NATS = 50.0
"""Bound on the absolute contrast of one turn under a language model, in nats.

A long paste that quotes the history differs by hundreds of nats from one that does not. Without the bound such turns
would dominate a mean over a few hundred turns.
"""


@dataclass(frozen=True)
class Contexts:
    """Other conversation of every prefix, the same for people and all simulators.

    Attributes:
        histories: By prefix id: a prefix of another person at a similar position.
        goals: By prefix id: the goal of another person.
        scored: Ids of the prefixes that language models score.

    Other conversations are of the same source if possible.
    """

    histories: Mapping[str, Prefix]
    goals: Mapping[str, Goal]
    scored: frozenset[str]

    @classmethod
    def of(cls, prefixes: Sequence[Prefix], seed: int, per_conversation: int = 3) -> Contexts:
        """Draws the other conversations; language models score at most `per_conversation` prefixes of each."""
        costly = language_model_prefixes(prefixes, seed, per_conversation)
        histories = {
            # Among themselves where that is possible: a context then serves as own and as another's history.
            **_partners([p for p in prefixes if p.history], seed, "history"),
            **_partners([p for p in costly if p.history], seed, "history"),
        }
        with_goal = {p.conversation: p for p in reversed(prefixes) if p.goal is not None}
        others = _partners(list(with_goal.values()), seed, "goal")
        goals = {}
        for prefix in prefixes:
            own = with_goal.get(prefix.conversation)
            other = others.get(own.id) if own else None
            if prefix.goal is not None and other and other.goal:
                goals[prefix.id] = other.goal
        return cls(histories, goals, frozenset(prefix.id for prefix in costly))

    def is_defined(self, part: Part, prefix: Prefix) -> bool:
        return prefix.id in (self.goals if part == "goal" else self.histories)

    def other_history(self, part: Part, prefix: Prefix) -> tuple[Turn, ...]:
        """Returns the other conversation's history, or the own history with the other's last answer."""
        other = self.histories[prefix.id].history
        return other if part == "history" else (*prefix.history[:-1], other[-1])


class Coherence(TurnMetric):
    """Contrasts `coherence.{history,answer,goal}.{lm,embedding}`.

    `lm`: log p(turn | own) - log p(turn | other) in nats per turn, clipped to ±`MOST_NATS`. `embedding`: cosine of the
    turn with its own context minus cosine with the other; a history is the mean vector of its turns.

    Args:
        scorer: Language model; None skips its metrics.
        contexts: Other conversations.
        embedding: Unit vectors of texts; None skips its metrics.
    """

    def __init__(
        self, scorer: LanguageModelScorer | None, contexts: Contexts, embedding: Embed | None = embed
    ) -> None:
        self.scorer, self.contexts, self.embedding = scorer, contexts, embedding
        self._rendered: dict[tuple[str, str], TurnContext] = {}
        self._vectors: dict[str, Floats] = {}

    @property
    def specs(self) -> Sequence[MetricSpec]:
        return [
            MetricSpec(
                key=key,
                group="coherence",
                label=f"fits {LABELS[part]} better than another conversation's",
                unit="nats a turn" if scorer == "lm" else "cosine",
                positions=positions,
                scorer=scorer,
            )
            for scorer in self._scorers()
            for part in PARTS
            for key, positions in _keys(part, scorer)
        ]

    def prepare(
        self,
        prefixes: Sequence[Prefix],
        texts: Mapping[str, Sequence[str]],
        progress: Progress | None = None,
    ) -> None:
        """Scores the texts of all speakers under the language model; each context is read once.

        Includes the scores that `fluency.lm` needs. `values` then reads cached scores.
        """
        if self.scorer is not None:
            pairs = [
                (context, text)
                for own in texts.values()
                for prefix, text in zip(prefixes, own, strict=True)
                for context in self._contexts(prefix)
            ]
            self.scorer.score(pairs, progress)

    def values(self, prefixes: Sequence[Prefix], texts: Sequence[str]) -> dict[str, Values]:
        contrasts = {"lm": self._nats, "embedding": self._cosines}
        values = {}
        for scorer in self._scorers():
            for part in PARTS:
                whole = Values.of(contrasts[scorer](part, prefixes, texts))
                for key, positions in _keys(part, scorer):
                    values[key] = whole.at(at_positions(prefixes, positions))
        return values

    def own_context(self, prefix: Prefix) -> TurnContext:
        """Returns the history of a prefix as context; at position 1 only the header of a user turn."""
        return self._render("own history", prefix, lambda r: r.history(prefix.history))

    def _scorers(self) -> list[str]:
        return [
            name for name, part in (("lm", self.scorer), ("embedding", self.embedding)) if part is not None
        ]

    def _contexts(self, prefix: Prefix) -> Iterable[TurnContext]:
        """All contexts in which a turn at this prefix is scored."""
        if prefix.id in self.contexts.scored:
            yield self.own_context(prefix)
            for part in PARTS:
                if self.contexts.is_defined(part, prefix):
                    yield from self._pair(part, prefix)

    def _pair(self, part: Part, prefix: Prefix) -> tuple[TurnContext, TurnContext]:
        """(own context, other context)."""
        if part != "goal":
            other = self._render(part, prefix, lambda r: r.history(self.contexts.other_history(part, prefix)))
            return self.own_context(prefix), other
        return (
            self._render("own goal", prefix, lambda r: r.system_message(_in_words(prefix.goal))),
            self._render(
                "goal", prefix, lambda r: r.system_message(_in_words(self.contexts.goals[prefix.id]))
            ),
        )

    def _render(
        self, kind: str, prefix: Prefix, render: Callable[[ChatRendering], TurnContext]
    ) -> TurnContext:
        assert self.scorer is not None
        key = kind, prefix.id
        if key not in self._rendered:
            self._rendered[key] = render(self.scorer.rendering)
        return self._rendered[key]

    def _nats(self, part: Part, prefixes: Sequence[Prefix], texts: Sequence[str]) -> list[float | None]:
        assert self.scorer is not None
        places = [
            place
            for place, prefix in enumerate(prefixes)
            if prefix.id in self.contexts.scored and self.contexts.is_defined(part, prefix)
        ]
        pairs = [(context, texts[place]) for place in places for context in self._pair(part, prefixes[place])]
        nats = [score.nats for score in self.scorer.score(pairs)]
        contrasts: list[float | None] = [None] * len(prefixes)
        for place, own, other in zip(places, nats[::2], nats[1::2], strict=True):
            contrasts[place] = float(np.clip(other - own, -MOST_NATS, MOST_NATS))
        return contrasts

    def _cosines(self, part: Part, prefixes: Sequence[Prefix], texts: Sequence[str]) -> list[float | None]:
        places = [place for place, prefix in enumerate(prefixes) if self.contexts.is_defined(part, prefix)]
        sides = [self._sides(part, prefixes[place]) for place in places]
        self._embed([text for pair in sides for side in pair for text in side])
        self._embed([texts[place] for place in places])
        contrasts: list[float | None] = [None] * len(prefixes)
        for place, (own, other) in zip(places, sides, strict=True):
            contrasts[place] = float(
                self._vectors[_digest(texts[place])] @ (self._mean(own) - self._mean(other))
            )
        return contrasts

    def _sides(self, part: Part, prefix: Prefix) -> tuple[list[str], list[str]]:
        """(own texts, texts of the other conversation)."""
        if part == "goal":
            return [_in_words(prefix.goal)], [_in_words(self.contexts.goals[prefix.id])]
        own, other = prefix.history, self.contexts.histories[prefix.id].history
        if part == "answer":
            own, other = own[-1:], other[-1:]
        return [turn.text for turn in own], [turn.text for turn in other]

    def _embed(self, texts: Sequence[str]) -> None:
        assert self.embedding is not None
        missing = {digest: text for text in texts if (digest := _digest(text)) not in self._vectors}
        if missing:
            vectors = np.asarray(self.embedding(list(missing.values())), dtype=np.float64)
            self._vectors.update(zip(missing, vectors, strict=True))

    def _mean(self, texts: Sequence[str]) -> Floats:
        """Unit vector of the mean."""
        mean = np.mean([self._vectors[_digest(text)] for text in texts], axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


def _keys(part: Part, scorer: str) -> list[tuple[str, Positions]]:
    key = f"coherence.{part}.{scorer}"
    return [(key, PARTS[part]), *([(f"{key}.3+", "3+")] if part == "history" else [])]  # type: ignore[list-item]


def _in_words(goal: Goal | None) -> str:
    return describe(UserProfile(goal=goal))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _partners(prefixes: Sequence[Prefix], seed: int, purpose: str) -> dict[str, Prefix]:
    """Prefix of another person at a similar position for each prefix, of the same source if possible.

    The prefixes of a source form a ring in which neighbours have similar positions. Each takes the next one of another
    person; without another person it has none. The order depends only on the prefixes' ids. So a source keeps its
    partners, and their cached scores, whether it is measured alone or with others.
    """
    partners: dict[str, Prefix] = {}
    order = sorted(prefixes, key=lambda prefix: (prefix.position, _digest(f"{seed} {purpose} {prefix.id}")))
    sources = sorted({prefix.source for prefix in order})
    for ring in (order, *([p for p in order if p.source == source] for source in sources)):
        # Every second one up, the rest down: the last and the first are neighbours too.
        ring = ring[::2] + ring[1::2][::-1]
        for place, prefix in enumerate(ring):
            others = (*ring[place + 1 :], *ring[:place])
            other = next((o for o in others if _is_other(o, prefix, purpose)), None)
            if other is not None:
                partners[prefix.id] = other
    return partners


def _is_other(candidate: Prefix, prefix: Prefix, purpose: str) -> bool:
    if candidate.cluster == prefix.cluster:
        return False
    return candidate.goal != prefix.goal if purpose == "goal" else candidate.answer != prefix.answer
