"""Reward R = extrinsic + intrinsic of one future (CollabLLM, Eq. 4).

    intrinsic = weight · (-min(λ · tokens, 1) + engagement)

Tokens are the words and punctuation marks that the user reads *and* writes in the window (`count_tokens`), so that
assistants with different tokenizers compare. Engagement is R_LLM of the equation, measured by rules, by the user model
or by a judge (`engagement_by`).
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
"""R and its components: unweighted extrinsic rewards, weighted `intrinsic`, `tokens` of the window, and unweighted
`engagement` if it has a weight."""


class RewardConfig(Config):
    rewards: dict[str, float] = Field(default_factory=dict)
    """Weights of the extrinsic rewards, by name. Empty: those of the task."""
    token_penalty: float = Field(default=5e-4, ge=0, validation_alias=AliasChoices("token_penalty", "lambda"))
    """λ: reward lost per token that the user reads or writes in the window; alias `lambda`."""
    engagement: float = Field(default=0.0, ge=0)
    """Weight of engagement in the intrinsic reward."""
    engagement_by: str = "engagement"
    """Reward that measures engagement: `engagement` (rules), `engagement_lm` (user model), `interactivity` (judge)."""
    intrinsic_weight: float = Field(default=1.0, ge=0, le=1)
    """Weight of the intrinsic reward. 0: extrinsic rewards only."""
    judge: str | None = None
    """URL#MODEL of an OpenAI-compatible endpoint, for rewards that call a judge."""
    judge_cache: str | None = None
    """Folder of cached judge answers. Repeated questions cost nothing."""

    def required_rewards(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Returns `weights` plus the reward that measures engagement: every reward that `check` must see."""
        engagement_weight = (
            {self.engagement_by: self.engagement} if self.engagement and self.intrinsic_weight else {}
        )
        return {**engagement_weight, **weights}


def count_tokens(text: str) -> int:
    """Counts words and punctuation marks: "Don't panic!" has 5."""
    return len(TOKEN.findall(text))


def intrinsic(window: Sequence[Turn], token_penalty: float) -> float:
    return -min(token_penalty * sum(count_tokens(turn.text) for turn in window), 1.0)


def open_tools(config: RewardConfig, user: User | None = None) -> Tools:
    """Opens the judge of the config. The caller closes it. Its API key is $OPENAI_API_KEY."""
    if config.judge is None:
        return Tools(user=user)
    url, _, model = config.judge.partition("#")
    if not model:
        raise ConfigError(f"judge={config.judge}: no model; use URL#MODEL")
    cache = Path(config.judge_cache) if config.judge_cache else None
    return Tools(Judge(url, model, api_key=os.environ.get("OPENAI_API_KEY"), cache=cache), user)


def reward(episode: Episode, weights: Mapping[str, float], token_penalty: float) -> Scored:
    """Synchronous `score`, for synchronous rewards only.

    Raises:
        ConfigError: a reward is asynchronous.
    """
    values = {name: _finite(name, _sync_score(name, find(name), episode)) for name in weights}
    return _total(episode, values, weights, RewardConfig(token_penalty=token_penalty))


async def score(
    episode: Episode, weights: Mapping[str, float], config: RewardConfig, tools: Tools | None = None
) -> Scored:
    """Returns R of one future and its components.

    Raises:
        UsersimError: the future cannot be scored; leave it out and count it.
    """
    names = list(config.required_rewards(weights))
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
        if reward.is_async:
            return _finite(name, await reward.score(episode, tools))
        if reward.blocking:
            return _finite(name, await blocking(lambda: reward.score(episode)))
        return _finite(name, reward.score(episode))
    except UsersimError:
        raise
    except (
        Exception
    ) as error:  # user-defined rewards may raise anything: one failed future must not end the run
        raise RewardError(f"rewards.{name}: {type(error).__name__}: {error}") from error


def _sync_score(name: str, reward: Extrinsic, episode: Episode) -> float:
    if reward.is_async:
        raise ConfigError(f"rewards.{name}: asynchronous reward; score it with `await score(...)`")
    return float(reward.score(episode))


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise RewardError(f"rewards.{name}: not a number ({value})")
    return float(value)


def _total(
    episode: Episode, values: Mapping[str, float], weights: Mapping[str, float], config: RewardConfig
) -> Scored:
    unweighted_intrinsic = intrinsic(episode.window, config.token_penalty)
    components = {name: values[name] for name in weights}
    if config.engagement and config.intrinsic_weight:
        engagement = values[config.engagement_by]
        unweighted_intrinsic += config.engagement * engagement
        components["engagement"] = engagement
    components["intrinsic"] = config.intrinsic_weight * unweighted_intrinsic
    components["tokens"] = float(sum(count_tokens(turn.text) for turn in episode.window))
    return sum(weight * values[name] for name, weight in weights.items()) + components[
        "intrinsic"
    ], components
