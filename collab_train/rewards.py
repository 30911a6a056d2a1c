"""R(conversation | goal) = extrinsic + intrinsic, over the window that a candidate reply opens.

The window is the candidate and everything after it. CollabLLM's Eq. 4 without its judge:
intrinsic = -min(λ · tokens, 1), where tokens are what the user reads *and* writes in the window.
A token is a word or a punctuation mark (`count_tokens`), so that assistants with different tokenizers compare.

An extrinsic reward plugs in by name: a function of an `Episode`, and what it needs of a context.

    @extrinsic("short")
    def short(episode: Episode) -> float: ...
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from collab_train.contexts import Context
from collab_train.served import coverage
from usersim.errors import ConfigError, DataError
from usersim.types import Conversation, Turn

TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Episode:
    """One finished future of one candidate."""

    context: Context
    conversation: Conversation

    @property
    def window(self) -> tuple[Turn, ...]:
        return self.conversation.turns[len(self.context.turns) :]


Score = Callable[[Episode], float]
Lacks = Callable[[Context], str | None]


@dataclass(frozen=True)
class Extrinsic:
    score: Score
    lacks: Lacks
    """What a context misses for this reward, in words, or None; asked before anything is spent."""


EXTRINSIC: dict[str, Extrinsic] = {}


def extrinsic(name: str, *, lacks: Lacks = lambda context: None) -> Callable[[Score], Score]:
    def register(score: Score) -> Score:
        EXTRINSIC[name] = Extrinsic(score, lacks)
        return score

    return register


def count_tokens(text: str) -> int:
    """Words and punctuation marks: "Don't panic!" has 5."""
    return len(TOKEN.findall(text))


def intrinsic(window: tuple[Turn, ...], token_penalty: float) -> float:
    return -min(token_penalty * sum(count_tokens(turn.text) for turn in window), 1.0)


def reward(
    episode: Episode, weights: Mapping[str, float], token_penalty: float
) -> tuple[float, dict[str, float]]:
    """R and its components: each extrinsic reward unweighted, `intrinsic`, and `tokens` of the window."""
    components = {name: EXTRINSIC[name].score(episode) for name in weights}
    components["intrinsic"] = intrinsic(episode.window, token_penalty)
    total = sum(weight * components[name] for name, weight in weights.items()) + components["intrinsic"]
    components["tokens"] = float(sum(count_tokens(turn.text) for turn in episode.window))
    return total, components


def check(contexts: list[Context], weights: Mapping[str, float]) -> None:
    """Raises ConfigError for an unknown reward, DataError for a context that cannot be scored by it."""
    for name in weights:
        if name not in EXTRINSIC:
            raise ConfigError(f"rewards.{name}: no such reward; there are {', '.join(sorted(EXTRINSIC))}")
        for context in contexts:
            if lack := EXTRINSIC[name].lacks(context):
                raise DataError(f"context {context.id}: reward {name} needs {lack}")


def _no_facets(context: Context) -> str | None:
    goal = context.profile.goal
    return None if goal and goal.facets else "a goal with facets (profile.goal.facets)"


@extrinsic("facet_coverage", lacks=_no_facets)
def facet_coverage(episode: Episode) -> float:
    """Share of the goal's facets, not yet served in the history, that the assistant serves in the window."""
    goal = episode.context.profile.goal
    if goal is None:
        raise DataError(f"context {episode.context.id}: no goal")
    return coverage(episode.window, episode.context.turns, goal.facets, episode.context.phrases)


@extrinsic("bleu", lacks=lambda context: None if context.reference else "a reference text (reference)")
def bleu(episode: Episode) -> float:
    """Word-level sentence BLEU in [0, 1] (sacrebleu, 13a) of the assistant turn of the window that scores highest.

    The best turn, not the last: a document may be followed by "You're welcome!".
    """
    from sacrebleu import sentence_bleu

    reference = [episode.context.reference or ""]
    said = [turn.text for turn in episode.window if turn.role == "assistant"]
    return max(sentence_bleu(text, reference).score for text in said) / 100
