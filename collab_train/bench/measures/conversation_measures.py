"""Measures of one conversation: its reward and the effort of the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import Field

from collab_train.rewards import Episode, RewardConfig, Tools, count_tokens, score
from usersim.errors import UsersimError
from usersim.text.reply_acts import questions
from usersim.text.style import count_words
from usersim.types import Record


class Measure(NamedTuple):
    label: str
    better: int
    """+1: higher is better; -1: lower is better; 0: neither."""
    digits: int


MEASURES = {
    "score": Measure("task score", 1, 3),
    "reward": Measure("R", 1, 3),
    "tokens": Measure("tokens", -1, 0),
    "assistant_tokens": Measure("of the assistant", -1, 0),
    "question_rate": Measure("questions", 0, 2),
    "user_words": Measure("user words", -1, 1),
    "user_turns": Measure("user turns", 0, 2),
    "user_left": Measure("user left", 0, 2),
    "interactivity": Measure("interactivity (judge)", 1, 2),
}


class Measures(Record):
    score: float
    """Weighted extrinsic rewards of the task, over everything after the opening."""
    reward: float
    """Reward R of the whole conversation: score plus intrinsic reward (`rewards.scoring`)."""
    tokens: float
    """Words and punctuation marks that the user reads and writes after the opening."""
    assistant_tokens: float
    """The tokens among them that the user reads."""
    question_rate: float
    """Share of the assistant's turns that ask a question about the subject. Offers of help do not count."""
    user_words: float
    user_turns: float
    user_left: float
    """1 if the user ended the conversation, 0 if the turn cap did."""
    interactivity: float | None = None
    """Judge's rating in [0, 1]; None without a judge or its answer."""
    components: dict[str, float] = Field(default_factory=dict)

    def value(self, name: str) -> float | None:
        measured: float | None = getattr(self, name)
        return measured


async def measure(
    episode: Episode, weights: Mapping[str, float], config: RewardConfig, tools: Tools
) -> Measures:
    """Measures one conversation. If the judge fails, only `interactivity` is missing.

    Raises:
        UsersimError: the conversation cannot be scored.
    """
    reward, components = await score(episode, weights, config, tools)
    user_texts = [turn.text for turn in episode.window if turn.role == "user"]
    return Measures(
        score=sum(weight * components[name] for name, weight in weights.items()),
        reward=reward,
        tokens=components["tokens"],
        assistant_tokens=sum(map(count_tokens, episode.replies)),
        question_rate=sum(bool(questions(text)) for text in episode.replies) / len(episode.replies),
        user_words=sum(map(count_words, user_texts)),
        user_turns=len(user_texts),
        user_left=float(episode.conversation.ended_by == "user"),
        interactivity=await _judged(episode, config, tools),
        components=components,
    )


async def _judged(episode: Episode, config: RewardConfig, tools: Tools) -> float | None:
    if tools.judge is None:
        return None
    without_engagement = config.model_copy(update={"engagement": 0.0})
    try:
        return (await score(episode, {"interactivity": 1.0}, without_engagement, tools))[1]["interactivity"]
    except UsersimError:
        return None
