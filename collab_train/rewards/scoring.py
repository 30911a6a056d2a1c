"""R = extrinsic + intrinsic of one future (CollabLLM, Eq. 4).

    intrinsic = weight · (-min(λ · tokens, 1) + engagement)

Tokens are what the user reads *and* writes in the window: words and punctuation marks (`count_tokens`), so that
assistants with different tokenizers compare. Engagement is R_LLM of the equation: by rules, by the user model, or
by a judge (`engagement_by`).
"""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import AliasChoices, Field

from collab_train.rewards.registry import Episode, Extrinsic, RewardError, Tools, blocking, find
from usersim.chat_models.judge import Judge
from usersim.errors import ConfigError, UsersimError
from usersim.storage.toml_config import Config
from usersim.types import Turn
from usersim.users.protocols import User

TOKEN = re.compile(r"\w+|[^\w\s]")
Scored = tuple[float, dict[str, float]]
"""R and its components: each extrinsic reward unweighted, `intrinsic` with its weight, `tokens` of the window,
and `engagement` unweighted where it counts."""


class RewardConfig(Config):
    rewards: dict[str, float] = Field(default_factory=dict)
    """Extrinsic rewards by name → weight; empty: the task's own."""
    token_penalty: float = Field(default=5e-4, ge=0, validation_alias=AliasChoices("token_penalty", "lambda"))
    """λ: reward lost per token that the user reads or writes in the window; also accepted as `lambda`."""
    engagement: float = Field(default=0.0, ge=0)
    """Weight of engagement in the intrinsic reward."""
    engagement_by: str = "engagement"
    """Which reward measures it: `engagement` (rules), `engagement_lm` (the user model), `interactivity` (a judge)."""
    intrinsic_weight: float = Field(default=1.0, ge=0, le=1)
    """0: extrinsic rewards only."""
    judge: str | None = None
    """URL#MODEL of an OpenAI-compatible endpoint, for the rewards that ask a judge."""
    judge_cache: str | None = None
    """Folder of its answers; the same question is never paid twice."""

    def asked(self, weights: Mapping[str, float]) -> dict[str, float]:
        """`weights` and what the intrinsic reward asks besides: every reward that `check` should look at."""
        engaged = {self.engagement_by: self.engagement} if self.engagement and self.intrinsic_weight else {}
        return {**engaged, **weights}


def count_tokens(text: str) -> int:
    """Words and punctuation marks: "Don't panic!" has 5."""
    return len(TOKEN.findall(text))


def intrinsic(window: Sequence[Turn], token_penalty: float) -> float:
    return -min(token_penalty * sum(count_tokens(turn.text) for turn in window), 1.0)


def open_tools(config: RewardConfig, user: User | None = None) -> Tools:
    """Whoever calls it closes them. The key of the judge is $OPENAI_API_KEY."""
    if config.judge is None:
        return Tools(user=user)
    url, _, model = config.judge.partition("#")
    if not model:
        raise ConfigError(f"judge={config.judge}: name the model as well, URL#MODEL")
    cache = Path(config.judge_cache) if config.judge_cache else None
    return Tools(Judge(url, model, api_key=os.environ.get("OPENAI_API_KEY"), cache=cache), user)


def reward(episode: Episode, weights: Mapping[str, float], token_penalty: float) -> Scored:
    """As `score`, for rewards that wait for nobody; a ConfigError names one that does."""
    values = {name: _known(name, _plain(name, find(name), episode)) for name in weights}
    return _total(episode, values, weights, RewardConfig(token_penalty=token_penalty))


async def score(
    episode: Episode, weights: Mapping[str, float], config: RewardConfig, tools: Tools | None = None
) -> Scored:
    """R of one future. Raises a UsersimError, after which the future is to be left out and counted."""
    names = list(config.asked(weights))
    measured = await asyncio.gather(
        *(_measure(name, episode, tools or Tools()) for name in names), return_exceptions=True
    )
    for value in measured:
        if isinstance(value, BaseException):
            raise value
    values = {name: value for name, value in zip(names, measured, strict=True) if isinstance(value, float)}
    return _total(episode, values, weights, config)


async def _measure(name: str, episode: Episode, tools: Tools) -> float:
    reward = find(name)
    try:
        if reward.waits:
            return _known(name, await reward.score(episode, tools))
        if reward.blocking:
            return _known(name, await blocking(lambda: reward.score(episode)))
        return _known(name, reward.score(episode))
    except UsersimError:
        raise
    except Exception as error:  # a reward of somebody's own: one broken future must not end the run
        raise RewardError(f"rewards.{name}: {type(error).__name__}: {error}") from error


def _plain(name: str, reward: Extrinsic, episode: Episode) -> float:
    if reward.waits:
        raise ConfigError(f"rewards.{name}: it is asynchronous; score it with `await score(...)`")
    return float(reward.score(episode))


def _known(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise RewardError(f"rewards.{name}: not a number ({value})")
    return float(value)


def _total(
    episode: Episode, values: Mapping[str, float], weights: Mapping[str, float], config: RewardConfig
) -> Scored:
    inner = intrinsic(episode.window, config.token_penalty)
    parts = {name: values[name] for name in weights}
    if config.engagement and config.intrinsic_weight:
        engaged = values[config.engagement_by]
        inner += config.engagement * engaged
        parts["engagement"] = engaged
    parts["intrinsic"] = config.intrinsic_weight * inner
    parts["tokens"] = float(sum(count_tokens(turn.text) for turn in episode.window))
    return sum(weight * values[name] for name, weight in weights.items()) + parts["intrinsic"], parts
